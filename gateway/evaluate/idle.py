"""Wait for a moment in which an engine runs no other requests, so that callers do not wait behind ours.

Scoring a prompt is one step of the engine, and requests that arrive during this step wait for its end. The wait is
bounded: an engine that batches many callers is never idle, and then serves our requests with theirs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

# Each question costs the engine 1 ms (vLLM 0.32). A short reply of a small model takes ten of the first pauses.
_FIRST_PAUSE: Final = 0.01
_MAX_PAUSE: Final = 0.1
_LONGER: Final = 1.2
# After a wait without an idle moment, this long no wait is tried: on a busy engine each would only cost time.
BUSY_SECONDS: Final = 30.0


class IdleMoments:
    """Waits for idle moments of one engine.

    Args:
        others: Returns how many requests of others the engine runs; None where it does not report that.
        wait_seconds: The longest wait; 0 for none.
        clock: Monotonic seconds.
    """

    def __init__(
        self, others: Callable[[], Awaitable[int | None]], wait_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._others = others
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._not_before = float("-inf")

    async def wait(self) -> None:
        """Return when the engine is idle, or after the longest wait."""
        began = self._clock()
        if self._wait_seconds <= 0 or began < self._not_before:
            return
        pause = _FIRST_PAUSE
        while True:
            others = await self._others()
            if others is not None and others <= 0:
                return
            left = began + self._wait_seconds - self._clock()
            if others is None or left <= 0:
                self._not_before = self._clock() + BUSY_SECONDS
                return
            await asyncio.sleep(min(pause, left))
            pause = min(_LONGER * pause, _MAX_PAUSE)
