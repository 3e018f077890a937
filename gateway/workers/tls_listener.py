"""Accepts TLS connections, so that limits apply from the accept on and not only after the handshake.

asyncio's TLS server tells a protocol about a connection only when its handshake is done: clients that never begin one
would not count under `max_connections` and `header_seconds`. So connections are accepted here, and each gets a time
limit for its handshake.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final, cast

from gateway.receive.limits import Limits

log = logging.getLogger("loragate.worker")

# How many connections are accepted in one turn of the event loop.
_AT_ONCE: Final = 64
# How long to wait when there is no file descriptor or memory for another connection; asyncio's servers wait as long.
_RETRY_SECONDS: Final = 1.0
_OUT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TlsListener:
    """Accepts connections, and does their TLS handshakes.

    Args:
        listener: The listening socket.
        context: The TLS context with the certificate.
        limits: How many connections there may be, and how long a handshake may take.
        connections: The connections whose handshake is done; their protocol maintains it.
        make: Makes the protocol for a connection whose handshake is done.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        limits: Limits,
        connections: Collection[object],
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listener = listener
        self._context = context
        self._limits = limits
        self._connections = connections
        self._make = make
        self._shaking: dict[asyncio.Task[None], None] = {}  # handshakes under way, the oldest first
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Stop accepting, and drop connections whose handshake is not done: they have sent no request yet."""
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
        while self._shaking:
            self._drop_oldest()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # another worker has accepted it, or the client has gone
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                log.warning("no connection can be accepted for %g s: %s", _RETRY_SECONDS, error)
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(_RETRY_SECONDS, self._listen)
                return
            self._take(client)

    def _take(self, client: socket.socket) -> None:
        if len(self._shaking) + len(self._connections) >= self._limits.max_connections:
            if not self._shaking:
                client.close()  # before the handshake no error can be sent
                return
            self._drop_oldest()  # else idle clients could keep others out
        client.setblocking(False)
        task = self._loop.create_task(self._shake_hands(client))
        self._shaking[task] = None
        task.add_done_callback(self._is_over)

    def _drop_oldest(self) -> None:
        task = next(iter(self._shaking))
        del self._shaking[task]
        # Not cancelled at once: a task that has not started yet would never close its socket.
        self._loop.call_soon(task.cancel)

    async def _shake_hands(self, client: socket.socket) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        # Errors: a time-out, no valid TLS, or the client has gone. The event loop closes the connection.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                lambda: _Handshake(lambda: self._protocol(task)),
                client,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.header_seconds,
            )

    def _protocol(self, task: asyncio.Task[None]) -> asyncio.Protocol:
        self._is_over(task)  # from now on the connection counts in `connections`
        return self._make()

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)


class _Handshake(asyncio.Protocol):
    """A placeholder protocol during the handshake; then it hands the connection to the real one.

    Args:
        make: Makes the real protocol.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
