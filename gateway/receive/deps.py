"""The parts that all client connections of a worker share; built once, in `gateway/app.py`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.decide.route import RouteTable
from gateway.observe.ledger import Ledger
from gateway.observe.tally import Tallies
from gateway.ports import Engines, Supply
from gateway.receive.body_memory import BodyMemory
from gateway.receive.body_reading import BodyReadings
from gateway.receive.cross_origin import CrossOrigin
from gateway.receive.engine_fields import EngineFields
from gateway.receive.feedback_rates import FeedbackRates
from gateway.receive.known_callers import KnownCallers
from gateway.receive.limits import Limits
from gateway.receive.placing import Placing
from gateway.receive.rates import WorkerRates
from gateway.receive.recent_requests import RecentRequests
from gateway.receive.tap import Taps
from gateway.records.feedback import OWN_ID, Feedback

# A client's own request id is used if it is short and harmless in a header and a log line.
MAX_REQUEST_ID: Final = 128


class RequestIds:
    """Request ids: the client's own `x-request-id`, or one that the gateway makes.

    The gateway's have 128 random bits, since anyone who could guess an id could send it as their own, or give feedback
    on its reply. They are made in batches: one system call for each id would cost more than everything else here.
    """

    def __init__(self) -> None:
        self._fresh: list[bytes] = []

    def of(self, client_id: bytes | None) -> bytes:
        """Return `client_id` if it is usable and does not look like one of the gateway's own, else a new id."""
        if (
            client_id
            and len(client_id) <= MAX_REQUEST_ID
            and client_id.isascii()
            and not client_id.translate(None, _SAFE)
            and client_id[: len(_OWN)].lower() != _OWN
        ):
            return client_id
        if not self._fresh:
            # A few string operations for the whole batch: one line of hex digits an id, the prefix put before each.
            lines = os.urandom(_ID_BYTES * _AT_ONCE).hex("\n", _ID_BYTES)
            self._fresh = (OWN_ID + lines.replace("\n", f"\n{OWN_ID}")).encode().split(b"\n")
        return self._fresh.pop()


_OWN: Final = OWN_ID.encode()
_ID_BYTES: Final = 16
_AT_ONCE: Final = 256
_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """The worker's parts, as a connection sees them. `table` returns the current route table."""

    table: Callable[[], RouteTable]
    engines: Engines
    supply: Supply
    ledger: Ledger
    limits: Limits
    placing: Placing
    ids: RequestIds
    clock: Callable[[], float]  # Unix seconds; for keys that expire
    callers: KnownCallers
    rates: WorkerRates
    tallies: Tallies
    taps: Taps
    recent: RecentRequests
    engine_fields: EngineFields
    # Sends feedback to the node; False if the channel has no room for it now.
    submit_feedback: Callable[[Feedback], bool]
    # Engine URL → its `system_fingerprint` as JSON, read from streams; removed when the engine is lost.
    fingerprints: dict[str, bytes]
    body_memory: BodyMemory
    # Whether the gateway is about to stop: then no connection is kept beyond its next reply.
    is_leaving: Callable[[], bool] = lambda: False
    # Which web pages may call (CORS); None: none may.
    cross_origin: CrossOrigin | None = None
    readings: BodyReadings = field(default_factory=BodyReadings)
    # `Host` names that a gateway without keys accepts, besides those of its own machine.
    host_names: frozenset[str] = frozenset()
    feedback_rates: FeedbackRates = field(default_factory=FeedbackRates)
