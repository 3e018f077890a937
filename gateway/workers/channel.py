"""The messages between the node and a worker, over a socket pair.

Each message is a length (4 bytes, big-endian) and MessagePack. A worker whose channel closes has lost the node: it
finishes its requests and exits.
"""

import asyncio
from typing import Final

import msgspec

from gateway.decide.engine_fields import FieldPolicy
from gateway.decide.route import EngineState
from gateway.engine_address import Access
from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest
from gateway.observe.engine_counts import PlacementCounts
from gateway.observe.ledger import Cell
from gateway.observe.mirror_counts import MirrorCounts
from gateway.observe.tally import Tally
from gateway.observe.units import Outcomes
from gateway.receive.limits import Limits
from gateway.receive.rates import Spendings
from gateway.records.feedback import About, Feedback, RequestKey


class Configure(msgspec.Struct, tag="configure", frozen=True, kw_only=True):
    """To a worker, first: its settings, each engine's key and certificates, and its first route table."""

    limits: Limits
    connect_seconds: float
    drain_seconds: float
    certificate: str | None
    private_key: str | None
    table: bytes
    mirror: Bounds = Bounds()
    allowed_origins: tuple[str, ...] = ()
    access: dict[str, Access] = {}
    engine_fields: FieldPolicy = FieldPolicy()
    host_names: tuple[str, ...] = ()


class NewTable(msgspec.Struct, tag="table", frozen=True):
    """To a worker: use this route table from now on."""

    number: int
    table: bytes


class Start(msgspec.Struct, tag="start", frozen=True):
    """To a configured worker: accept connections. It has been sent every table up to now."""


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """To a worker: the gateway is about to stop. Serve on, but close each connection after its next reply."""


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """To a worker: give a sign of life (`Pong`)."""


class NewEngines(msgspec.Struct, tag="engines", frozen=True):
    """To a worker: the route table's engines from now on, as a version was loaded or unloaded."""

    engines: tuple[EngineState, ...]


class Supplied(msgspec.Struct, tag="supplied", frozen=True):
    """To a worker: the version that it wanted is ready, or `problem` says why it is not.

    `was_there`: the engine that had answered 404 for the version has had it all along.
    """

    version: str
    problem: str | None
    was_there: bool


class Spent(msgspec.Struct, tag="spent", frozen=True):
    """From a worker: what it has admitted under rate limits since its last report; to a worker: what others have."""

    spendings: Spendings


class Collect(msgspec.Struct, tag="collect", frozen=True):
    """To a worker: send a `WorkerReport`."""

    number: int


class Configured(msgspec.Struct, tag="configured", frozen=True):
    """From a worker: it has read its configuration, and will confirm every table that it is sent from now on."""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """From a worker: it accepts connections."""


class Leaving(msgspec.Struct, tag="leaving", frozen=True):
    """From a worker: it accepts no more connections, and exits when it has served those that it has."""


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """From a worker: it has read all messages up to the ping, and its chores run."""


class Applied(msgspec.Struct, tag="applied", frozen=True):
    """From a worker: it decides every request from now on by table `number`."""

    number: int


class TableRefused(msgspec.Struct, tag="refused", frozen=True):
    """From a worker: it cannot read table `number`; for a few seconds it serves from the previous one."""

    number: int


class Want(msgspec.Struct, tag="want", frozen=True):
    """From a worker: requests wait for this version; `missing_at` is an engine that answered 404 for it.

    `recent` are the versions used since the worker's last report, with the time of the last request in monotonic
    seconds (a clock that all processes of a machine share).
    """

    version: str
    missing_at: str | None
    recent: dict[str, float]


class Used(msgspec.Struct, tag="used", frozen=True):
    """From a worker: `recent`, as in `Want`, when no version is wanted."""

    recent: dict[str, float]


class WorkerReport(msgspec.Struct, tag="report", frozen=True):
    """From a worker: its counts since it started, and the `outcomes` since its last report.

    It answers `Collect` with the same number; a worker that ends sends one unasked, with number 0.
    """

    number: int
    cells: list[Cell]
    placement: PlacementCounts
    tallies: list[Tally] = []
    outcomes: list[Outcomes] = []
    mirror: MirrorCounts = msgspec.field(default_factory=MirrorCounts)


class Mirrored(msgspec.Struct, tag="mirrored", frozen=True):
    """From a worker: requests that it has copied for evaluators."""

    copies: list[CapturedRequest]


class FeedbackGiven(msgspec.Struct, tag="heard", frozen=True):
    """From a worker: a caller's feedback on a reply."""

    feedback: Feedback


class Recall(msgspec.Struct, tag="recall", frozen=True):
    """To a worker: look up which versions and arms served these requests."""

    number: int
    wanted: tuple[RequestKey, ...]


class Recalled(msgspec.Struct, tag="recalled", frozen=True):
    """From a worker: what served each request that it remembers; answers `Recall`."""

    number: int
    about: dict[RequestKey, About]


ToWorker = Configure | Start | Leave | Ping | NewTable | NewEngines | Supplied | Spent | Collect | Recall
FromWorker = (
    Configured
    | Ready
    | Leaving
    | Pong
    | Applied
    | TableRefused
    | Want
    | Used
    | Spent
    | WorkerReport
    | Mirrored
    | FeedbackGiven
    | Recalled
)

_LENGTH_BYTES: Final = 4
_TO_WORKER: Final = msgspec.msgpack.Decoder(ToWorker)
_FROM_WORKER: Final = msgspec.msgpack.Decoder(FromWorker)


def write(writer: asyncio.StreamWriter, message: ToWorker | FromWorker) -> None:
    """Send a message."""
    body = msgspec.msgpack.encode(message)
    writer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


async def read_as_worker(reader: asyncio.StreamReader) -> ToWorker | None:
    """Return the node's next message; None when its end of the channel is closed."""
    body = await _frame(reader)
    return None if body is None else _TO_WORKER.decode(body)


async def read_from_worker(reader: asyncio.StreamReader) -> FromWorker | None:
    """Return a worker's next message; None when its end of the channel is closed."""
    body = await _frame(reader)
    return None if body is None else _FROM_WORKER.decode(body)


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
