"""A process that redacts with other people's code, and that can be ended at any moment.

Started by `redactor_process.py` with two descriptors: a socket over which work comes and goes, and a file of
one byte that tells which redactor runs. Ends with the socket, or by a signal of the clock when one job takes
too long: no code can hold that up, so none outlives its gateway.
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
# Sent before the answer: from here on the job's own time counts.
LOADED: Final = b"\x01"
# Behind whatever serves on the same machine.
_NICENESS: Final = 10
_MAX_INDEX: Final = 255


class RedactionJob(msgspec.Struct, kw_only=True):
    """One sample, or one text."""

    names: tuple[str, ...]
    load_seconds: float = 0
    seconds: float = 0
    sample: Sample | None = None
    text: str = ""


class Done(msgspec.Struct, kw_only=True):
    """What came of it: a sample, a text, or why it must not be kept."""

    sample: Sample | None = None
    text: str = ""
    reason: str = ""
    message: str = ""


def serve(channel: socket.socket, running: mmap.mmap) -> None:
    """Do one job after the other, until nobody sends any."""
    decoder = msgspec.msgpack.Decoder(RedactionJob)
    encoder = msgspec.msgpack.Encoder()
    with channel.makefile("rb") as jobs:
        while head := jobs.read(HEAD_BYTES):
            job = decoder.decode(jobs.read(int.from_bytes(head)))
            signal.setitimer(signal.ITIMER_REAL, job.load_seconds)  # nobody handles it, so it ends the process
            _load(job, running)
            channel.sendall(LOADED)
            signal.setitimer(signal.ITIMER_REAL, job.seconds)
            answer = encoder.encode(_done(job, running))
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.sendall(len(answer).to_bytes(HEAD_BYTES) + answer)


def _load(job: RedactionJob, running: mmap.mmap) -> None:
    """Import the packages, which may take far longer than their work."""
    for number, name in enumerate(job.names):
        running[0] = min(number, _MAX_INDEX)
        with suppress(Exception):  # told when it is to be used
            redactor_of(name)


def _done(job: RedactionJob, running: mmap.mmap) -> Done:
    def begin(name: str) -> None:
        running[0] = min(job.names.index(name), _MAX_INDEX)

    try:
        if job.sample is None:
            return Done(text=redact_text(job.text, job.names, begin))
        return Done(sample=redact(job.sample, job.names, begin))
    except NotRedacted as error:
        return Done(reason=error.reason, message=str(error))


def main() -> None:
    """Work on the two inherited descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's, which then closes the socket
    os.nice(_NICENESS)
    with mmap.mmap(int(sys.argv[2]), 1) as running:
        serve(socket.socket(fileno=int(sys.argv[1])), running)


if __name__ == "__main__":
    main()
