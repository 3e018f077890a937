"""What a worker does beside serving. If any of it fails, hangs or ends, the worker has to end too.

A worker whose listening has died would serve on from an old route table for ever: revoked keys stay good and a
rollback never reaches it. One whose deadlines are not looked at any more never gives anything up. Neither can be
mended from inside, so the worker drains briefly and exits, and the node starts another.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

log = logging.getLogger("loragate.worker")

# The exit code by which the node knows (sysexits.h: EX_SOFTWARE).
CHORE_FAILED: Final = 70
# Replies under way get so long to finish when a chore has failed: less than the 5 s for which any worker may serve
# from an old table.
BRIEF_DRAIN_SECONDS: Final = 2.0


class Chores:
    """The chores of one worker.

    Args:
        failed: Called, once, when one of them has failed; the worker is to end.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []
        self.has_failed = False

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run what must not end before `cancel`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Call `what` after so many seconds; that must not fail either."""
        asyncio.get_running_loop().call_later(seconds, self._call, what)

    async def cancel(self) -> None:
        """End all of them."""
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
        if task not in self._tasks:  # cancelled by us
            if not task.cancelled():
                task.exception()  # nobody else asks
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
        self._failed()
