"""A worker's data plane in this process and without sockets: what goes in and comes out, byte for byte.

For tests that compare bytes, and for the benchmark that counts microseconds. The engine is scripted: it
answers each request at once with the parts that a test gives.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from gateway.decide.engine_fields import FieldPolicy
from gateway.decide.route import RouteTable
from gateway.errors import EngineFailed
from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest, NoPair, sample_of
from gateway.mirror.queue import MirrorQueue
from gateway.observe.ledger import Ledger
from gateway.observe.tally import Tallies
from gateway.ports import Link, Outgoing, Reader
from gateway.receive.body_memory import BodyMemory
from gateway.receive.deps import Deps, RequestIds
from gateway.receive.engine_fields import EngineFields
from gateway.receive.known_callers import KnownCallers
from gateway.receive.limits import Limits
from gateway.receive.placing import Placing
from gateway.receive.protocol import ClientConnection
from gateway.receive.rates import WorkerRates
from gateway.receive.recent_requests import RecentRequests
from gateway.receive.tap import Taps
from gateway.records.feedback import Feedback
from gateway.records.sample import Sample
from gateway.serve.known_head import Head
from gateway.store.snapshot import to_table

# A part of an engine's reply: its body's bytes, or what happens instead.
BREAKS = b"<the engine breaks off>"
LEAVES = b"<the client leaves>"
HAPPENS = b"<something happens>"  # what `ScriptedEngines.meanwhile` does


class Script:
    """How the engine answers: a status, headers, and a body in parts.

    Args:
        parts: In order; `BREAKS` and `LEAVES` end it.
        is_stream: Server-sent events, each part one HTTP chunk.
    """

    def __init__(self, *parts: bytes, is_stream: bool = False, status: int = 200) -> None:
        kind = b"text/event-stream" if is_stream else b"application/json"
        is_whole = not is_stream and not {BREAKS, LEAVES, HAPPENS} & set(parts)
        length = sum(map(len, parts)) if is_whole else None
        self.head = Head(status, ((b"content-type", kind),), length)
        self.parts = parts
        self.is_stream = is_stream
        self.framed = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]


class ScriptedEngines:
    """Engines that answer as the script says; `asked` are the requests that came."""

    def __init__(self) -> None:
        self.script = Script(b"{}")
        self.in_flight: dict[str, int] = {}
        self.heard_at: dict[str, float] = {}
        self.asked: list[bytes] = []
        self.client: ClientConnection
        self.is_recording = True
        self.meanwhile: Callable[[], None] = lambda: None

    def send(self, url: str, request: Outgoing, reader: Reader) -> Link:
        """Answer at once."""
        if self.is_recording:
            self.asked.append(request if isinstance(request, bytes) else b"".join(request))
        reader.on_sent()
        script = self.script
        has_broken = False
        reader.on_reply(script.head, b"", False)
        for part, chunk in zip(script.parts, script.framed, strict=True):
            if part is BREAKS:
                reader.on_engine_lost(EngineFailed("The engine broke off."), is_stale=False)
                has_broken = True
            elif part is HAPPENS:
                self.meanwhile()
            elif part is LEAVES:
                self.client.connection_lost(None)
                has_broken = True
            elif script.is_stream and part.endswith(b"\n\n"):
                reader.on_chunk(chunk)
            else:
                reader.on_reply(None, part, False)
        if not has_broken:
            reader.on_reply(None, b"", True)
        return self

    def pause(self) -> None:
        """Nothing is on its way."""

    resume = cancel = pause


class Wire:
    """The client's end: what was written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait: a client that takes all at once leaves none."""
        return 0

    def take(self) -> bytes:
        """Return what was written since the last time."""
        data = b"".join(self.written)
        self.written.clear()
        return data

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def close(self) -> None:
        """Close it."""
        self.is_closed = True

    abort = close

    def get_extra_info(self, _name: str) -> None:
        """Tell nothing."""

    def can_write_eof(self) -> bool:
        """Whether it can be half closed."""
        return False


class OneWorker:
    """A worker's parts around one client connection after the other.

    Args:
        table: The route table, as workers get it.
        bounds: Of the mirror.
        has_room: Whether the node takes copies now.
        queue: What to offer copies to; the real queue if None.
    """

    def __init__(
        self,
        table: bytes,
        bounds: Bounds | None = None,
        *,
        has_room: Callable[[], bool] = lambda: True,
        queue: Any = None,
    ) -> None:
        bounds = bounds or Bounds()
        self.taken: list[CapturedRequest] = []
        self.later: list[Callable[[], None]] = []
        self.heard: list[Feedback] = []
        self.engines = ScriptedEngines()
        self.table: RouteTable = to_table(table)
        self.queue = queue or MirrorQueue(
            bounds, self.taken.extend, has_room, lambda _seconds, what: self.later.append(what)
        )
        ledger = Ledger()
        self.recent = RecentRequests(bounds.recent_requests)
        limits = Limits()
        self.deps = Deps(
            table=lambda: self.table,
            engines=self.engines,
            supply=cast(Any, SimpleNamespace(recent={})),
            ledger=ledger,
            limits=limits,
            body_memory=BodyMemory(limits),
            placing=Placing(limits),
            ids=RequestIds(),
            clock=lambda: 1_800_000_000.0,
            callers=KnownCallers(lambda: 1_800_000_000.0),
            rates=WorkerRates(ledger, lambda: None),
            tallies=Tallies(),
            engine_fields=EngineFields(FieldPolicy(), ledger),
            taps=Taps(self.queue, bounds.request_bytes, bounds.reply_bytes),
            recent=self.recent,
            submit_feedback=self._submit_feedback,
            fingerprints={},
        )

    def _submit_feedback(self, feedback: Feedback) -> bool:
        self.heard.append(feedback)
        return True

    def serve_from(self, table: bytes) -> None:
        """Go on with another route table."""
        self.table = to_table(table)

    def connect(self) -> tuple[ClientConnection, Wire]:
        """Return a new connection and its client's end."""
        state = SimpleNamespace(connections=set())
        client = ClientConnection(None, state, {"deps": self.deps})
        wire = Wire()
        client.connection_made(cast(asyncio.BaseTransport, wire))
        self.engines.client = client
        return client, wire

    def ask(self, data: bytes, script: Script) -> bytes:
        """Send a request on a connection of its own, and return all that its client got."""
        self.engines.script = script
        client, wire = self.connect()
        client.data_received(data)
        return wire.take()

    @property
    def samples(self) -> list[Sample]:
        """What the node would make of what it has been sent, without what makes no pair."""
        return [sample for _, sample in self._arrived() if sample is not None]

    @property
    def no_pairs(self) -> list[str]:
        """Why some of it makes no pair."""
        return [reason for reason, _ in self._arrived() if reason]

    def _arrived(self) -> Iterator[tuple[str, Sample | None]]:
        for number, taken in enumerate(self.taken):
            try:
                yield "", sample_of(taken, f"{number:032x}", 1_800_000_000.0)
            except NoPair as no_pair:
                yield no_pair.reason, None

    def flush(self) -> None:
        """Let time pass: what was to be done later is done, once."""
        later, self.later = self.later, []
        for what in later:
            what()


def request_of(
    body: bytes, target: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None, key: str = ""
) -> bytes:
    """Return the bytes of a request."""
    lines = [f"POST {target} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    if "content-type" not in (headers or {}):
        lines.append("content-type: application/json")
    if key:
        lines.append(f"authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def events(*data: bytes) -> Sequence[bytes]:
    """Return server-sent events, one for each JSON text."""
    return [b"data: %b\n\n" % each for each in data]
