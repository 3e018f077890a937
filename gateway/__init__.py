"""Loragate: who is served what, and taking it back. The story of a request:

receive/protocol.py      bytes become a request; limits, time-outs, pipelining
openai/endpoints.py      is this a path we serve?
decide/authenticate.py   whose key is it?
openai/body.py           which model does the body ask for?
receive/request.py       the request, complete, and the model that it means
pipeline.py              the decisions below, in one function
decide/route.py          what does that name mean?
decide/assign.py         which arm does this caller's unit belong to?
decide/place.py          which engine has the version ready and the least to do?
receive/exchange.py      sent there; once more elsewhere if it fails in time; parked until its version is loaded
workers/supply.py        which the worker asks the node for, once for all who wait
serve/fleet.py           and the node has done, on an engine that should hold it
serve/upstream.py        over a pooled connection, and the reply streams back
serve/sse.py             event by event, its usage read on the way
observe/ledger.py        and counted

That of an adapter begins in admin/adapters/operations.py and goes on in the package `adapters`;
ARCHITECTURE.md has both, and more.
"""


def __getattr__(name: str) -> str:
    # `__version__`, when it is asked for: every worker would pay for reading the package's metadata.
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("loragate")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "0+unknown"
