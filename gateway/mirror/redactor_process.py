"""Redact with code that may never return, and go on when it does not.

Patterns of operators and redactors of packages run in a process of their own with a deadline. What takes longer
is ended: that copy is lost and counted. Such a redactor that was ended `MAX_LOST` times in a row is not asked again
for a while; copies that need it are dropped, never kept unredacted. Built-in redactors take time that grows
with the text's length; they run in the node on what is small, and on large copies there as well.
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
from gateway.mirror.redactor_child import HEAD_BYTES, LOADED, Done, RedactionJob
from gateway.mirror.redactors import BUILTIN, REGEX, NotRedacted, installed, redact_text
from gateway.records.sample import Sample
from loragate import child_command

log = logging.getLogger("loragate.mirror")

# Of one copy. A redactor of ours takes milliseconds for the largest.
JOB_SECONDS: Final = 5.0
# Before that: for the process to start, and for packages to be imported.
LOAD_SECONDS: Final = 30.0
MAX_LOST: Final = 3
# Bytes. Built-in redactors are Python's patterns, which let no other thread run: milliseconds for this much.
MAX_HERE: Final = 16 * 1024
DISABLED_SECONDS: Final = 600.0


class Redacting:
    """Redacts samples and texts, from any thread, one at a time where others' code is needed.

    Args:
        seconds: For one job.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float = JOB_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._running = mmap.mmap(-1, 1)
        self._lost: dict[str, int] = {}  # times in a row
        self._disabled: dict[str, float] = {}  # until when
        self._is_closed = False

    def sample(self, sample: Sample, names: Sequence[str]) -> Sample:
        """Return a sample as it may be kept.

        Raises:
            NotRedacted: It must not be kept.
        """
        if not _foreign(names) and sample.size <= MAX_HERE:
            return redact(sample, names)
        clean = self._elsewhere(RedactionJob(names=tuple(names), sample=sample)).sample
        assert clean is not None
        return sample if clean == sample else clean

    def text(self, text: str, names: Sequence[str]) -> str:
        """Return a text without what the redactors find.

        Raises:
            NotRedacted: It must not be kept.
        """
        if not _foreign(names):
            return redact_text(text, names)
        return self._elsewhere(RedactionJob(names=tuple(names), text=text)).text

    def close(self) -> None:
        """End the process; whoever waits for it is told that it was lost."""
        self._is_closed = True
        self._end()

    def _elsewhere(self, job: RedactionJob) -> Done:
        with self._lock:
            self._refuse_disabled(job.names)
            try:
                done = self._asked(job)
            except (OSError, EOFError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
                self._end()
                raise self._lost_by(job.names, error) from None
            for name in job.names:
                self._lost.pop(name, None)
        if done.reason:
            raise NotRedacted(done.reason, done.message)
        return done

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

    def _asked(self, job: RedactionJob) -> Done:
        channel = self._channel if self._channel is not None else self._started()
        # It ends itself if we are gone by then.
        job.load_seconds, job.seconds = LOAD_SECONDS + 1.0, self._seconds + 1.0
        data = msgspec.msgpack.encode(job)
        self._running[0] = 0
        channel.settimeout(LOAD_SECONDS)
        channel.sendall(len(data).to_bytes(HEAD_BYTES) + data)
        _received(channel, len(LOADED), time.monotonic() + LOAD_SECONDS)
        deadline = time.monotonic() + self._seconds
        size = int.from_bytes(_received(channel, HEAD_BYTES, deadline))
        return msgspec.msgpack.decode(_received(channel, size, deadline), type=Done)

    def _started(self) -> socket.socket:
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

    def _lost_by(self, names: Sequence[str], error: Exception) -> NotRedacted:
        """Return what is told of a job that was lost, by the redactor that ran."""
        name = names[min(self._running[0], len(names) - 1)]
        how = f"did not end within {self._seconds:g} s" if isinstance(error, TimeoutError) else "ended its process"
        count = self._lost[name] = self._lost.get(name, 0) + 1
        if count >= MAX_LOST and not self._is_closed and name not in BUILTIN:
            self._lost[name] = MAX_LOST - 1  # once more is enough after the pause
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


def _foreign(names: Sequence[str]) -> bool:
    """Whether others' code is needed: a pattern, or a package that is there."""
    return any(name.startswith(REGEX) or (name not in BUILTIN and name in installed()) for name in names)


def _received(channel: socket.socket, size: int, deadline: float) -> bytes:
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
