"""Engines that die, hang, refuse and lie: what their clients see, and how soon it is over."""
# ruff: noqa: E501 (messages and bodies are easier to compare on one line)

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS
from tests.support.raw_client import CHAT, Raw, Reply, chat

ENDLESS = chat(stream=True, fake={"events": 100_000, "cadence_ms": 10})


class TwoEngines:
    """A gateway with two engines, `a` and `b`, and the alias `support`."""

    def __init__(self, gateway: RunningGateway, a: FakeEngine, b: FakeEngine, versions: tuple[str, str]) -> None:
        self.gateway, self.a, self.b = gateway, a, b
        self.control, self.candidate = versions


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoEngines]:
    with two_engines(tmp_path_factory.mktemp("adapters")) as two:
        yield two


@contextlib.contextmanager
def two_engines(folder: Path) -> Iterator[TwoEngines]:
    """Start them; both engines have both versions."""
    with FakeEngine() as a, FakeEngine() as b, RunningGateway(a.url, b.url) as gateway:
        versions = [
            str(
                gateway.cli(
                    "adapters", "add", str(adapter_folder(folder / str(seed), seed)), "--name", "support", "--json"
                )["version"]
            )
            for seed in (1, 2)
        ]
        gateway.wait_until(lambda status: all(set(versions) <= set(engine["versions"]) for engine in status["engines"]))
        gateway.cli("routes", "split", "support", "--json")
        control = gateway.cli("routes", "ls", "--json")[0]["control"]
        candidate = next(version for version in versions if version != control)
        yield TwoEngines(gateway, a, b, (control, candidate))


@pytest.fixture
def restored(two: TwoEngines) -> Iterator[TwoEngines]:
    """The same, whole again afterwards."""
    yield two
    for engine in (two.a, two.b):
        engine.start()
        engine.set(hang=False, header_delay_ms=0)
        engine.core.failures.clear()
    two.gateway.wait_until(
        lambda status: all(engine["up"] and len(engine["versions"]) == 2 for engine in status["engines"])
    )


def error_of(stream: bytes) -> dict[str, str]:
    """The error event of a chat stream, which is followed by `[DONE]` and nothing else."""
    *_, error, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    found: dict[str, str] = json.loads(error.removeprefix(b"data: "))["error"]
    return found


def test_an_engine_killed_amid_streams_ends_each_in_band_and_recovers(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    pids = gateway.worker_pids()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(20) as pool:
        clients = [stack.enter_context(Raw(gateway)) for _ in range(20)]
        for client in clients:
            client.send(client.request(CHAT, ENDLESS))
            next(client.chunks(client.head()))
        engine.kill()
        try:
            for body in pool.map(lambda client: b"".join(client.chunks()), clients):
                assert error_of(body)["code"] == "engine_failed"
            # The connection to the client is whole, and tells what is the matter.
            for client in clients[:3]:
                reply = client.ask(CHAT, chat())
                assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "engine_unavailable", "5")
            gateway.wait_for_engine(up=False)
            assert clients[0].ask(CHAT, chat()).status == 503
            assert clients[0].ask("/v1/models").status == 200
        finally:
            engine.start()
        gateway.wait_for_engine(up=True)
        with Raw(gateway) as fresh:
            assert [fresh.ask(CHAT, chat()).status for _ in range(20)] == [200] * 20
    assert gateway.worker_pids() == pids


@pytest.mark.parametrize("cut", ["close", "reset"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_that_is_cut_ends_in_its_own_dialect(gateway: RunningGateway, path: str, cut: str) -> None:
    body = {
        "model": "base",
        "messages": [],
        "prompt": "x",
        "input": "x",
        "stream": True,
        "fake": {"cut_after": 3, "cut": cut, "cadence_ms": 5},
    }
    with Raw(gateway) as client:
        reply = client.ask(path, body)
        assert (reply.status, reply.is_whole) == (200, True)
        *_, last = reply.body.removesuffix(b"data: [DONE]\n\n").removesuffix(b"\n\n").split(b"\n\n")
        if path in (CHAT, "/v1/completions"):
            assert error_of(reply.body)["code"] == "engine_failed"
        else:
            name, data = last.split(b"\n")
            assert name == b"event: error"
            assert json.loads(data.removeprefix(b"data: "))["type"] == "error"
        assert client.ask(CHAT, chat()).status == 200


def test_a_stream_to_an_http10_client_that_is_cut_ends_with_the_error_event(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, chat(stream=True, fake={"cut_after": 3}), version="1.0")
        assert error_of(reply.body)["code"] == "engine_failed"


@pytest.mark.parametrize("cut", ["close", "reset"])
def test_a_reply_that_is_cut_never_looks_whole(gateway: RunningGateway, cut: str) -> None:
    with Raw(gateway) as client:
        with contextlib.suppress(ConnectionResetError):
            assert not client.ask(CHAT, chat(fake={"cut_after": 1, "cut": cut, "reply_bytes": 100_000})).is_whole
        assert client.is_closed_by_gateway()


@pytest.mark.parametrize(
    "body", [chat(fake={"hang": True}), chat(stream=True, fake={"hang": True})], ids=["plain", "stream"]
)
def test_an_engine_that_hangs_before_the_first_byte_is_504(
    hasty: RunningGateway, engine: FakeEngine, body: dict[str, object]
) -> None:
    with Raw(hasty) as client:
        reply = client.ask(CHAT, body)
        assert (reply.status, reply.code) == (504, "engine_timeout")
        assert engine.wait_for(lambda engine: engine.running == 0)
    with Raw(hasty) as another:
        assert another.ask(CHAT, chat()).status == 200


def test_a_stream_that_stands_still_ends_with_an_error_event(hasty: RunningGateway, engine: FakeEngine) -> None:
    with Raw(hasty) as client:
        reply = client.ask(CHAT, chat(stream=True, fake={"hang_after": 3}))
        assert error_of(reply.body)["code"] == "engine_timeout"
        assert engine.wait_for(lambda engine: engine.running == 0)
    with Raw(hasty) as another:
        assert another.ask(CHAT, chat()).status == 200


# Engines that do not speak HTTP


@contextlib.contextmanager
def gateway_to(answer: Callable[[socket.socket], None]) -> Iterator[RunningGateway]:
    """A gateway to an engine that is healthy, and whose POSTs are answered by `answer`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    def serve(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    part = peer.recv(65536)
                    if not part:
                        return
                    data += part
                if data.startswith(b"POST"):
                    answer(peer)
                    return
                body = b'{"object":"list","data":[{"id":"base"}]}'
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                data = data.partition(b"\r\n\r\n")[2]

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=serve, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        with RunningGateway(f"http://127.0.0.1:{listener.getsockname()[1]}") as gateway:
            yield gateway
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def test_what_is_not_http_is_502_and_odd_http_is_understood() -> None:
    answers: list[bytes] = []
    done = threading.Event()

    def answer(peer: socket.socket) -> None:
        peer.sendall(answers[0])
        done.wait(0.1)

    with gateway_to(answer) as gateway:

        def ask(data: bytes, version: str = "1.1") -> Reply:
            answers[:] = [data]
            with Raw(gateway) as client:
                return client.ask(CHAT, chat(stream=True), version=version)

        for garbage in (
            b"garbage\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"\x00" * 100,
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx\x00y: 1\r\n\r\n",
        ):
            reply = ask(garbage)
            assert (reply.status, reply.code) == (502, "engine_failed"), garbage
        for nothing in (b"", b"HTTP/1.1 200 OK\r\ncontent-"):
            assert ask(nothing).status == 502
        whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
        assert ask(whole).body == b"{}"
        assert ask(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}").body == b"{}"
        assert ask(b"HTTP/1.1 204 No Content\r\n\r\n").status == 204
        assert ask(b"HTTP/1.1 599 Odd\r\ncontent-length: 1\r\n\r\nx").status == 599
        assert ask(b"HTTP/1.1 799 Odder\r\ncontent-length: 1\r\n\r\nx").status == 502, "no status of HTTP"
        events = b"data: {}\r\n\r\ndata: 2\n\n: comment\n\ndata: [DONE]\n\n"
        assert ask(SSE_HEAD + b"\r\n" + events).body == events
        assert ask(SSE_HEAD + b"content-length: %d\r\n\r\n" % len(events) + events).body == events
        assert ask(SSE_HEAD + b"content-length: %d\r\n\r\n" % len(events) + events, version="1.0").body == events
        assert ask(SSE_HEAD + b"\r\ndata: 1\n\ndata: the end is missi").body == b"data: 1\n\ndata: the end is missi"
        cut = ask(SSE_HEAD + b"transfer-encoding: chunked\r\n\r\nf\r\ndata: 1\n\ndata: \r\n")
        assert cut.body.startswith(b"data: 1\n\ndata: {")
        assert error_of(cut.body)["code"] == "engine_failed"
        assert ask(SSE_HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\nzz\r\n").code == "engine_failed"
        huge = b"data: " + b"x" * (2 << 20)
        split = ask(SSE_HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b" % (10 + len(huge), huge))
        assert split.body.startswith(huge + b"\n\n")
        assert error_of(split.body)["code"] == "engine_failed"


@pytest.mark.simulation
def test_an_engine_that_takes_no_connection_is_504() -> None:
    # A full backlog drops the handshake's last step: the connection is never made.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as deaf,
        FakeEngine() as engine,
        contextlib.ExitStack() as stack,
    ):
        port = engine.port
        with (
            RunningGateway(engine.url, environment={"LORAGATE_CONNECT_SECONDS": "1"}) as gateway,
            Raw(gateway) as client,
        ):
            assert client.ask(CHAT, chat()).status == 200
            engine.kill()
            with socket.socket() as trap:
                trap.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trap.bind(("127.0.0.1", port))
                trap.listen(0)
                for _ in range(3):
                    filler = stack.enter_context(socket.socket())
                    filler.setblocking(False)
                    filler.connect_ex(("127.0.0.1", port))
                reply = client.ask(CHAT, chat())
                assert (reply.status, reply.code) == (504, "engine_timeout")
        assert deaf


# Two engines


def test_an_engine_that_fails_before_the_first_byte_is_replaced_by_the_other(restored: TwoEngines) -> None:
    with Raw(restored.gateway) as client:
        assert [client.ask(CHAT, chat()).status for _ in range(4)] == [200] * 4
        restored.a.kill()
        assert [client.ask(CHAT, chat(model="support")).status for _ in range(10)] == [200] * 10
        restored.a.start()
        restored.b.kill()
        assert [client.ask(CHAT, chat()).status for _ in range(10)] == [200] * 10


def test_an_engine_that_dies_in_prefill_is_replaced_by_the_other(restored: TwoEngines) -> None:
    for warm in (False, True):  # on a new connection, and on one that was used before
        for dying, other in ((restored.a, restored.b), (restored.b, restored.a)):
            dying.start()
            other.start()
            restored.gateway.wait_for_engine(up=True)
            with contextlib.ExitStack() as stack:
                if warm:
                    for client in at_once(restored, stack, 8, fake={"ttft_ms": 100}):
                        assert client.reply().status == 200
                dying.set(hang=True)
                clients = at_once(restored, stack, 8)
                assert dying.wait_for(lambda engine: engine.running > 0)
                dying.kill()
                assert [client.reply().status for client in clients] == [200] * 8
            dying.set(hang=False)


def at_once(two: TwoEngines, stack: contextlib.ExitStack, count: int, **body: object) -> list[Raw]:
    """So many clients with a request each, of conversations that do not all lean to the same engine."""
    clients = [stack.enter_context(Raw(two.gateway)) for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(client.request(CHAT, chat(user=f"u{number}", **body)))
    return clients


def test_a_dead_engines_requests_are_retried_only_once(restored: TwoEngines) -> None:
    restored.a.kill()
    restored.b.kill()
    with Raw(restored.gateway) as client:
        reply = client.ask(CHAT, chat())
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "engine_unavailable", "5")


@pytest.mark.simulation
def test_a_candidate_that_cannot_be_served_gives_way_to_control(tmp_path: Path) -> None:
    with two_engines(tmp_path) as two, Raw(two.gateway) as client:
        gateway, candidate = two.gateway, two.candidate
        gateway.cli("routes", "split", "support", "--candidate", candidate, "--weight", "10000")
        reply = client.ask(CHAT, chat(model="support"))
        assert (reply.headers["x-loragate-version"], reply.headers["x-loragate-arm"]) == (candidate, "candidate")
        # `b` loses it for good, so only `a` has it; then `a` dies.
        two.b.fail_next_loads(1000)
        two.b._on_loop(two.b._soon(lambda: two.b.core.adapters.__delitem__(candidate)))
        gateway.wait_until(
            lambda status: [candidate in engine["versions"] for engine in status["engines"]] == [True, False]
        )
        assert client.ask(CHAT, chat(model="support")).headers["x-loragate-version"] == candidate
        two.a.fail_next(1, 500)  # nobody else has the candidate: control, before a failing reply is passed on
        reply = client.ask(CHAT, chat(model="support"))
        assert (reply.status, reply.headers["x-loragate-version"]) == (200, two.control)
        two.a.kill()
        for reason in ("engine_unavailable", "version_not_ready"):  # before and after the engine's end is known
            reply = client.ask(CHAT, chat(model="support"))
            assert (reply.status, reply.headers["x-loragate-version"]) == (200, two.control)
            assert (reply.headers["x-loragate-arm"], reply.headers["x-loragate-route-reason"]) == (
                "control",
                f"fallback:{reason}",
            )
            gateway.wait_until(lambda status: [engine["up"] for engine in status["engines"]] == [False, True])
        assert client.ask(CHAT, chat(model=candidate)).code == "version_not_ready"


def test_official_style_clients_see_a_cut_reply_as_an_error(gateway: RunningGateway) -> None:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    body = json.dumps(chat(fake={"cut_after": 1, "reply_bytes": 10_000}))
    connection.request("POST", CHAT, body, gateway.headers)
    with contextlib.closing(connection), pytest.raises((http.client.IncompleteRead, ConnectionError)):
        connection.getresponse().read()
