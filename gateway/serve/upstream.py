"""Pooled HTTP/1.1 connections to one engine, over TCP or a unix socket.

A connection carries one request at a time. What it reads goes to the request's reader
in one call a read; when the reply is complete the connection goes back to the pool.
A reply that nobody wants any more costs its connection: closing it is what tells vLLM
to stop generating.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from gateway.errors import EngineFailed, EngineTimeout, EngineUnavailable, LoragateError
from gateway.ports import Reader
from gateway.serve.chunks import EVENTS_END, LONGEST_LISTED, SIZE_LINES, is_one_chunk_of_events

# uvicorn, which vLLM serves with, closes a connection that was idle for 5 s; we stop using it
# earlier, so that a request does not meet a close on its way.
IDLE_REUSE_SECONDS: Final = 4.0
# Linux acknowledges each read of a stream at once, which costs nearly as much as the read (docs/decisions/0022).
# Told that this is interactive (man 7 tcp), it acknowledges every second one, and the last one within 40 ms.
_QUICK_ACK: Final[int] = getattr(socket, "TCP_QUICKACK", 0)
# Idle connections kept for each engine; more are closed when their reply is complete.
IDLE_CONNECTIONS: Final = 512


class Head:
    """The beginning of a reply."""

    __slots__ = ("headers", "length", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.length = length


class EngineConnection(asyncio.Protocol):
    """One connection; between requests it waits in its pool."""

    __slots__ = (
        "_head", "_headers", "_is_between_chunks", "_is_done", "_is_kept", "_is_paused", "_is_used", "_parser",
        "_parts", "_pool", "_tcp", "_until_close", "idle_since", "is_closed", "reader", "transport",
    )  # fmt: skip

    def __init__(self, pool: "EnginePool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
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
        if reader is None:  # nothing was asked: not a peer we understand
            self.transport.abort()
            return
        if self._is_between_chunks:
            # The usual step of a stream, its check written out: a call would cost as much as it does.
            is_usual = data.endswith(EVENTS_END) and data.startswith(SIZE_LINES[min(len(data), LONGEST_LISTED)])
            if is_usual or is_one_chunk_of_events(data):
                reader.on_chunk(data)  # the parser has not moved: it still waits for a chunk
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineFailed("The engine answered with something that is not HTTP."))
            return
        if self._is_between_chunks and not data.endswith(b"\r\n"):
            self._is_between_chunks = False  # a chunk's size line has begun
        head, self._head = self._head, None
        parts = self._parts
        body = b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        is_done = self._is_done
        if is_done:
            self._finish()
        if head is not None or body or is_done:
            reader.on_reply(head, body, is_done)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        reader = self.reader
        if reader is None:
            return
        if self._until_close and exc is None:
            self._finish()
            reader.on_reply(None, b"", True)
            return
        is_stale = self._is_used and not self._headers
        self._fail(EngineFailed("The engine closed the connection before its reply was complete."), is_stale=is_stale)

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, 103 Early Hints: the reply itself is still to come
            return
        # Asked here, not at the message's end: there the parser has forgotten what the headers said.
        self._is_kept = self._parser.should_keep_alive()
        length: int | None = None
        is_chunked = False
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                is_chunked = True
        self._until_close = length is None and not is_chunked and status not in (204, 304)
        self._is_between_chunks = is_chunked
        if is_chunked and self._tcp is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._tcp.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 0)
        self._head = Head(status, self._headers, length)

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

    def start(self, request: bytes, reader: Reader) -> None:
        """Send a request whose reply goes to `reader`."""
        self.reader = reader
        self._is_done = False
        self._is_between_chunks = False
        self._headers = []
        self.transport.write(request)
        reader.on_sent()

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if not self._is_paused and not self.is_closed:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._is_paused and not self.is_closed:
            self._is_paused = False
            self.transport.resume_reading()

    def cancel(self) -> None:
        """Drop the reply and its connection."""
        if self.reader is not None:
            self.reader = None
            self._pool.ended()
            self.transport.abort()

    def _finish(self) -> None:
        self.reader = None
        self.resume()
        self._is_used = True
        self._pool.ended()
        if self.is_closed or not self._is_kept:
            self.transport.close()
        else:
            self._pool.keep(self)

    def _fail(self, error: LoragateError, *, is_stale: bool = False) -> None:
        reader, self.reader = self.reader, None
        self._pool.ended()
        self.transport.abort()
        if reader is not None:
            reader.on_engine_lost(error, is_stale=is_stale)


class Dialling:
    """A request that waits for its connection to be made."""

    __slots__ = ("_pool", "connection", "is_cancelled", "reader", "request")

    def __init__(self, pool: "EnginePool", request: bytes, reader: Reader) -> None:
        self._pool = pool
        self.request = request
        self.reader = reader
        self.connection: EngineConnection | None = None
        self.is_cancelled = False

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self.connection is not None:
            self.connection.resume()

    def cancel(self) -> None:
        """Drop the request; a connection that is still made goes to the pool unused."""
        if self.connection is not None:
            # The connection may serve another request by now.
            if self.connection.reader is self.reader:
                self.connection.cancel()
        elif not self.is_cancelled:
            self.is_cancelled = True
            self._pool.ended()


class EnginePool:
    """The connections to one engine.

    Args:
        url: `http://host:port`, or `unix:///path`.
        counts: URL → requests in flight, shared by all pools of a worker.
        connect_timeout: Seconds to wait for a connection.
        clock: Monotonic seconds.
        on_ended: Called each time a request has ended, if anybody needs to know.
    """

    def __init__(
        self, url: str, counts: dict[str, int], connect_timeout: float, clock: Callable[[], float],
        on_ended: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self.has_spoken = False  # since somebody last asked
        self._on_ended = on_ended
        self._counts = counts
        self._counts.setdefault(url, 0)
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._idle: deque[EngineConnection] = deque()
        self._dials: set[asyncio.Task[None]] = set()

    def send(self, request: bytes, reader: Reader) -> EngineConnection | Dialling:
        """Send on an idle connection, else make one."""
        self._counts[self.url] += 1
        idle = self._idle
        while idle:
            connection = idle.pop()  # the one used last: the others age and go
            if not connection.is_closed and self._clock() - connection.idle_since < IDLE_REUSE_SECONDS:
                connection.start(request, reader)
                return connection
            connection.transport.close()
        dialling = Dialling(self, request, reader)
        task = asyncio.get_running_loop().create_task(self._dial(dialling))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return dialling

    def keep(self, connection: EngineConnection) -> None:
        """Take back a connection whose reply is complete."""
        if len(self._idle) >= IDLE_CONNECTIONS:
            connection.transport.close()
            return
        connection.idle_since = self._clock()
        self._idle.append(connection)

    def ended(self) -> None:
        """One request less is in flight."""
        self._counts[self.url] -= 1
        if self._on_ended is not None:
            self._on_ended()

    def close(self) -> None:
        """Close idle connections and give up those being made; requests under way go on."""
        for task in self._dials:
            task.cancel()
        while self._idle:
            self._idle.pop().transport.close()

    async def _dial(self, dialling: Dialling) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._connect()
        except TimeoutError:
            self._refused(dialling, EngineTimeout(f"The engine took no connection within {self._connect_timeout:g} s."))
            return
        except (OSError, ValueError):  # refused, or no address at all
            self._refused(dialling, EngineUnavailable("The engine is not reachable: it may be restarting. Try again."))
            return
        if dialling.is_cancelled:
            self.keep(connection)
            return
        if connection.is_closed:  # taken and dropped at once: nobody would ever tell the reader
            self._refused(dialling, EngineUnavailable("The engine dropped a new connection: it may be restarting."))
            return
        dialling.connection = connection
        connection.start(dialling.request, dialling.reader)

    async def _connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            _, connection = await loop.create_unix_connection(lambda: EngineConnection(self), parts.path)
        else:
            _, connection = await loop.create_connection(
                lambda: EngineConnection(self), str(parts.hostname), parts.port or 80
            )
        return connection

    def _refused(self, dialling: Dialling, error: LoragateError) -> None:
        if not dialling.is_cancelled:
            dialling.is_cancelled = True
            self.ended()
            dialling.reader.on_engine_lost(error, is_stale=False)


class EnginePools:
    """The pools of all engines a worker has met, made on first use; `heard_at` is kept by `sweep`."""

    def __init__(
        self, connect_timeout: float, clock: Callable[[], float], on_ended: Callable[[], None] | None = None
    ) -> None:
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._on_ended = on_ended
        self.heard_at: dict[str, float] = {}
        self._pools: dict[str, EnginePool] = {}
        self._in_flight: dict[str, int] = {}

    @property
    def in_flight(self) -> dict[str, int]:
        """Engine URL → requests in flight."""
        return self._in_flight

    def send(self, url: str, request: bytes, reader: Reader) -> EngineConnection | Dialling:
        """Send `request` to the engine at `url`."""
        pool = self._pools.get(url)
        if pool is None:
            pool = EnginePool(url, self._in_flight, self._connect_timeout, self._clock, self._on_ended)
            self._pools[url] = pool
        return pool.send(request, reader)

    def sweep(self, now: float) -> None:
        """Note which engines have been heard since the last time."""
        for url, pool in self._pools.items():
            if pool.has_spoken:
                pool.has_spoken = False
                self.heard_at[url] = now

    def close(self) -> None:
        """Close what is idle."""
        for pool in self._pools.values():
            pool.close()
