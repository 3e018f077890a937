"""The fusion process: read a job as JSON on standard input; write a JSON line for each step and for the end.

It runs with the lowest priority except idle, and with one thread, so that serving goes first. It ends when the process
that started it does.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from adapters.fusion.job import FusionCompleted, FusionJob, FusionRefused, Line, Step
from adapters.fusion.making import fuse
from adapters.fusion.outcome import FusionReport
from adapters.recipe import CannotFuse

NICENESS: Final = 10
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> int:
    """Do the job; return 0 if the adapter was made, 1 if the fusion was refused."""
    with _reserve_stdout() as output:

        def say(line: Line) -> None:
            output.write(msgspec.json.encode(line) + b"\n")
            output.flush()

        try:
            job = msgspec.json.decode(sys.stdin.buffer.read(), type=FusionJob)
        except msgspec.MsgspecError as error:
            say(
                FusionRefused(
                    "bad_job", f"the job cannot be read: {error}", "write one as adapters.fusion.job.FusionJob has it"
                )
            )
            return 1
        _end_with(job.parent_pid)
        os.nice(NICENESS)
        try:
            say(FusionCompleted(_fuse(job, say)))
        except CannotFuse as refusal:
            say(FusionRefused(refusal.code, str(refusal), refusal.remedy))
            return 1
    return 0


def _fuse(job: FusionJob, say: Callable[[Line], None]) -> FusionReport:
    folders = {version: Path(folder) for version, folder in job.folders.items()}
    return fuse(
        job.recipe, folders, Path(job.out), max_rank=job.max_rank, progress=lambda done, of: say(Step(done, of))
    )


@contextlib.contextmanager
def _reserve_stdout() -> Iterator[BinaryIO]:
    """Yield standard output for our lines alone; what libraries print goes to standard error instead."""
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        yield output


def _end_with(parent: int | None) -> None:
    """Have the kernel kill this process when its parent dies, and exit now if it is dead already."""
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):  # only Linux has this
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
