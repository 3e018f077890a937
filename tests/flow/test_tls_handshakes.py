"""Connections whose TLS handshake is never done count, end in time, and keep nobody out."""

import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.certificates import self_signed
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.raw_client import CHAT, Raw, chat

MOST = 20
HALF_A_HELLO = bytes.fromhex("16030100a5010000a10303")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def secure_gateway(
    engine: FakeEngine, pair: tuple[Path, Path], header_seconds: int
) -> Iterator[tuple[RunningGateway, ssl.SSLContext]]:
    environment = {
        "LORAGATE_TLS_CERTIFICATE": str(pair[0]),
        "LORAGATE_TLS_KEY": str(pair[1]),
        "LORAGATE_LIMITS__MAX_CONNECTIONS": str(MOST),
        "LORAGATE_LIMITS__HEADER_SECONDS": str(header_seconds),
    }
    with RunningGateway(engine.url, environment=environment) as gateway:
        yield gateway, ssl.create_default_context(cafile=str(pair[0]))
        assert "Traceback" not in gateway.log_path.read_text()


@contextlib.contextmanager
def silent_clients(gateway: RunningGateway, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never finish a handshake: every other one says nothing at all."""
    address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS)) for _ in range(count)]
        for client in clients[::2]:
            with contextlib.suppress(ConnectionError):  # it is closed already
                client.sendall(HALF_A_HELLO)
        yield clients


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def still_open(clients: list[socket.socket]) -> int:
    return sum(map(is_open, clients))


def is_served(gateway: RunningGateway, context: ssl.SSLContext) -> bool:
    with contextlib.suppress(OSError), Raw(gateway, context=context) as client:
        return client.ask("/v1/models").status == 200
    return False


def test_connections_without_a_handshake_are_no_more_than_there_may_be_and_keep_nobody_out(
    engine: FakeEngine, pair: tuple[Path, Path]
) -> None:
    with secure_gateway(engine, pair, header_seconds=3600) as (gateway, context):
        with silent_clients(gateway, 3 * MOST) as silent:
            until(lambda: still_open(silent) == MOST, "those beyond the limit are closed, the newest are kept")
            with contextlib.ExitStack() as stack:
                real = [stack.enter_context(Raw(gateway, context=context)) for _ in range(MOST)]
                assert {client.ask(CHAT, chat()).status for client in real} == {200}
                until(lambda: not still_open(silent), "those without a handshake have made room")
                with pytest.raises(OSError), Raw(gateway, context=context):
                    pass
                assert {client.ask(CHAT, chat()).status for client in real} == {200}
        for _ in range(2 * MOST):
            until(lambda: is_served(gateway, context), "each place is given back")


def test_handshakes_that_are_not_done_in_time_are_closed(engine: FakeEngine, pair: tuple[Path, Path]) -> None:
    with secure_gateway(engine, pair, header_seconds=1) as (gateway, context):
        with silent_clients(gateway, MOST) as silent:
            # Less than the 60 s that the event loop gives a handshake of itself.
            until(lambda: not still_open(silent), "all are closed when their time is up", 50)
        until(lambda: is_served(gateway, context), "a client is served when its handshake is done in time")


def test_what_is_no_tls_gives_its_place_back(engine: FakeEngine, pair: tuple[Path, Path]) -> None:
    with secure_gateway(engine, pair, header_seconds=3600) as (gateway, context), contextlib.ExitStack() as stack:
        real = [stack.enter_context(Raw(gateway, context=context)) for _ in range(MOST - 1)]
        for _ in range(2 * MOST):
            with Raw(gateway) as plain:
                plain.send(plain.request("/v1/models"))
                assert plain.is_closed_by_gateway()
        real.append(stack.enter_context(Raw(gateway, context=context)))
        assert {client.ask("/v1/models").status for client in real} == {200}


def test_a_stop_waits_for_replies_over_tls_and_not_for_handshakes(engine: FakeEngine, pair: tuple[Path, Path]) -> None:
    with secure_gateway(engine, pair, header_seconds=3600) as (gateway, context), silent_clients(gateway, 4) as silent:
        with Raw(gateway, context=context) as client:
            client.send(client.request(CHAT, chat(stream=True, fake={"events": 60, "cadence_ms": 20})))
            reply = client.head()
            for each in (signal.SIGTERM, signal.SIGINT):  # the second skips the time for balancers
                gateway.process.send_signal(each)
            until(lambda: not still_open(silent), "those without a handshake are dropped")
            body = b"".join(client.chunks())
            assert (reply.status, body.count(b"data: ")) == (200, 62)
            assert client.is_closed_by_gateway()
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
