"""Forget in time: copies' words when their retention has ended, pairs and feedback a quarter of a year later.

Every gateway does it; what is gone is gone. While the store is away it is tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from gateway.mirror.faults import told
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# Words go so soon after their time has come.
PERIOD_SECONDS: Final = 20.0


class Expiring(Protocol):
    """A part of the store that forgets."""

    def expire(self, before: float, /) -> int:
        """Delete what is older (Unix seconds); returns how much."""


class Retention:
    """Deletes what has been kept for long enough.

    Args:
        words: The store's samples, each of which knows its time.
        results: What is kept for so many seconds: pairs and feedback.
        results_seconds: How long.
        clock: Unix seconds.
    """

    def __init__(
        self, words: Expiring, results: tuple[Expiring, ...], results_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._words = words
        self._results = results
        self._results_seconds = results_seconds
        self._clock = clock

    async def run(self) -> None:
        """Forget until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.forget)
            except StoreError as error:
                log.debug("nothing is forgotten now: %s", error)  # the store's own watch tells that it is away
            except Exception as error:  # noqa: BLE001 (words must go the next time; told without its text)
                log.error("nothing could be forgotten; this is a bug: %s", told(error))
            await asyncio.sleep(PERIOD_SECONDS)

    def forget(self) -> int:
        """Delete what has been kept for long enough; returns how much. Blocks."""
        now = self._clock()
        return self._words.expire(now) + sum(each.expire(now - self._results_seconds) for each in self._results)
