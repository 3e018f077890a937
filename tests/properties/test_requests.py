"""Requests do not depend on how their bytes are cut; a fake transport stands in for the socket."""

import asyncio
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decide.engine_fields import FieldPolicy
from gateway.decide.route import Base, EngineState, RouteTable
from gateway.mirror.bounds import Bounds
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
from gateway.workers.supply import WorkerSupply
from tests.support.cut_bytes import cut
from tests.support.examples import examples


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@dataclass
class Head:
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    length: int | None = 2


class EchoEngines:
    """Answers at once, and remembers the requests."""

    def __init__(self) -> None:
        self.in_flight: dict[str, int] = {}
        self.heard_at: dict[str, float] = {}
        self.requests: list[bytes] = []

    def send(self, url: str, request: Outgoing, reader: Reader) -> Link:
        self.requests.append(request if isinstance(request, bytes) else b"".join(request))
        reader.on_sent()
        reader.on_reply(Head(), b"{}", True)
        return self

    def cancel(self) -> None:
        pass

    pause = resume = cancel


class Counted(RequestIds):
    """Ids that are the same in each conversation: those of a gateway are random."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh = [b"req-%032x" % number for number in range(100)]


async def converse(parts: list[bytes]) -> tuple[list[bytes], bytes, bool]:
    """Return what the engine got, what the client got without what differs by time, and whether it was closed."""
    engines, transport = EchoEngines(), Transport()
    table = RouteTable(
        base=Base(name="base"), keys=None, engines=(EngineState(url="http://e"),), routes=MappingProxyType({})
    )
    ledger, limits = Ledger(), Limits()
    deps = Deps(
        table=lambda: table,
        engines=engines,
        supply=WorkerSupply(lambda message: None),
        ledger=ledger,
        limits=limits,
        ids=Counted(),
        fingerprints={},
        engine_fields=EngineFields(FieldPolicy(), ledger),
        placing=Placing(limits),
        body_memory=BodyMemory(limits),
        clock=lambda: 0.0,
        callers=KnownCallers(lambda: 0.0),
        rates=WorkerRates(ledger, lambda: None),
        tallies=Tallies(),
        recent=RecentRequests(9),
        submit_feedback=lambda _: True,
        taps=Taps(MirrorQueue(Bounds(), lambda _: None, lambda: True, lambda *_: None), 1000, 1000),
    )
    connection = ClientConnection(None, SimpleNamespace(connections=set()), {"deps": deps})
    connection.connection_made(transport)
    for part in parts:
        if not transport.is_closed:
            connection.data_received(part)
        for _ in range(3):
            await asyncio.sleep(0)
    for _ in range(30):
        await asyncio.sleep(0)
    lines = [line for line in transport.written.split(b"\r\n") if not line.startswith(b"x-loragate-overhead-ms")]
    return engines.requests, b"\r\n".join(lines), transport.is_closed


def message(method: str, target: str, body: bytes | None, headers: dict[str, str], *, chunk: int = 0) -> bytes:
    """Return one request."""
    framing, data = {}, body or b""
    if chunk and data:
        data = b"".join(
            b"%x\r\n%b\r\n" % (len(data[at : at + chunk]), data[at : at + chunk]) for at in range(0, len(data), chunk)
        )
        data += b"0\r\nx-trailer: y\r\n\r\n"
        framing = {"transfer-encoding": "chunked"}
    elif body is not None:
        framing = {"content-length": str(len(data))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**headers, **framing}.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


BODIES = st.sampled_from([b'{"model":"base","x":"%b"}' % (b"y" * 50), b'{"model":"nobody"}', b"{", b"", b'{"model":1}'])
HEADERS = st.dictionaries(
    st.sampled_from(["x-request-id", "accept", "traceparent", "x-a", "content-type"]),
    st.sampled_from(["a", "b c", "x" * 200]),
)
UPGRADE = st.just({"connection": "upgrade", "upgrade": "h2c"})
# What is refused from its head alone, with a body of unknown length, ends the connection if nothing is
# before it, and is read to its end if something is: so such requests come without chunks here.
REQUESTS = st.one_of(
    st.builds(
        message,
        st.just("POST"),
        st.sampled_from(["/v1/chat/completions", "/tokenize"]),
        BODIES,
        HEADERS | UPGRADE,
        chunk=st.integers(0, 9),
    ),
    st.builds(message, st.just("POST"), st.sampled_from(["/nowhere", "/v1/models"]), BODIES, HEADERS | UPGRADE),
    st.builds(
        message,
        st.just("GET"),
        st.sampled_from(["/v1/models", "/healthz", "/v1/models/base", "/x"]),
        st.none(),
        HEADERS | UPGRADE,
    ),
)
ENDS = st.sampled_from(
    [
        b"",
        b"",
        b"garbage\r\n\r\n",
        message("GET", "/v1/models", None, {"connection": "close"}),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=6), ENDS, st.lists(st.integers(0, 100_000), max_size=30))
def test_a_conversation_does_not_depend_on_how_its_bytes_are_cut(
    requests: list[bytes], end: bytes, places: list[int]
) -> None:
    data = b"".join(requests) + end
    whole = asyncio.run(converse([data]))
    assert asyncio.run(converse(cut(data, places))) == whole
    assert asyncio.run(converse([bytes((byte,)) for byte in data])) == whole if len(data) < 300 else True
    assert whole[1].count(b"HTTP/1.1 ") >= 1
    assert b"HTTP/1.1 500" not in whole[1]


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_at_all_are_taken_without_a_failure(data: bytes, places: list[int]) -> None:
    _, written, _ = asyncio.run(converse(cut(data, places)))
    assert not written or written.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2"))
