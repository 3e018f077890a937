"""Messages between the control plane and a worker, over a socket pair.

Each is a length (4 bytes, big-endian) and MessagePack. A worker whose channel closes has
lost its parent: it finishes what it has and goes.
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
from gateway.records.feedback import About, Feedback, Named


class Configure(msgspec.Struct, tag="configure", frozen=True, kw_only=True):
    """To a worker, first: how to work, what opens each engine, and the route table to begin with."""

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
    """To a worker: serve from this from now on."""

    number: int
    table: bytes


class Start(msgspec.Struct, tag="start", frozen=True):
    """To a worker that is configured: it has been sent every table until now, so it may accept connections."""


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """To a worker: the gateway is about to stop. Serve as before, but keep no connection beyond its next reply."""


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """To a worker: say that you hear."""


class NewEngines(msgspec.Struct, tag="engines", frozen=True):
    """To a worker: the table's engines are these from now on; a version came or went."""

    engines: tuple[EngineState, ...]


class Supplied(msgspec.Struct, tag="supplied", frozen=True):
    """To a worker: the version it wanted is ready, or `problem` says why it is not.

    `was_there`: the engine that was said to have lost it has had it all along.
    """

    version: str
    problem: str | None
    was_there: bool


class Spent(msgspec.Struct, tag="spent", frozen=True):
    """From a worker: what it has let in under limits since it last said so; to a worker: what the others have."""

    spendings: Spendings


class Collect(msgspec.Struct, tag="collect", frozen=True):
    """To a worker: report your counts."""

    number: int


class Configured(msgspec.Struct, tag="configured", frozen=True):
    """From a worker: it has read its configuration, and confirms whatever table it is sent from now on."""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """From a worker: it accepts connections."""


class Leaving(msgspec.Struct, tag="leaving", frozen=True):
    """From a worker: it accepts no more connections, and ends when it has served those that it has."""


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """From a worker: it has heard all until now, and its chores go on."""


class Applied(msgspec.Struct, tag="applied", frozen=True):
    """From a worker: every request from now on is decided on table `number`."""

    number: int


class TableRefused(msgspec.Struct, tag="refused", frozen=True):
    """From a worker: it cannot read table `number`, and serves from the one before, for a few seconds."""

    number: int


class Want(msgspec.Struct, tag="want", frozen=True):
    """From a worker: requests wait for this version; `missing_at` is an engine that has lost it.

    `recent` is what the worker has used since it last said so: version to monotonic seconds,
    which all processes of a machine share.
    """

    version: str
    missing_at: str | None
    recent: dict[str, float]


class Used(msgspec.Struct, tag="used", frozen=True):
    """From a worker: `recent`, as in `Want`, without wanting anything."""

    recent: dict[str, float]


class WorkerReport(msgspec.Struct, tag="report", frozen=True):
    """From a worker: its counts since it started, and `outcomes` since it last told them; unasked (0) when it ends."""

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
    """From a worker: what a caller says of a reply."""

    feedback: Feedback


class Recall(msgspec.Struct, tag="recall", frozen=True):
    """To a worker: say what served these requests, those that you remember."""

    number: int
    wanted: tuple[Named, ...]


class Recalled(msgspec.Struct, tag="recalled", frozen=True):
    """From a worker: request → what served it."""

    number: int
    about: dict[Named, About]


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
    """Return the control plane's next message, or None when it is gone."""
    body = await _frame(reader)
    return None if body is None else _TO_WORKER.decode(body)


async def read_from_worker(reader: asyncio.StreamReader) -> FromWorker | None:
    """Return a worker's next message, or None when it is gone."""
    body = await _frame(reader)
    return None if body is None else _FROM_WORKER.decode(body)


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
