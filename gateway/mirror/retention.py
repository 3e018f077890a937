"""Delete what has expired: samples when their retention has ended, pairs and feedback a quarter of a year later.

Every gateway does it, which is harmless. While the store is away it is tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from gateway.mirror.faults import safe_traceback
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# Texts are deleted at most this long after their retention has ended.
PERIOD_SECONDS: Final = 20.0


class Expirable(Protocol):
    """A part of the store whose rows expire."""

    def expire(self, before: float, /) -> int:
        """Delete rows that are older than `before` (Unix seconds); returns how many."""


class Retention:
    """Deletes rows that have expired.

    Args:
        samples: The store's samples; each has its own time of expiry.
        results: Pairs and feedback.
        results_seconds: How long `results` are kept.
        clock: Unix seconds.
    """

    def __init__(
        self, samples: Expirable, results: tuple[Expirable, ...], results_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._samples = samples
        self._results = results
        self._results_seconds = results_seconds
        self._clock = clock

    async def run(self) -> None:
        """Delete expired rows at intervals, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.delete_expired)
            except StoreError as error:
                log.debug("expired rows cannot be deleted now: %s", error)  # the store's watch logs that it is away
            except Exception as error:  # noqa: BLE001 (the next try must still come; its text may quote callers)
                log.error("expired rows could not be deleted; this is a bug: %s", safe_traceback(error))
            await asyncio.sleep(PERIOD_SECONDS)

    def delete_expired(self) -> int:
        """Delete expired rows; returns how many. Blocks."""
        now = self._clock()
        return self._samples.expire(now) + sum(each.expire(now - self._results_seconds) for each in self._results)
