"""A worker's counts of its engines and its queue; the control plane adds workers up.

Like the cells of `ledger.py`: plain values that only their worker touches.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.observe.ledger import Histogram

# Seconds; a request waits for another to end, which takes from milliseconds to half a minute.
QUEUE_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class EngineCounts(msgspec.Struct, gc=False):
    """What workers have made of one engine. `ejected_now` is how many of them send it nothing, `faults` how often
    what it sent was not HTTP, or beyond a bound.
    """

    ejections: dict[str, int] = msgspec.field(default_factory=dict)
    ejected_now: int = 0
    returns: int = 0
    faults: int = 0


class PlacementCounts(msgspec.Struct, gc=False, kw_only=True):
    """Ejections and the queue. `refused` counts by `full` and `timeout`."""

    engines: dict[str, EngineCounts] = msgspec.field(default_factory=dict)
    queued_now: int = 0
    early_heads: int = 0  # streams whose head went out before an engine had answered
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    queue_wait: Histogram = msgspec.field(default_factory=lambda: Histogram.of(QUEUE_BOUNDS))

    def of_engine(self, url: str) -> EngineCounts:
        """Return the counts of one engine."""
        return self.engines.setdefault(url, EngineCounts())

    def ejected(self, url: str, reason: str) -> None:
        """Count an ejection."""
        counts = self.of_engine(url)
        counts.ejected_now = 1
        counts.ejections[reason] = counts.ejections.get(reason, 0) + 1

    def returned(self, url: str) -> None:
        """Count a return."""
        counts = self.of_engine(url)
        counts.ejected_now = 0
        counts.returns += 1

    def refuse(self, reason: str) -> None:
        """Count a request that found no place in the queue, or waited there for too long."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def waited(self, seconds: float) -> None:
        """Observe how long a request was queued that has been sent now."""
        self.queue_wait.counts[bisect_left(QUEUE_BOUNDS, seconds)] += 1
        self.queue_wait.sum += seconds

    def forget_now(self) -> None:
        """Drop what holds for the moment only: the worker has ended."""
        self.queued_now = 0
        for counts in self.engines.values():
            counts.ejected_now = 0

    def add(self, other: "PlacementCounts") -> None:
        """Add another worker's counts."""
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


def added_up(counts: Iterable[PlacementCounts]) -> PlacementCounts:
    """Return the sum over workers."""
    total = PlacementCounts()
    for each in counts:
        total.add(each)
    return total
