"""Counts of one worker about its engines and its queue; the control plane sums them over workers.

They are plain values that only their own worker touches, like the cells of `ledger.py`, so they need no lock.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.observe.ledger import Histogram

# Seconds. A queued request waits for another one to end, which takes from milliseconds to half a minute.
QUEUE_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class EngineCounts(msgspec.Struct, gc=False):
    """Ejections, returns and protocol faults of one engine, as workers saw them.

    Attributes:
        ejections: Reason → how often a worker stopped sending the engine requests.
        ejected_now: How many workers send the engine no requests now.
        returns: How often a worker sent an ejected engine requests again.
        faults: How often the engine sent bytes that were not HTTP, or that exceeded a bound.
    """

    ejections: dict[str, int] = msgspec.field(default_factory=dict)
    ejected_now: int = 0
    returns: int = 0
    faults: int = 0


class PlacementCounts(msgspec.Struct, gc=False, kw_only=True):
    """One worker's ejections by engine, and its queue. `refused` counts by `full` and `timeout`."""

    engines: dict[str, EngineCounts] = msgspec.field(default_factory=dict)
    queued_now: int = 0
    early_heads: int = 0  # streams whose head went out before an engine had answered
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    queue_wait: Histogram = msgspec.field(default_factory=lambda: Histogram.of(QUEUE_BOUNDS))

    def of_engine(self, url: str) -> EngineCounts:
        return self.engines.setdefault(url, EngineCounts())

    def count_ejection(self, url: str, reason: str) -> None:
        counts = self.of_engine(url)
        counts.ejected_now = 1
        counts.ejections[reason] = counts.ejections.get(reason, 0) + 1

    def count_return(self, url: str) -> None:
        counts = self.of_engine(url)
        counts.ejected_now = 0
        counts.returns += 1

    def count_refusal(self, reason: str) -> None:
        """Count a request that was refused because the queue was full (`full`) or it waited too long (`timeout`)."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def observe_queue_wait(self, seconds: float) -> None:
        """Observe how long a request was queued before an engine got it."""
        self.queue_wait.counts[bisect_left(QUEUE_BOUNDS, seconds)] += 1
        self.queue_wait.sum += seconds

    def forget_now(self) -> None:
        """Zero the gauges, because the worker has ended; its counters still count."""
        self.queued_now = 0
        for counts in self.engines.values():
            counts.ejected_now = 0

    def add(self, other: "PlacementCounts") -> None:
        for url, theirs in other.engines.items():
            mine = self.of_engine(url)
            mine.ejected_now += theirs.ejected_now
            mine.returns += theirs.returns
            mine.faults += theirs.faults
            for reason, count in theirs.ejections.items():
                mine.ejections[reason] = mine.ejections.get(reason, 0) + count
        self.queued_now += other.queued_now
        self.early_heads += other.early_heads
        for reason, count in other.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        self.queue_wait.add(other.queue_wait)


def sum_placements(counts: Iterable[PlacementCounts]) -> PlacementCounts:
    """Return the sum of several workers' counts."""
    total = PlacementCounts()
    for each in counts:
        total.add(each)
    return total
