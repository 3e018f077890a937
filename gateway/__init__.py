"""Loragate: which version of a LoRA adapter serves which caller, and how to roll that back. The way of a request:

receive/protocol.py      bytes become a request; limits, time-outs, pipelining
openai/endpoints.py      is the path served?
decide/authenticate.py   whose key is it?
openai/body.py           which model does the body name?
receive/request.py       the complete request
pipeline.py              the next three decisions, in one function
decide/route.py          what does the model name mean?
decide/assign.py         which arm does the caller's unit belong to?
decide/place.py          which engine has the version ready and the least load?
receive/exchange.py      sends it there; retries once elsewhere; parks it while its version is being loaded
workers/supply.py        the worker asks the node for the version, once for all waiting requests
serve/fleet.py           the node has it loaded, on an engine that should hold it
serve/upstream.py        pooled connections to engines
serve/sse.py             the reply's events stream back, and their usage is read
observe/ledger.py        the metrics

The way of an adapter begins in admin/adapters/operations.py and goes on in the package `adapters`; ARCHITECTURE.md has
both, and more.
"""


def __getattr__(name: str) -> str:
    # `__version__` is read lazily: reading the package's metadata would slow every worker's start.
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("loragate")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "0+unknown"
