"""One HTTP/1.1 connection to an engine.

A connection carries one request at a time. Each read is passed to the request's reader in one call, and when the reply
is complete the connection goes back to its pool. Cancelling a request closes its connection, as that is what makes vLLM
stop generating.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, NoReturn, cast

import httptools

from gateway.errors import EngineFailed, LoragateError
from gateway.ports import Outgoing, Reader
from gateway.serve.chunks import EVENTS_END, MAX_LISTED, SIZE_LINES, is_one_chunk_of_events
from gateway.serve.known_head import Head

if TYPE_CHECKING:
    from gateway.serve.upstream import EnginePool

# Linux sends an ACK for each read of a stream at once, which costs nearly as much as the read (docs/decisions/0022).
# With TCP_QUICKACK off (man 7 tcp) it acknowledges every second read, and the last one within 40 ms.
_QUICK_ACK: Final[int] = getattr(socket, "TCP_QUICKACK", 0)
# The most bytes that an engine may send without any part of the reply's body: a head, 1xx replies before it, trailers,
# chunk extensions. Node takes heads of 16 KiB and uvicorn of 64 KiB; vLLM's have 200 bytes.
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 128


class _Refused(Exception):
    """Raised inside the parser's callbacks for a reply that is valid HTTP but not accepted."""


class EngineConnection(asyncio.Protocol):
    """One connection to an engine; between requests it is idle in its pool."""

    __slots__ = (
        "_barren_bytes",
        "_fault",
        "_has_spoken",
        "_head",
        "_headers",
        "_is_between_chunks",
        "_is_done",
        "_is_kept",
        "_is_paused",
        "_is_used",
        "_parser",
        "_parts",
        "_pool",
        "_tcp",
        "_until_close",
        "idle_since",
        "is_closed",
        "reader",
        "transport",
    )

    def __init__(self, pool: "EnginePool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._barren_bytes = 0  # bytes read since the last part of a reply's head or body
        self._fault = ""  # why a reply was refused, if not for its syntax
        self._has_spoken = False  # the engine has sent something since the last request
        self._head: Head | None = None
        self._is_between_chunks = False
        self._is_done = False
        self._is_used = False
        self._is_paused = False
        self._is_kept = False
        self._until_close = False
        self._tcp: socket.socket | None = None
        self.reader: Reader | None = None
        self.is_closed = False
        self.idle_since = 0.0
        self.transport: asyncio.Transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        its_socket = transport.get_extra_info("socket")
        if _QUICK_ACK and its_socket.family != socket.AF_UNIX:
            self._tcp = its_socket

    def data_received(self, data: bytes) -> None:
        self._pool.has_spoken = True
        reader = self.reader
        if reader is None:  # no request is under way: the engine violates HTTP
            self._pool.saw_fault(in_reply=False)
            self.transport.abort()
            return
        if self._is_between_chunks:
            # The usual read of a stream. The check is inlined: a function call would cost as much as the check itself.
            is_usual = data.endswith(EVENTS_END) and data.startswith(SIZE_LINES[min(len(data), MAX_LISTED)])
            if is_usual or is_one_chunk_of_events(data):
                reader.on_chunk(data)  # the parser has not seen these bytes: it still expects a chunk
                return
        known = self._pool.known_head
        if known is not None and not self._has_spoken and data.startswith(known.before):
            whole = known.read(data)
            if whole is not None:  # the parser has not seen these bytes: it still expects a reply
                self._is_kept, self._until_close = True, False
                self._finish()
                reader.on_reply(*whole, True)
                return
        is_broken = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_broken = True
            if not self._is_done:
                self._break_off(self._fault or "The engine answered with something that is not HTTP.")
                return
            self._is_kept = False  # the reply is complete, but more bytes follow without a request
        if self._is_between_chunks and not data.endswith(b"\r\n"):
            self._is_between_chunks = False  # the read ends inside a chunk's size line
        head, self._head = self._head, None
        parts = self._parts
        body = b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        is_done = self._is_done
        if (head is None and not body and not is_done) or len(data) > MAX_HEAD_BYTES:
            if not self._may_go_on(head, body, len(data)):
                return
        elif self._barren_bytes:
            self._barren_bytes = 0
        if is_done:
            if head is not None and self._is_kept:
                self._pool.learn(data, head)
            self._finish()
        if head is not None or body or is_done:
            reader.on_reply(head, body, is_done)
        if is_broken:
            self._pool.saw_fault(in_reply=False)

    def _may_go_on(self, head: Head | None, body: bytes, length: int) -> bool:
        """Whether what the engine has sent besides the reply's body is within bounds; fails the reply if not.

        Called only if that is in doubt: a read of `length` bytes brought no part of a reply, or is larger than any
        head.
        """
        if head is not None and sum(len(name) + len(value) + 4 for name, value in head.headers) > MAX_HEAD_BYTES:
            self._barren_bytes = MAX_HEAD_BYTES + 1
        elif head is not None or body or self._is_done:
            self._barren_bytes = 0
        else:
            self._barren_bytes += length
        if self._barren_bytes <= MAX_HEAD_BYTES:
            return True
        self._break_off(f"The engine sent more than {MAX_HEAD_BYTES // 1024} KiB of headers.")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        reader = self.reader
        if reader is None:
            return
        if self._until_close and exc is None:
            self._finish()
            reader.on_reply(None, b"", True)
            return
        is_stale = self._is_used and not self._has_spoken
        self._fail(EngineFailed("The engine closed the connection before its reply was complete."), is_stale=is_stale)

    # httptools

    def on_message_begin(self) -> None:
        if self._is_done:
            raise _Refused  # a second reply to the same request
        self._has_spoken = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []  # trailers go to the new list, which nobody reads
        if len(headers) > MAX_HEADERS:
            self._refuse(f"The engine sent more than {MAX_HEADERS} headers.")
        if status < 200 or status > 599:
            if status in (100, 102, 103):  # Continue, Processing, Early Hints: the reply itself is still to come
                return
            self._refuse(f"The engine answered with the status {status}.")
        # Read here, not at the end of the message: by then the parser has forgotten the headers.
        self._is_kept = self._parser.should_keep_alive()
        length: int | None = None
        is_chunked = False
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                is_chunked = True
                if value.lower() != b"chunked":
                    self._refuse("The engine answered in a transfer encoding that nobody has asked for.")
        self._until_close = length is None and not is_chunked and status not in (204, 304)
        self._is_between_chunks = is_chunked
        if is_chunked and self._tcp is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 0)
        self._head = Head(status, tuple(headers), length)

    def _refuse(self, why: str) -> NoReturn:
        self._fault = why
        raise _Refused

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_chunk_header(self) -> None:
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self._is_between_chunks = True

    def on_message_complete(self) -> None:
        self._is_between_chunks = False
        if self._parser.get_status_code() >= 200:
            self._is_done = True

    # Link

    def start(self, request: Outgoing, reader: Reader) -> None:
        """Send a request; its reply goes to `reader`."""
        self.reader = reader
        self._is_done = False
        self._is_between_chunks = False
        self._has_spoken = False
        self._headers = []
        if isinstance(request, bytes):
            self.transport.write(request)
        else:
            self.transport.writelines(request)
        reader.on_sent()

    def pause(self) -> None:
        """Pause reading, so that TCP back-pressure reaches the engine."""
        if not self._is_paused and not self.is_closed:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused and not self.is_closed:
            self._is_paused = False
            self.transport.resume_reading()

    def cancel(self) -> None:
        """Drop the reply and close the connection, which stops the engine's work."""
        if self.reader is not None:
            self.reader = None
            self._pool.on_request_end()
            self.transport.abort()

    def _finish(self) -> None:
        self.reader = None
        self.resume()
        self._is_used = True
        self._pool.on_request_end()
        if self.is_closed or not self._is_kept:
            self.transport.close()
        else:
            self._pool.keep(self)

    def _break_off(self, why: str) -> None:
        """Fail a reply that is not acceptable HTTP."""
        self._pool.saw_fault(in_reply=True)
        self._fail(EngineFailed(why))

    def _fail(self, error: LoragateError, *, is_stale: bool = False) -> None:
        reader, self.reader = self.reader, None
        self._pool.on_request_end()
        self.transport.abort()
        if reader is not None:
            reader.on_engine_lost(error, is_stale=is_stale)
