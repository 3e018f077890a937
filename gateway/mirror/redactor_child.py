"""The process that runs redactors of operators and packages, which can be killed at any moment.

`redactor_process.py` starts it with two descriptors: a socket for jobs and results, and a file of one byte that says
which redactor runs. It ends when the socket closes, or by SIGALRM when a job takes too long. Redactors cannot prevent
that, so the process never outlives its gateway.
"""

import mmap
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

import msgspec

from gateway.mirror.redact import redact
from gateway.mirror.redactors import NotRedacted, redact_text, redactor_of
from gateway.records.sample import Sample

HEAD_BYTES: Final = 8
# Sent before the result, when the redactors are imported: from here on the job's own time limit runs.
LOADED: Final = b"\x01"
# Lower CPU priority than gateways and engines on the same machine.
_NICENESS: Final = 10
_MAX_INDEX: Final = 255


class RedactionJob(msgspec.Struct, kw_only=True):
    """One sample or one text to redact."""

    names: tuple[str, ...]
    load_seconds: float = 0
    seconds: float = 0
    sample: Sample | None = None
    text: str = ""


class RedactionResult(msgspec.Struct, kw_only=True):
    """The redacted sample or text, or why it must not be kept."""

    sample: Sample | None = None
    text: str = ""
    reason: str = ""
    message: str = ""


def serve(channel: socket.socket, running: mmap.mmap) -> None:
    """Do jobs one after another, until the socket closes."""
    decoder = msgspec.msgpack.Decoder(RedactionJob)
    encoder = msgspec.msgpack.Encoder()
    with channel.makefile("rb") as jobs:
        while head := jobs.read(HEAD_BYTES):
            job = decoder.decode(jobs.read(int.from_bytes(head)))
            signal.setitimer(signal.ITIMER_REAL, job.load_seconds)  # SIGALRM has no handler, so it ends the process
            _load(job, running)
            channel.sendall(LOADED)
            signal.setitimer(signal.ITIMER_REAL, job.seconds)
            answer = encoder.encode(_run(job, running))
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.sendall(len(answer).to_bytes(HEAD_BYTES) + answer)


def _load(job: RedactionJob, running: mmap.mmap) -> None:
    """Import the redactors' packages, which may take far longer than redacting."""
    for number, name in enumerate(job.names):
        running[0] = min(number, _MAX_INDEX)
        with suppress(Exception):  # the same error comes again, and is reported, when the redactor is used
            redactor_of(name)


def _run(job: RedactionJob, running: mmap.mmap) -> RedactionResult:
    def begin(name: str) -> None:
        running[0] = min(job.names.index(name), _MAX_INDEX)

    try:
        if job.sample is None:
            return RedactionResult(text=redact_text(job.text, job.names, begin))
        return RedactionResult(sample=redact(job.sample, job.names, begin))
    except NotRedacted as error:
        return RedactionResult(reason=error.reason, message=str(error))


def main() -> None:
    """Serve jobs on the two inherited descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the gateway closes the socket, which ends this process
    os.nice(_NICENESS)
    with mmap.mmap(int(sys.argv[2]), 1) as running:
        serve(socket.socket(fileno=int(sys.argv[1])), running)


if __name__ == "__main__":
    main()
