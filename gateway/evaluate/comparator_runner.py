"""Run the comparators on a pair in a thread, because a user's comparator may never return.

Such a thread cannot be ended. Each pair gets its own daemon thread, so a hanging one blocks neither the end of the
process nor the threads in which the evaluator talks to its store. Once `MAX_HUNG` threads hang, none is started any
more: pairs are stored without scores at once.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from evaluators.compare import compare_all
from evaluators.observation import Outcome, Pair

log = logging.getLogger("loragate.evaluate")

# Comparators take milliseconds; the bound is for plugins that hang.
COMPARE_SECONDS: Final = 60.0
MAX_HUNG: Final = 4

Compare = Callable[[Pair, tuple[str, ...] | None], Mapping[str, Outcome]]


class ComparatorRunner:
    """Runs comparators on pairs, with a bound on the time and on the number of hanging threads.

    Args:
        compare: Runs the named comparators on a pair.
        seconds: The bound for one pair.
    """

    def __init__(self, compare: Compare = compare_all, seconds: float = COMPARE_SECONDS) -> None:
        self._compare = compare
        self._seconds = seconds
        self._hung = 0

    async def scores(self, pair: Pair, names: tuple[str, ...] | None) -> Mapping[str, Outcome]:
        """Return the comparators' outcomes by name; empty where they take too long or too many threads hang."""
        if self._hung >= MAX_HUNG:
            return {}
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Mapping[str, Outcome]] = loop.create_future()

        def work() -> None:
            try:
                found, error = self._compare(pair, names), None
            except BaseException as problem:  # noqa: BLE001  # a plugin may raise SystemExit, too
                found, error = {}, problem if isinstance(problem, Exception) else RuntimeError("it would end us")
            with contextlib.suppress(RuntimeError):  # the event loop is closed by now
                loop.call_soon_threadsafe(self._set_result, future, found, error)

        threading.Thread(target=work, name="compare", daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(future)
        except (TimeoutError, asyncio.CancelledError) as ended:
            self._hung += 1
            future.add_done_callback(self._count_return)
            if isinstance(ended, asyncio.CancelledError):
                raise
            log.warning(
                "comparators have taken more than %.0f s for one pair, which is kept without scores", self._seconds
            )
            if self._hung == MAX_HUNG:
                log.error("%d threads of comparators hang; pairs are kept without scores until one returns", MAX_HUNG)
            return {}

    @staticmethod
    def _set_result(
        future: "asyncio.Future[Mapping[str, Outcome]]", found: Mapping[str, Outcome], error: Exception | None
    ) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    def _count_return(self, future: "asyncio.Future[Mapping[str, Outcome]]") -> None:
        self._hung -= 1
        future.exception()  # retrieved, so that asyncio does not log it; the pair is stored already
