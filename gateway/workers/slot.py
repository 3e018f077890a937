"""One slot of the worker pool: its process, the channel to it, open questions, and the process's counts."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Collection
from typing import Final

from gateway.records.feedback import About, RequestKey
from gateway.workers import channel
from gateway.workers.channel import Collect, NewTable, Recall, ToWorker
from gateway.workers.chores import CHORE_FAILED
from gateway.workers.counts import WorkerCounts
from gateway.workers.watch import Liveness
from loragate import child_command

log = logging.getLogger("loragate.workers")

# Why a worker has ended unexpectedly; the label of `loragate_worker_restarts_total`.
ENDED: Final = "ended"  # it exited or was killed, not by this gateway
SILENT: Final = "silent"  # it did not answer, and was killed
MESSAGE: Final = "message"  # it sent an invalid message, and was killed
TABLE: Final = "table"  # it could not read a route table, and was killed
CHORE: Final = "chore"  # one of its chores failed, so it exited
REASONS: Final = (ENDED, CHORE, SILENT, MESSAGE, TABLE)
# True: done; False: refused (a table that it cannot read); None: the worker has ended, so it serves nothing old either.
Answer = asyncio.Future[bool | None]
# How long a process may take to exit after it has closed its channel, which is the last thing that it does.
EXIT_SECONDS: Final = 5.0


class Slot:
    """A slot for one worker process and its successors.

    Args:
        place: The slot's number, from 0.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self.process: asyncio.subprocess.Process | None = None
        self.channel: socket.socket | None = None  # to a started process that has been sent nothing yet
        self.writer: asyncio.StreamWriter | None = None
        self.is_configured = False  # it has read its configuration, and confirms tables
        self.is_ready = asyncio.Event()
        self.has_refused_table = False
        self.answers: dict[int, Answer] = {}
        self.liveness = Liveness(0.0)
        self.counts = WorkerCounts()
        self.recalled: dict[int, dict[RequestKey, About]] = {}
        self._killed_for = ""

    async def start(self, listener: socket.socket, module: str) -> None:
        """Start a worker process, which waits for its first message."""
        ours, theirs = socket.socketpair()
        descriptors = (listener.fileno(), theirs.fileno())
        try:
            self.process = await asyncio.create_subprocess_exec(
                *child_command(module, *map(str, descriptors)), pass_fds=descriptors, start_new_session=True
            )
        except OSError as error:  # no memory or no descriptors now; the others go on
            ours.close()
            log.warning("a worker cannot be started: %s", error.strerror)
        else:
            self.channel = ours
        finally:
            theirs.close()

    def tell(self, message: ToWorker) -> None:
        """Send a message, if a worker is connected."""
        if self.writer is not None:
            channel.write(self.writer, message)

    def ask(self, number: int, message: Callable[[int], NewTable | Collect | Recall]) -> Answer:
        """Send a message that the worker answers; return the future of the answer."""
        answer = self.answers[number] = asyncio.get_running_loop().create_future()
        self.tell(message(number))
        return answer

    def resolve(self, number: int, *, well: bool | None) -> None:
        """Set the result of a question: the worker has answered, or has ended (None)."""
        answer = self.answers.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(well)

    def kill(self, reason: str, why: str) -> None:
        """Kill the worker, which may be stuck; the pool starts another."""
        if self.process is not None and not self._killed_for:
            self._killed_for = reason
            log.error("worker %d %s; it is killed, and another is started", self.process.pid, why)
            self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it still runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def clean_up(self) -> str:
        """Clean up after a worker whose channel is closed, and return why it has ended."""
        self.is_configured = self.has_refused_table = False
        self.is_ready.clear()
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        for number in tuple(self.answers):
            self.resolve(number, well=None)
        self.recalled.clear()
        process = self.process
        assert process is not None  # a slot with a channel has a process
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await process.wait()
        except TimeoutError:
            self.kill(SILENT, f"has not ended within {EXIT_SECONDS:g} s of its last word")
            await process.wait()
        reason, self._killed_for = self._killed_for or (CHORE if process.returncode == CHORE_FAILED else ENDED), ""
        self.process = None
        return reason


async def wait_for_answers(answers: Collection[Answer], seconds: float) -> bool:
    """Wait for answers, at most `seconds`; return whether all have come."""
    if not answers:
        return True
    _, late = await asyncio.wait(answers, timeout=seconds)
    return not late
