"""Fuse in a separate process, so that serving keeps its memory, its event loop and most of its CPU time.

The process ends when it is done, when this process ends, or when the task that waits for it does.
"""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import msgspec

from adapters.fusion.job import FusionCompleted, FusionJob, FusionRefused, Line, Step
from adapters.fusion.making import Progress
from adapters.fusion.outcome import FusionReport
from adapters.fusion.writing import check_free, discard
from adapters.recipe import CannotFuse, Recipe, complete
from loragate import child_command

log = logging.getLogger("loragate.fusion")

# The longest line that is read: the last one holds names of modules and versions, some KB.
MAX_LINE_BYTES: Final = 1_000_000
# How much of the process's standard error is logged.
LOGGED_BYTES: Final = 4_000


async def fuse_apart(
    recipe: Recipe, folders: Mapping[str, Path], out: Path, *, max_rank: int | None, progress: Progress | None = None
) -> FusionReport:
    """Make the version that `recipe` describes at `out`, in a separate process; see `adapters.fusion.fuse`.

    `progress` is called in this event loop. On cancellation and on failure the process is killed and its output is
    removed.

    Raises:
        CannotFuse: As `fuse` does; also when the process died.
    """
    job = FusionJob(
        recipe=complete(recipe),
        folders={version: str(folder) for version, folder in folders.items()},
        out=str(out),
        max_rank=max_rank,
        parent_pid=os.getpid(),
    )
    check_free(out, folders.values())  # then everything in it after a failure is the process's output
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *child_command("adapters.fusion"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        try:
            last = await _converse(process, job, progress)
            code = await process.wait()
            return _report(last, code, errors)
        except BaseException:  # cancellation included: the process must not outlive the waiting task
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # It must not write any more when we clean up. It was killed, so this wait is short.
            await asyncio.shield(process.wait())
            discard(out)
            raise


async def _converse(process: asyncio.subprocess.Process, job: FusionJob, progress: Progress | None) -> Line | None:
    """Send the job, pass its steps to `progress`, and return the last line."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead already; its exit code is reported
        process.stdin.write(msgspec.json.encode(job))
        await process.stdin.drain()
    process.stdin.close()
    last: Line | None = None
    async for raw in process.stdout:
        last = msgspec.json.decode(raw, type=Line)
        if isinstance(last, Step) and progress is not None:
            progress(last.done, last.of)
    return last


def _report(last: Line | None, code: int, errors: IO[bytes]) -> FusionReport:
    if isinstance(last, FusionCompleted) and code == 0:
        return last.report
    if isinstance(last, FusionRefused):
        raise CannotFuse(last.code, last.message, last.remedy)
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - LOGGED_BYTES))
    log.error("the fusion process ended with code %d: %s", code, errors.read().decode(errors="replace"))
    fate = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise CannotFuse(
        "process_died",
        f"the fusion process {fate} before it was done",
        "see the log; signal 9 is often the kernel's, short of memory",
    )
