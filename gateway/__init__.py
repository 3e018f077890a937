"""Loragate: who is served what, and taking it back. The story of a request:

receive/protocol.py      bytes become a request; limits, time-outs, pipelining
receive/endpoints.py     is this a path we serve?
decide/authenticate.py   whose key is it?
receive/wire.py          which model does the body ask for?
pipeline.py              the decisions below, in one function
decide/route.py          what does that name mean?
decide/assign.py         which arm does this caller's unit belong to?
decide/place.py          which engine has the version ready and the least to do?
receive/exchange.py      sent there; once more elsewhere if it fails in time
serve/upstream.py        over a pooled connection, and the reply streams back
serve/sse.py             event by event, its usage read on the way
observe/ledger.py        and counted
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("loragate")
except PackageNotFoundError:  # run from a folder that is not installed
    __version__ = "0+unknown"
