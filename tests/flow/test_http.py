"""HTTP as clients really speak it: pipelined, half-closed, slow, old, too large, cut off, encrypted."""

import contextlib
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.flow.conftest import QUICK
from tests.support.certificates import self_signed
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.raw_client import CHAT, Raw, chat

STREAM = chat(stream=True, fake={"events": 20, "cadence_ms": 20})
ENDLESS = chat(stream=True, fake={"events": 100_000, "cadence_ms": 20})


def is_idle(engine: FakeEngine) -> bool:
    """Whether the engine comes to have nothing to do."""
    return engine.wait_for(lambda engine: engine.running == 0)


# Pipelining


def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(
            b"".join(client.request(CHAT, chat(fake={"events": n, "ttft_ms": 20 * (8 - n)})) for n in range(1, 9))
        )
        assert [client.reply().json()["usage"]["completion_tokens"] for _ in range(8)] == list(range(1, 9))


def test_an_error_among_pipelined_requests_keeps_its_place(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(
            client.request(CHAT, chat(fake={"ttft_ms": 50}))
            + client.request(CHAT, b"{")
            + client.request("/nowhere")
            + client.request("/v1/models")
            + client.request(CHAT, chat(model="nobody"))
            + client.request(CHAT, STREAM)
            + client.request(CHAT, chat())
        )
        assert [client.reply().status for _ in range(7)] == [200, 400, 404, 200, 404, 200, 200]


def test_a_long_pipeline_is_answered_to_its_end(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        requests = [client.request(CHAT, chat(fake={"events": 1 + n % 16}), x_request_id=f"n{n}") for n in range(200)]
        sender = threading.Thread(target=client.send, args=(b"".join(requests),))
        sender.start()
        replies = [client.reply() for _ in range(200)]
        sender.join()
    assert [reply.headers["x-request-id"] for reply in replies] == [f"n{n}" for n in range(200)]
    assert [reply.json()["usage"]["completion_tokens"] for reply in replies] == [1 + n % 16 for n in range(200)]


def test_a_long_pipeline_of_gets_is_answered_to_its_end(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(
            client.request("/v1/models") * 300 + client.request(CHAT, chat()) + client.request("/v1/models") * 300
        )
        assert [client.reply().status for _ in range(601)] == [200] * 601


@pytest.mark.simulation
def test_pipelined_requests_with_bodies_over_the_limit_together_are_all_answered(gateway: RunningGateway) -> None:
    body = chat(messages=[{"role": "user", "content": "x" * 9_000_000}], fake={"ttft_ms": 100})
    with Raw(gateway) as client:
        request = client.request(CHAT, body)
        sender = threading.Thread(target=client.send, args=(request * 8,))
        sender.start()
        assert [client.reply().status for _ in range(8)] == [200] * 8
        sender.join()


def test_garbage_after_a_request_does_not_take_its_reply_away(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(client.request(CHAT, chat(fake={"ttft_ms": 100})) + b"\x00\x01 garbage \r\n\r\n" + b"x" * 300_000)
        assert client.reply().status == 200
        refusal = client.reply()
        assert (refusal.status, refusal.code, refusal.headers["connection"]) == (400, "invalid_request", "close")
        assert client.is_closed_by_gateway()


def test_one_byte_at_a_time_is_as_good_as_all_at_once(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in client.request(CHAT, chat()) + client.request("/v1/models"):
            client.send(bytes((byte,)))
        assert [client.reply().status for _ in range(2)] == [200, 200]


# Expect: 100-continue


def test_expect_continue_is_told_to_go_on(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        request = client.request(CHAT, chat(), expect="100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        assert client.reply().status == 200
        assert client.ask(CHAT, chat()).status == 200


def test_a_pipelined_expect_continue_is_told_to_go_on_after_the_reply_before_it(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        head, _, body = client.request(CHAT, chat(), expect="100-continue").partition(b"\r\n\r\n")
        client.send(client.request(CHAT, chat(fake={"ttft_ms": 100})) + head + b"\r\n\r\n")
        first = client.reply()
        assert (first.status, first.interim) == (200, [])
        assert client._file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert client._file.readline() == b"\r\n"
        client.send(body)
        assert client.reply().status == 200


@pytest.mark.parametrize(
    ("key", "length", "expect", "status", "code"),
    [
        ("wrong", 1000, "100-continue", 401, "invalid_api_key"),
        (None, 200_000_000, "100-continue", 413, "request_too_large"),
        (None, 10, "the unexpected", 417, "expectation_failed"),
    ],
)
def test_expect_continue_is_refused_before_the_body(
    gateway: RunningGateway, key: str | None, length: int, expect: str, status: int, code: str
) -> None:
    with Raw(gateway, key=key) as client:
        client.send(client.request(CHAT, length=length, method="POST", expect=expect))
        reply = client.reply()
        assert (reply.status, reply.code, reply.interim) == (status, code, [])
        assert client.is_closed_by_gateway()


# HTTP/1.0 and Connection: close


def test_http10_without_keep_alive_is_closed_after_the_reply(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, chat(), version="1.0")
        assert reply.status == 200
        assert reply.is_whole
        assert client.is_closed_by_gateway()


def test_http10_with_keep_alive_goes_on(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        for _ in range(2):
            reply = client.ask(CHAT, chat(), version="1.0", connection="keep-alive")
            assert (reply.status, reply.headers["connection"]) == (200, "keep-alive")
        for target in ("/v1/models", "/nowhere"):
            assert client.ask(target, version="1.0", connection="keep-alive").headers["connection"] == "keep-alive"


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_stream_to_an_http10_client_ends_by_close(gateway: RunningGateway, connection: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, STREAM, version="1.0", connection=connection)
        assert "transfer-encoding" not in reply.headers
        assert reply.headers["connection"] == "close"
        assert reply.body.endswith(b"\n\ndata: [DONE]\n\n")
        assert reply.body.count(b"data: ") == 22


@pytest.mark.parametrize("target", [CHAT, "/v1/models", "/nowhere", "/healthz"])
def test_connection_close_closes_after_the_reply(gateway: RunningGateway, target: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(target, chat() if target == CHAT else None, connection="close")
        assert reply.headers["connection"] == "close"
        assert client.is_closed_by_gateway()


# Keep-alive to the engine


def test_engine_connections_are_used_again(gateway: RunningGateway, engine: FakeEngine) -> None:
    with Raw(gateway) as client:
        client.ask(CHAT, chat())
        before = engine.accepted
        for _ in range(20):
            assert client.ask(CHAT, chat()).status == 200
            assert client.ask(CHAT, chat(stream=True)).status == 200
    # The gateway's health check opens none of its own: it keeps one open.
    assert engine.accepted - before <= 1


def test_an_engine_that_closes_idle_connections_fails_no_request(gateway: RunningGateway, engine: FakeEngine) -> None:
    with Raw(gateway) as client:
        for _ in range(10):
            assert client.ask(CHAT, chat()).status == 200
            engine.drop_idle()


def test_an_engine_that_closes_without_notice_fails_no_request(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        for _ in range(30):
            assert client.ask(CHAT, chat(fake={"close_after_reply": True})).status == 200


# Time


def test_an_idle_connection_expires(hasty: RunningGateway) -> None:
    with Raw(hasty) as client:
        began = time.monotonic()
        assert client.ask("/v1/models").status == 200
        assert client.is_closed_by_gateway()
        assert time.monotonic() - began >= float(QUICK["LORAGATE_LIMITS__KEEP_ALIVE_SECONDS"])


def test_slow_senders_are_told_and_others_are_served_meanwhile(hasty: RunningGateway) -> None:
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(Raw(hasty))
        slow_head = stack.enter_context(Raw(hasty))
        slow_head.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gate")
        slow_body = stack.enter_context(Raw(hasty))
        slow_body.send(slow_body.request(CHAT, b'{"model":', length=1000))
        behind = stack.enter_context(Raw(hasty))
        behind.send(behind.request("/v1/models") + b"POST /v1/chat/comp")
        with Raw(hasty) as other:
            assert other.ask(CHAT, chat()).status == 200
        assert silent.is_closed_by_gateway()
        for client in (slow_head, slow_body):
            reply = client.reply()
            assert (reply.status, reply.code) == (408, "request_timeout")
            assert client.is_closed_by_gateway()
        assert [behind.reply().status for _ in range(2)] == [200, 408]


def test_a_body_that_keeps_coming_is_not_cut_off(hasty: RunningGateway) -> None:
    with Raw(hasty) as client:
        request = client.request(CHAT, chat())
        client.send(request[:-6])
        for byte in request[-6:]:
            threading.Event().wait(0.4)  # 2.4 s in all; the limit is 2 s without a byte
            client.send(bytes((byte,)))
        assert client.reply().status == 200


# Limits


@pytest.mark.parametrize(
    "headers",
    [
        {"x_large": "x" * 40_000},
        {f"x{number}": "y" for number in range(200)},
        {f"x{number}": "y" * 500 for number in range(90)},
    ],
    ids=["one of 40 KB", "200", "90 of 500 bytes"],
)
def test_too_many_headers_are_refused(gateway: RunningGateway, headers: dict[str, str]) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, chat(), **headers)
        assert (reply.status, reply.code) == (431, "headers_too_large")


def test_headers_without_an_end_are_refused(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(2000):
                client.send(b"x%d: %b\r\n" % (number, b"y" * 50))
        assert client.reply().status == 431


def test_trailers_without_an_end_are_refused(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(client.request(CHAT, b"2\r\n{}\r\n0\r\n", transfer_encoding="chunked"))
        with contextlib.suppress(ConnectionError):
            for number in range(2000):
                client.send(b"x%d: %b\r\n" % (number, b"y" * 50))
        assert client.reply().status == 431


def test_a_trailer_changes_nothing(gateway: RunningGateway) -> None:
    with Raw(gateway, key="") as client:
        client.send(
            client.request(
                "/nowhere", b"0\r\nx-request-id: trailed\r\n\r\n", method="POST", transfer_encoding="chunked"
            )
        )
        assert client.reply().headers["x-request-id"] != "trailed"


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
def test_a_huge_body_is_refused_in_a_way_that_the_client_can_read(gateway: RunningGateway, is_chunked: bool) -> None:
    part = b"x" * 1_000_000
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        content = (part for _ in range(200)) if is_chunked else part * 200
        reply = client.post(gateway.url + CHAT, content=content, headers=gateway.headers)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


def test_a_body_just_within_the_limit_is_taken(gateway: RunningGateway, engine: FakeEngine) -> None:
    body = b'{"model":"base","messages":[],"x":"%b"}'
    body %= b"y" * (32 * 1024 * 1024 - len(body) + 2)
    assert (
        httpx.post(gateway.url + CHAT, content=body, headers=gateway.headers, timeout=PATIENCE_SECONDS).status_code
        == 200
    )
    assert engine.generations[-1].body == body
    assert (
        httpx.post(
            gateway.url + CHAT, content=body + b" ", headers=gateway.headers, timeout=PATIENCE_SECONDS
        ).status_code
        == 413
    )


# Clients that close, wholly or by half


@pytest.mark.parametrize("body", [chat(fake={"ttft_ms": 400}), STREAM], ids=["plain", "stream"])
def test_a_half_closed_client_gets_its_reply(gateway: RunningGateway, body: dict[str, object]) -> None:
    with Raw(gateway) as client:
        client.send(client.request(CHAT, body))
        client.finish_sending()
        reply = client.reply()
        assert reply.status == 200
        assert reply.is_whole
        if "stream" in body:
            assert reply.body.endswith(b"data: [DONE]\n\n")
        assert client.is_closed_by_gateway()


def test_a_half_closed_client_gets_all_pipelined_replies(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(
            client.request("/v1/models") * 5
            + client.request(CHAT, chat(fake={"ttft_ms": 100})) * 2
            + client.request("/v1/models") * 5
        )
        client.finish_sending()
        assert [client.reply().status for _ in range(12)] == [200] * 12
        assert client.is_closed_by_gateway()


@pytest.mark.parametrize(
    "body",
    [
        chat(fake={"hang": True}),
        chat(stream=True, fake={"hang": True}),
        chat(stream=True, fake={"hang_after": 3}),
        ENDLESS,
        chat(fake={"ttft_ms": 60_000}),
    ],
    ids=["plain hangs", "stream hangs in prefill", "stream hangs later", "stream", "plain is slow"],
)
@pytest.mark.parametrize("how", ["close", "reset", "half-closed first"])
def test_a_client_that_is_gone_is_noticed(
    gateway: RunningGateway, engine: FakeEngine, body: dict[str, object], how: str
) -> None:
    assert is_idle(engine)
    client = Raw(gateway)
    client.send(client.request(CHAT, body))
    assert engine.wait_for(lambda engine: engine.running == 1)
    if "hang_after" in str(body) or body is ENDLESS:
        client.head()
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif how == "half-closed first":
        client.finish_sending()
    client.close()
    assert is_idle(engine)


def test_an_http10_client_that_is_gone_is_noticed(gateway: RunningGateway, engine: FakeEngine) -> None:
    for body in (chat(fake={"hang": True}), ENDLESS):
        with Raw(gateway) as client:
            client.send(client.request(CHAT, body, version="1.0"))
            assert engine.wait_for(lambda engine: engine.running == 1)
        assert is_idle(engine)


def test_a_client_that_is_gone_while_its_requests_wait_leaves_nothing_behind(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    with Raw(gateway) as client:
        client.send(client.request(CHAT, chat(fake={"hang": True})) + client.request(CHAT, chat()) * 3)
        assert engine.wait_for(lambda engine: engine.running == 1)
        asked = len(engine.generations)
    assert is_idle(engine)
    assert len(engine.generations) == asked


def test_gone_clients_leave_no_request_in_flight(gateway: RunningGateway, engine: FakeEngine) -> None:
    assert is_idle(engine)
    series = 'loragate_requests_in_flight{alias="base",version="base"}'
    until(lambda: gateway.metrics()[series] == 0)


# Slow readers


def test_the_rest_of_a_large_reply_to_a_slow_reader_does_not_hold_up_the_next_request(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    # The engine is done long before the reader: its connection is free, and must not be paused with the reader.
    body = chat(fake={"reply_bytes": 1_000_000})
    with Raw(gateway, receive_buffer=4096) as slow:
        completed = engine.completed
        slow.send(slow.request(CHAT, body))
        assert engine.wait_for(lambda engine: engine.completed > completed)
        with Raw(gateway) as other:
            for _ in range(20):
                assert other.ask(CHAT, chat()).status == 200
        assert len(slow.reply().body) >= 1_000_000
        assert slow.ask(CHAT, chat()).status == 200


@pytest.mark.simulation
def test_a_reader_that_stands_still_is_cut_off_and_frees_the_engine(hasty: RunningGateway, engine: FakeEngine) -> None:
    with Raw(hasty, receive_buffer=4096) as stalled:
        stalled.send(stalled.request(CHAT, chat(stream=True, fake={"events": 100_000, "event_bytes": 1000})))
        assert engine.wait_for(lambda engine: engine.running == 1)
        assert is_idle(engine)


def test_replies_to_one_who_takes_none_do_not_pile_up(gateway: RunningGateway) -> None:
    with Raw(gateway, timeout=1, receive_buffer=4096) as client:
        requests = client.request("/v1/models") * 100
        with pytest.raises((TimeoutError, ConnectionError)):  # noqa: PT012 (which send fails depends on buffers)
            for _ in range(2000):
                client.send(requests)


# Shutdown


@contextlib.contextmanager
def draining_gateway(engine: FakeEngine, seconds: str) -> Iterator[RunningGateway]:
    environment = {"LORAGATE_DRAIN_SECONDS": seconds, "LORAGATE_LAME_DUCK_SECONDS": "0"}
    with RunningGateway(engine.url, environment=environment) as gateway:
        yield gateway


def test_a_running_stream_is_finished_before_the_gateway_ends(engine: FakeEngine) -> None:
    with draining_gateway(engine, "60") as gateway, Raw(gateway) as client, Raw(gateway) as idle, Raw(gateway) as fresh:
        assert idle.ask("/v1/models").status == 200
        client.send(client.request(CHAT, chat(stream=True, fake={"events": 60, "cadence_ms": 20})))
        reply = client.head()
        gateway.process.send_signal(signal.SIGTERM)
        assert idle.is_closed_by_gateway()
        assert fresh.is_closed_by_gateway()
        body = b"".join(client.chunks())
        assert (reply.status, body.count(b"data: ")) == (200, 62)
        assert body.endswith(b"data: [DONE]\n\n")
        assert client.is_closed_by_gateway()
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


def test_new_connections_are_refused_while_draining(engine: FakeEngine) -> None:
    with draining_gateway(engine, "60") as gateway, Raw(gateway) as client, Raw(gateway) as idle:
        client.send(client.request(CHAT, chat(stream=True, fake={"events": 100, "cadence_ms": 20})))
        client.head()
        gateway.process.send_signal(signal.SIGTERM)
        assert idle.is_closed_by_gateway()
        with pytest.raises(ConnectionRefusedError):
            Raw(gateway).close()


def test_a_stream_longer_than_the_drain_ends_with_an_error_event(engine: FakeEngine) -> None:
    with draining_gateway(engine, "1") as gateway, Raw(gateway) as client, Raw(gateway) as plain:
        client.send(client.request(CHAT, ENDLESS))
        client.head()
        plain.send(plain.request(CHAT, chat(fake={"hang": True})))
        assert engine.wait_for(lambda engine: engine.running == 2)
        gateway.process.send_signal(signal.SIGTERM)
        body = b"".join(client.chunks())
        *_, error, done, _ = body.split(b"\n\n")
        assert b'"code":"engine_unavailable"' in error
        assert done == b"data: [DONE]"
        refused = plain.reply()
        assert (refused.status, refused.code) == (503, "engine_unavailable")
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
    assert is_idle(engine)


# TLS


@pytest.fixture(scope="module")
def secure(
    engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, ssl.SSLContext]]:
    """A gateway with a certificate of its own making, and a client's view of it."""
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with RunningGateway(engine.url, options=options) as gateway:
        yield gateway, ssl.create_default_context(cafile=str(certificate))


def test_chat_and_stream_over_tls(secure: tuple[RunningGateway, ssl.SSLContext]) -> None:
    gateway, context = secure
    with Raw(gateway, context=context) as client:
        assert client.ask(CHAT, chat()).status == 200
        assert client.ask(CHAT, STREAM).body.endswith(b"data: [DONE]\n\n")
        assert client.ask(CHAT, b"{").code == "invalid_request"
        assert len(client.ask(CHAT, chat(fake={"reply_bytes": 2_000_000})).body) >= 2_000_000


@pytest.mark.parametrize("body", [chat(fake={"hang": True}), ENDLESS], ids=["plain", "stream"])
def test_a_client_that_is_gone_is_noticed_over_tls(
    secure: tuple[RunningGateway, ssl.SSLContext], engine: FakeEngine, body: dict[str, object]
) -> None:
    gateway, context = secure
    with Raw(gateway, context=context) as client:
        client.send(client.request(CHAT, body))
        assert engine.wait_for(lambda engine: engine.running == 1)
    assert is_idle(engine)


@pytest.mark.simulation
def test_a_huge_body_is_refused_over_tls(secure: tuple[RunningGateway, ssl.SSLContext]) -> None:
    gateway, context = secure
    url = gateway.url.replace("127.0.0.1", "localhost")
    with httpx.Client(verify=context, timeout=PATIENCE_SECONDS) as client:
        reply = client.post(url + CHAT, content=b"x" * 100_000_000, headers=gateway.headers)
    assert reply.status_code == 413


def test_plain_http_on_the_tls_port_is_only_closed(secure: tuple[RunningGateway, ssl.SSLContext]) -> None:
    gateway, context = secure
    with Raw(gateway) as client:
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert client.is_closed_by_gateway()
    with Raw(gateway, context=context) as client:
        assert client.ask("/healthz").status == 200
