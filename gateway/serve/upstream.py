"""Pools of connections to engines, over TCP or unix sockets."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from gateway.engine_address import OPEN, Access, Address
from gateway.errors import EngineTimeout, EngineUnavailable, LoragateError
from gateway.ports import Outgoing, Reader
from gateway.serve.connection import EngineConnection
from gateway.serve.known_head import RELEARN_SECONDS, Head, KnownHead

# uvicorn, vLLM's server, closes connections that were idle for 5 s. They are not reused that long, so that a request
# does not cross with the close.
IDLE_REUSE_SECONDS: Final = 4.0
# Idle connections kept for each engine; beyond this a connection is closed when its reply is complete.
IDLE_CONNECTIONS: Final = 512


class Dialling:
    """A request that waits until its connection is established."""

    __slots__ = ("_pool", "connection", "is_cancelled", "reader", "request")

    def __init__(self, pool: "EnginePool", request: Outgoing, reader: Reader) -> None:
        self._pool = pool
        self.request = request
        self.reader = reader
        self.connection: EngineConnection | None = None
        self.is_cancelled = False

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def cancel(self) -> None:
        """Drop the request; if its connection is established later, that goes to the pool unused."""
        if self.connection is not None:
            # The connection may serve another request by now.
            if self.connection.reader is self.reader:
                self.connection.cancel()
        elif not self.is_cancelled:
            self.is_cancelled = True
            self._pool.on_request_end()


class EnginePool:
    """The connections to one engine.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        counts: URL → requests in flight, shared by all pools of a worker.
        connect_timeout: Seconds to wait for a connection.
        clock: Returns monotonic seconds.
        on_ended: Called each time a request has ended.
        on_fault: Called with the URL each time the engine sent bytes that are not HTTP or exceed a bound, and with
            whether a reply has failed because of that.
        access: The engine's API key and certificates.
    """

    def __init__(
        self,
        url: str,
        counts: dict[str, int],
        connect_timeout: float,
        clock: Callable[[], float],
        on_ended: Callable[[], None] | None = None,
        on_fault: Callable[[str, bool], None] | None = None,
        access: Access = OPEN,
    ) -> None:
        self.url = url
        self._address = Address(url, access)
        self._address_request = None if self._address.is_plain else self._address.address_request
        self.has_spoken = False  # the engine has sent something since the last sweep
        self._on_ended = on_ended
        self._on_fault = on_fault
        self._counts = counts
        self._counts.setdefault(url, 0)
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._idle: deque[EngineConnection] = deque()
        self._dials: set[asyncio.Task[None]] = set()
        self.known_head: KnownHead | None = None
        self._learned_at = -RELEARN_SECONDS

    def learn(self, reply: bytes, head: Head) -> None:
        """Remember the head of a whole reply, so that a reply with the same head needs no parser."""
        now = self._clock()
        if now - self._learned_at >= RELEARN_SECONDS:
            self._learned_at = now
            self.known_head = KnownHead.of(reply, head)

    def send(self, request: Outgoing, reader: Reader) -> EngineConnection | Dialling:
        """Send on an idle connection, else on a new one."""
        if self._address_request is not None:
            if isinstance(request, bytes):
                request = self._address_request(request)
            else:
                request = [self._address_request(bytes(request[0])), *request[1:]]
        self._counts[self.url] += 1
        idle = self._idle
        while idle:
            connection = idle.pop()  # the one used last, so that superfluous ones age and are closed
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

    def on_request_end(self) -> None:
        """Count one request less in flight."""
        self._counts[self.url] -= 1
        if self._on_ended is not None:
            self._on_ended()

    def saw_fault(self, *, in_reply: bool) -> None:
        """Report bytes that are not HTTP or exceed a bound: instead of a reply (`in_reply`), or outside of one."""
        if self._on_fault is not None:
            self._on_fault(self.url, in_reply)

    def close(self) -> None:
        """Close idle connections and cancel new ones; requests under way go on."""
        for task in self._dials:
            task.cancel()
        while self._idle:
            self._idle.pop().transport.close()

    async def _dial(self, dialling: Dialling) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._connect()
        except TimeoutError:
            self._fail_dial(
                dialling, EngineTimeout(f"The engine took no connection within {self._connect_timeout:g} s.")
            )
            return
        except (OSError, ValueError) as cause:  # refused, no address at all, or a certificate that is not trusted
            error = EngineUnavailable("The engine is not reachable: it may be restarting. Try again.")
            error.__cause__ = cause  # for operators; it may name addresses
            self._fail_dial(dialling, error)
            return
        if dialling.is_cancelled:
            self.keep(connection)
            return
        if connection.is_closed:  # accepted and closed at once: `connection_lost` came before there was a reader
            self._fail_dial(dialling, EngineUnavailable("The engine dropped a new connection: it may be restarting."))
            return
        dialling.connection = connection
        connection.start(dialling.request, dialling.reader)

    async def _connect(self) -> EngineConnection:
        loop, address = asyncio.get_running_loop(), self._address
        if address.socket_path:
            _, connection = await loop.create_unix_connection(lambda: EngineConnection(self), address.socket_path)
        else:
            _, connection = await loop.create_connection(
                lambda: EngineConnection(self), address.host, address.port, ssl=address.tls()
            )
        return connection

    def _fail_dial(self, dialling: Dialling, error: LoragateError) -> None:
        if not dialling.is_cancelled:
            dialling.is_cancelled = True
            self.on_request_end()
            dialling.reader.on_engine_lost(error, is_stale=False)


class EnginePools:
    """The pools of all engines that a worker has sent requests to, made at first use; `sweep` updates `heard_at`."""

    def __init__(
        self,
        connect_timeout: float,
        clock: Callable[[], float],
        on_ended: Callable[[], None] | None = None,
        on_fault: Callable[[str, bool], None] | None = None,
        access: Mapping[str, Access] | None = None,
    ) -> None:
        self._access = access or {}
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._on_ended = on_ended
        self._on_fault = on_fault
        self.heard_at: dict[str, float] = {}
        self._pools: dict[str, EnginePool] = {}
        self._in_flight: dict[str, int] = {}

    @property
    def in_flight(self) -> dict[str, int]:
        return self._in_flight

    def send(self, url: str, request: Outgoing, reader: Reader) -> EngineConnection | Dialling:
        pool = self._pools.get(url)
        if pool is None:
            pool = EnginePool(
                url,
                self._in_flight,
                self._connect_timeout,
                self._clock,
                self._on_ended,
                self._on_fault,
                self._access.get(url, OPEN),
            )
            self._pools[url] = pool
        return pool.send(request, reader)

    def sweep(self, now: float) -> None:
        """Record which engines have sent anything since the last sweep."""
        for url, pool in self._pools.items():
            if pool.has_spoken:
                pool.has_spoken = False
                self.heard_at[url] = now

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
