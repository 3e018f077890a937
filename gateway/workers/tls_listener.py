"""The app port with TLS: a connection counts, and its time runs, from when it is accepted.

A server that is given a certificate tells its protocol of a connection when the handshake is over: those that never
begin one would stand outside `max_connections` and `header_seconds`. So connections are accepted here, and the event
loop gets them together with the time for their handshake.
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

# Connections that are accepted before anything else has its turn.
_AT_ONCE: Final = 64
# As long as asyncio's servers wait when there is no descriptor or memory for one more connection.
_RETRY_SECONDS: Final = 1.0
_OUT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TlsListener:
    """Accepts connections and does their handshakes.

    Args:
        listener: The socket, which listens.
        context: The certificate.
        limits: How many connections there may be, and how long a handshake may take.
        connections: Those whose handshake is done, kept by their protocol.
        make: Makes the protocol of a connection whose handshake is done.
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
        self._shaking: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more, and drop those whose handshake is not done: they have asked for nothing yet."""
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
                return  # another worker had it, or it is gone
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
                client.close()  # before the handshake there is no way to say why
                return
            self._drop_oldest()  # else those who say nothing would keep out those who do
        client.setblocking(False)
        task = self._loop.create_task(self._shake_hands(client))
        self._shaking[task] = None
        task.add_done_callback(self._is_over)

    def _drop_oldest(self) -> None:
        task = next(iter(self._shaking))
        del self._shaking[task]
        # Not at once: a task that has not begun would leave its socket to the collector.
        self._loop.call_soon(task.cancel)

    async def _shake_hands(self, client: socket.socket) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        # An error is that it took too long, that it is no TLS, or that the client is gone; the event loop closes it.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                lambda: _Handshake(lambda: self._protocol(task)),
                client,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.header_seconds,
            )

    def _protocol(self, task: asyncio.Task[None]) -> asyncio.Protocol:
        self._is_over(task)  # from now on it is among `connections`
        return self._make()

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)


class _Handshake(asyncio.Protocol):
    """Stands for the protocol of a connection until there is one to be served.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
