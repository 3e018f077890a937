"""A server of a few lines on a free port, for peers that do what no library of ours would."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from tests.support.patience import PATIENCE_SECONDS

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def raw_server(serve: Serve) -> Iterator[int]:
    """Run `serve` for each connection, on a thread of its own; yields the port on loopback."""
    is_up, stop = threading.Event(), asyncio.Event()
    port = 0
    loop: asyncio.AbstractEventLoop

    async def main() -> None:
        nonlocal port, loop
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        is_up.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert is_up.wait(PATIENCE_SECONDS)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_SECONDS)
