"""Run redactors that may never return, with a deadline, in a process that can be killed.

Patterns of operators and redactors of packages run in this process. A job that takes too long is killed; that copy is
lost and counted. A redactor that was killed `MAX_LOST` times in a row is disabled for a while; copies that need it are
dropped, never kept unredacted. Built-in redactors take time that is linear in the text's length: they run inside the
node on small copies, and in the process on large ones.
"""

import logging
import mmap
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.mirror.redact import redact
from gateway.mirror.redactor_child import HEAD_BYTES, LOADED, RedactionJob, RedactionResult
from gateway.mirror.redactors import BUILTIN, REGEX, NotRedacted, redact_text, redactor_names
from gateway.records.sample import Sample
from loragate import child_command

log = logging.getLogger("loragate.mirror")

# The time limit for one copy. Built-in redactors take milliseconds for the largest.
JOB_SECONDS: Final = 5.0
# The time limit before that, for starting the process and importing packages.
LOAD_SECONDS: Final = 30.0
MAX_LOST: Final = 3
# The largest copy, in bytes, that is redacted inside the node. Built-in redactors use Python's `re`, which lets no
# other thread run, and take milliseconds for this much.
MAX_HERE: Final = 16 * 1024
DISABLED_SECONDS: Final = 600.0


class RedactorRunner:
    """Redacts samples and texts, from any thread. Jobs for the process run one at a time.

    Args:
        seconds: The time limit for one job.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float = JOB_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._running = mmap.mmap(-1, 1)
        self._lost: dict[str, int] = {}  # redactor → how often in a row its job was lost
        self._disabled: dict[str, float] = {}  # redactor → until when it is not used
        self._is_closed = False

    def sample(self, sample: Sample, names: Sequence[str]) -> Sample:
        """Return a sample as it may be kept.

        Raises:
            NotRedacted: It must not be kept.
        """
        if not _needs_process(names) and sample.size <= MAX_HERE:
            return redact(sample, names)
        clean = self._run_in_process(RedactionJob(names=tuple(names), sample=sample)).sample
        assert clean is not None
        return sample if clean == sample else clean

    def text(self, text: str, names: Sequence[str]) -> str:
        """Return a text without what the redactors find.

        Raises:
            NotRedacted: It must not be kept.
        """
        if not _needs_process(names):
            return redact_text(text, names)
        return self._run_in_process(RedactionJob(names=tuple(names), text=text)).text

    def close(self) -> None:
        """End the process; jobs that wait for it fail as lost."""
        self._is_closed = True
        self._end()

    def _run_in_process(self, job: RedactionJob) -> RedactionResult:
        with self._lock:
            self._refuse_disabled(job.names)
            try:
                result = self._ask(job)
            except (OSError, EOFError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
                self._end()
                raise self._record_loss(job.names, error) from None
            for name in job.names:
                self._lost.pop(name, None)
        if result.reason:
            raise NotRedacted(result.reason, result.message)
        return result

    def _refuse_disabled(self, names: Sequence[str]) -> None:
        now = self._clock()
        for name in names:
            if self._disabled.get(name, 0.0) > now:
                raise NotRedacted(
                    "redactor_disabled",
                    f"the redactor `{name[:80]}` was ended {MAX_LOST} times in a row and is not asked for now",
                )
        if self._is_closed:
            raise NotRedacted("redactor_failed", "the gateway ends")

    def _ask(self, job: RedactionJob) -> RedactionResult:
        channel = self._channel if self._channel is not None else self._start()
        # The process has limits of its own, a second longer, in case this process is gone by then.
        job.load_seconds, job.seconds = LOAD_SECONDS + 1.0, self._seconds + 1.0
        data = msgspec.msgpack.encode(job)
        self._running[0] = 0
        channel.settimeout(LOAD_SECONDS)
        channel.sendall(len(data).to_bytes(HEAD_BYTES) + data)
        _receive(channel, len(LOADED), time.monotonic() + LOAD_SECONDS)
        deadline = time.monotonic() + self._seconds
        size = int.from_bytes(_receive(channel, HEAD_BYTES, deadline))
        return msgspec.msgpack.decode(_receive(channel, size, deadline), type=RedactionResult)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        shared = os.memfd_create("loragate-redactor")
        try:
            os.ftruncate(shared, 1)
            self._running = mmap.mmap(shared, 1)
            command = child_command("gateway.mirror.redactor_child", str(theirs.fileno()), str(shared))
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(), shared)
            )
        finally:
            theirs.close()
            os.close(shared)
        self._channel = ours
        return ours

    def _end(self) -> None:
        process, channel = self._process, self._channel
        self._process = self._channel = None
        if process is not None:
            process.kill()
            process.wait()
        if channel is not None:
            channel.close()

    def _record_loss(self, names: Sequence[str], error: Exception) -> NotRedacted:
        """Count a lost job against the redactor that ran, disable it if it has lost too many, and return the error."""
        name = names[min(self._running[0], len(names) - 1)]
        how = f"did not end within {self._seconds:g} s" if isinstance(error, TimeoutError) else "ended its process"
        count = self._lost[name] = self._lost.get(name, 0) + 1
        if count >= MAX_LOST and not self._is_closed and name not in BUILTIN:
            self._lost[name] = MAX_LOST - 1  # after the pause, one more loss disables it again
            self._disabled[name] = self._clock() + DISABLED_SECONDS
            log.error(
                "the redactor `%s` %s, %d times in a row: it is not asked for %.0f s, and copies of requests whose "
                "routes name it are dropped; repair it, or take it out of the routes' `redact`",
                name[:80],
                how,
                count,
                DISABLED_SECONDS,
            )
        return NotRedacted("redactor_failed", f"the redactor `{name[:80]}` {how}")


def _needs_process(names: Sequence[str]) -> bool:
    """Whether any redactor is a pattern or belongs to an installed package."""
    return any(name.startswith(REGEX) or (name not in BUILTIN and name in redactor_names()) for name in names)


def _receive(channel: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
