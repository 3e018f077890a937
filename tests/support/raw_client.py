"""A client that says exactly what it is told, byte for byte, and reads what HTTP says comes back."""

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

CHAT = "/v1/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    """A small chat request; `fake` are the engine's knobs."""
    return {"model": "base", "messages": [{"role": "user", "content": "hi"}], **more}


@dataclass
class Reply:
    """One reply, read to its end."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes = b""
    is_whole: bool = True
    interim: list[int] = field(default_factory=list)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's shape."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"]
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        return str(error["code"])


class Raw:
    """One connection to a gateway's app port.

    Args:
        gateway: Whose port.
        timeout: Seconds that any one step may take.
        context: For TLS.
        key: The key to send; the gateway's own if None.
    """

    def __init__(
        self,
        gateway: RunningGateway,
        timeout: float = PATIENCE_SECONDS,
        context: ssl.SSLContext | None = None,
        key: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        parts = urlsplit(gateway.url)
        assert parts.hostname is not None
        self.socket: socket.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect((parts.hostname, parts.port))
        except OSError:
            self.socket.close()
            raise
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._file = self.socket.makefile("rb")
        self._key = gateway.key if key is None else key

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close, as a process that ends does."""
        self._file.close()
        self.socket.close()

    def request(
        self,
        target: str = CHAT,
        body: Any = None,
        *,
        method: str | None = None,
        version: str = "1.1",
        length: int | None = None,
        **headers: str,
    ) -> bytes:
        """Return the bytes of a request; `body` may be bytes, or anything that becomes JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        lines = [f"{method} {target} HTTP/{version}", "host: localhost"]
        if self._key:
            lines.append(f"authorization: Bearer {self._key}")
        if (body is not None or length is not None) and "transfer_encoding" not in headers:
            lines.append(f"content-length: {len(data) if length is None else length}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def ask(self, target: str = CHAT, body: Any = None, **more: Any) -> Reply:
        """Send one request and read its reply."""
        method = more.get("method")
        self.send(self.request(target, body, **more))
        return self.reply(has_body=method != "HEAD")

    def finish_sending(self) -> None:
        """Close our direction only."""
        self.socket.shutdown(socket.SHUT_WR)

    def head(self) -> Reply:
        """Read up to the empty line after the headers; interim replies are skipped and noted."""
        interim: list[int] = []
        while True:
            line = self._file.readline()
            assert line.endswith(b"\r\n"), f"connection ended instead of a reply: {line!r}"
            version, status, _ = line.decode().split(" ", 2)
            headers: dict[str, str] = {}
            while (line := self._file.readline()) != b"\r\n":
                assert line.endswith(b"\r\n"), line
                name, _, value = line.decode("latin-1").partition(":")
                assert name not in headers, f"two `{name}` headers"
                headers[name] = value.strip()
            if int(status) >= 200:
                return Reply(int(status), version, headers, interim=interim)
            interim.append(int(status))

    def reply(self, *, has_body: bool = True) -> Reply:
        """Read one reply."""
        reply = self.head()
        if not has_body or reply.status in (204, 304):
            return reply
        if "transfer-encoding" in reply.headers:
            assert "content-length" not in reply.headers
            reply.body = b"".join(self.chunks(reply))
        elif "content-length" in reply.headers:
            length = int(reply.headers["content-length"])
            reply.body = self._file.read(length)
            reply.is_whole = len(reply.body) == length
        else:
            reply.body = self._file.read()
        return reply

    def chunks(self, reply: Reply | None = None) -> Iterator[bytes]:
        """Yield the chunks of a chunked body; a broken end is noted in `reply`, or raised."""
        while True:
            size = self._file.readline()
            if not size.endswith(b"\r\n"):
                if reply is None:
                    raise ConnectionError(f"the stream broke off: {size!r}")
                reply.is_whole = False
                return
            data = self._file.read(int(size, 16))
            assert self._file.readline() == b"\r\n"
            if not data:
                return
            yield data

    def is_closed_by_gateway(self) -> bool:
        """Wait for the gateway to close; False if it sends something or keeps the connection."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
