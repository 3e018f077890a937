"""Run the comparators on a pair, each pair in a thread of its own, as a user's comparator may never return.

Such a thread cannot be ended. It is a daemon, so that it does not hold up the process's end, and it is none of those
in which the evaluator talks to its store. Once `MAX_HUNG` hang, no more are begun: pairs go without scores at once.
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

# A comparator takes milliseconds, a plugin may hang.
COMPARE_SECONDS: Final = 60.0
MAX_HUNG: Final = 4

Compare = Callable[[Pair, tuple[str, ...] | None], Mapping[str, Outcome]]


class Comparing:
    """Compares pairs, and is not held up by what hangs.

    Args:
        compare: What is done.
        seconds: For one pair.
    """

    def __init__(self, compare: Compare = compare_all, seconds: float = COMPARE_SECONDS) -> None:
        self._compare = compare
        self._seconds = seconds
        self._hung = 0

    async def scores(self, pair: Pair, names: tuple[str, ...] | None) -> Mapping[str, Outcome]:
        """Return what comparators say of a pair; nothing where they take too long."""
        if self._hung >= MAX_HUNG:
            return {}
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Mapping[str, Outcome]] = loop.create_future()

        def work() -> None:
            try:
                found, error = self._compare(pair, names), None
            except BaseException as problem:  # noqa: BLE001  # also one that means to end the process
                found, error = {}, problem if isinstance(problem, Exception) else RuntimeError("it would end us")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._tell, done, found, error)

        threading.Thread(target=work, name="compare", daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(done)
        except (TimeoutError, asyncio.CancelledError) as ended:
            self._hung += 1
            done.add_done_callback(self._is_back)
            if isinstance(ended, asyncio.CancelledError):
                raise
            log.warning(
                "comparators have taken more than %.0f s for one pair, which is kept without scores", self._seconds
            )
            if self._hung == MAX_HUNG:
                log.error("%d threads of comparators hang; pairs are kept without scores until one returns", MAX_HUNG)
            return {}

    @staticmethod
    def _tell(
        done: "asyncio.Future[Mapping[str, Outcome]]", found: Mapping[str, Outcome], error: Exception | None
    ) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(found)
        else:
            done.set_exception(error)

    def _is_back(self, done: "asyncio.Future[Mapping[str, Outcome]]") -> None:
        self._hung -= 1
        done.exception()  # too late to be told
