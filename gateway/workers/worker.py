"""A worker process: one uvicorn server on an inherited socket.

Started by `slot.py` with two descriptors, LISTEN_FD and CHANNEL_FD.
"""

import asyncio
import gc
import logging
import math
import resource
import socket
import ssl
import sys

import uvicorn
import uvloop

from gateway.app import Worker
from gateway.log_lines import WITHOUT_TIME, log_to_stderr
from gateway.receive.protocol import ClientConnection
from gateway.workers import channel
from gateway.workers.channel import Configure
from gateway.workers.tls_listener import TlsListener


class WorkerServer(uvicorn.Server):
    """uvicorn's server, which also tells the node when it accepts connections and when it stops."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker
        self._tls: list[TlsListener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then tell the node."""
        context = self.config.ssl
        if context is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self._tls = [self._tls_listener(each, context) for each in sockets or ()]
        self._worker.announce()

    def _tls_listener(self, listener: socket.socket, context: ssl.SSLContext) -> TlsListener:
        connections, limits = self.server_state.connections, self._worker.deps.limits
        listener.listen(self.config.backlog)
        return TlsListener(
            listener,
            context,
            limits,
            connections,
            lambda: ClientConnection(self.config, self.server_state, self.lifespan.state),
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the node, then drain."""
        self._worker.leave()
        for listener in self._tls:
            listener.close()
        await super().shutdown(sockets)

    def stop(self, drain_seconds: float) -> None:
        """Stop as on a signal: drain for `drain_seconds`, then end."""
        self.config.timeout_graceful_shutdown = math.ceil(drain_seconds)
        self.should_exit = True


async def serve(listener: socket.socket, pair: socket.socket) -> int:
    """Serve until a signal, or until the channel closes; return the exit code."""
    reader, writer = await asyncio.open_connection(sock=pair)
    first = await channel.read_as_worker(reader)
    if not isinstance(first, Configure):
        return 0  # the node has gone before it sent anything
    worker = Worker(first, reader, writer)
    server = WorkerServer(
        uvicorn.Config(
            worker,
            http=ClientConnection,
            ws="none",
            lifespan="on",
            interface="asgi3",
            access_log=False,
            log_config=None,
            backlog=4096,
            ssl_certfile=first.certificate,
            ssl_keyfile=first.private_key,
            timeout_graceful_shutdown=math.ceil(first.drain_seconds),
        ),
        worker,
    )
    worker.connections = server.server_state.connections  # type: ignore[assignment]  # all are of our class
    worker.stop = server.stop
    await server.serve(sockets=[listener])
    return worker.exit_code


def main() -> None:
    """Run a worker on the two inherited descriptors."""
    log_to_stderr(logging.WARNING, WITHOUT_TIME)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # The objects made so far live as long as the process: exempt them from garbage collection, which would walk them.
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=int(sys.argv[1]))
    pair = socket.socket(fileno=int(sys.argv[2]))
    sys.exit(uvloop.run(serve(listener, pair)))


if __name__ == "__main__":
    main()
