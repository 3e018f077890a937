"""A worker's background tasks ("chores"). If one of them fails or ends, the worker ends too.

A worker that no longer reads its channel would serve from an old route table for ever: revoked keys would stay valid,
and a rollback would never reach it. One that no longer checks deadlines would never time a request out. Neither can
recover by itself, so the worker drains briefly and exits, and the node starts another.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

log = logging.getLogger("loragate.worker")

# The exit code that tells the node that a chore has failed (sysexits.h: EX_SOFTWARE).
CHORE_FAILED: Final = 70
# How long replies under way may take to finish after a chore has failed: less than the 5 s for which a worker may
# serve from an old table.
BRIEF_DRAIN_SECONDS: Final = 2.0


class Chores:
    """The background tasks of one worker.

    Args:
        on_failure: Called once when a chore has failed; it ends the worker.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._tasks: list[asyncio.Task[None]] = []
        self.has_failed = False

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task, which must not end before `cancel`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Call `what` after `seconds`; an exception in it counts as a failed chore."""
        asyncio.get_running_loop().call_later(seconds, self._call, what)

    async def cancel(self) -> None:
        """Cancel all chores, and wait until they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _call(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 (whatever it is, the worker ends and says so)
            self._fail(getattr(what, "__qualname__", repr(what)), error)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task not in self._tasks:  # ended by `cancel`
            if not task.cancelled():
                task.exception()  # retrieved so that asyncio does not log it as unhandled
            return
        error = None if task.cancelled() else task.exception()
        self._fail(task.get_name(), error)

    def _fail(self, name: str, error: BaseException | None) -> None:
        if self.has_failed:
            return
        self.has_failed = True
        log.error(
            "the worker's chore `%s` has failed, so this worker ends within %g s and another is started; this is a bug",
            name,
            BRIEF_DRAIN_SECONDS + 1,
            exc_info=error,
        )
        self._on_failure()
