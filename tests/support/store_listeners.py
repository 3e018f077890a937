"""Processes that share a store."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from tests.support.fork_server import processes


@contextmanager
def running(work: Callable[..., None], *arguments: object) -> Iterator[tuple[int, Connection]]:
    """A process that does `work`, and what it tells; killed in the end."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        yield process.pid, ours
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.join()
        ours.close()


def heard(connection: Connection) -> list[object]:
    """What has been told until now, or until the other end was closed."""
    told = []
    with contextlib.suppress(EOFError):
        while connection.poll():
            told.append(connection.recv())
    return told
