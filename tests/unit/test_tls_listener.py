"""The listener of a TLS port, without a gateway behind it."""

import asyncio
import errno
import socket
import ssl
from pathlib import Path
from typing import cast

import pytest
import uvloop

from gateway.receive.limits import Limits
from gateway.workers import tls_listener
from gateway.workers.tls_listener import TlsListener
from tests.support.certificates import self_signed


class Short(socket.socket):
    """A listening socket for which there is no descriptor at first."""

    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def test_it_accepts_again_when_it_has_been_out_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls_listener, "_RETRY_SECONDS", 0.05)
    certificate, key = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))

    async def ask() -> bytes:
        with Short() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            door = TlsListener(listener, server, Limits(), (), Echo)
            reader, writer = await asyncio.open_connection(
                *listener.getsockname(), ssl=client, server_hostname="localhost"
            )
            writer.write(b"hello")
            answer = await reader.readexactly(5)
            writer.close()
            door.close()
            return answer

    assert uvloop.run(ask()) == b"hello"
    assert "no connection can be accepted for 0.05 s" in caplog.text
