"""What every client connection of a worker shares; built once, in `gateway/app.py`."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.decide.route import RouteTable
from gateway.mirror.feedback import Feedback
from gateway.observe.ledger import Ledger
from gateway.observe.tally import Tallies
from gateway.ports import Engines, Supply
from gateway.receive.limits import Limits
from gateway.receive.placing import Placing
from gateway.receive.rates import WorkerRates
from gateway.receive.recent import Recent
from gateway.receive.tap import Taps

# A client's own request id is used if it is short and harmless in a header and a log line.
LONGEST_REQUEST_ID: Final = 128


class RequestIds:
    """Request ids: the client's own, or ours.

    Args:
        prefix: Unique to this worker process, at least 64 random bits in hex.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._numbers = itertools.count(1)

    def of(self, given: bytes | None) -> bytes:
        """Return `given` if it can serve, else a new id."""
        if given and len(given) <= LONGEST_REQUEST_ID and given.isascii() and not given.translate(None, _SAFE):
            return given
        return b"req-%b-%x" % (self._prefix, next(self._numbers))


_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """The worker's parts, as seen from a connection. `table` returns the current route table."""

    table: Callable[[], RouteTable]
    engines: Engines
    supply: Supply
    ledger: Ledger
    limits: Limits
    placing: Placing
    ids: RequestIds
    clock: Callable[[], float]  # Unix seconds, for keys that expire
    rates: WorkerRates
    tallies: Tallies
    taps: Taps
    recent: Recent
    # Takes feedback over, to be told to the node; False if there is no room for it now.
    hear: Callable[[Feedback], bool]
    # Engine URL → its `system_fingerprint` as JSON, learned from streams and forgotten when it is lost.
    fingerprints: dict[str, bytes]
