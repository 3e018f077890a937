"""Counts of adapter loads, evictions and fingerprint checks by engine; `metrics.py` exports them."""

from bisect import bisect_left

from gateway.observe.ledger import LOAD_BOUNDS, Histogram


class EngineLoads:
    """Loads, evictions and check verdicts of one engine."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.seconds = Histogram.of(LOAD_BOUNDS)
        self.evictions = 0
        self.verdicts: dict[str, int] = {}

    def count_load(self, seconds: float, outcome: str) -> None:
        """Count a load by its outcome, and observe how long it took, its check included."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.seconds.counts[bisect_left(LOAD_BOUNDS, seconds)] += 1
        self.seconds.sum += seconds

    def count_eviction(self) -> None:
        """Count a version that was unloaded to make room for another."""
        self.evictions += 1

    def count_verdict(self, verdict: str) -> None:
        """Count a fingerprint check by its verdict."""
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


class LoadCounts:
    """The loads of every engine."""

    def __init__(self) -> None:
        self.engines: dict[str, EngineLoads] = {}

    def of_engine(self, url: str) -> EngineLoads:
        """Return the counts of one engine, created on first use."""
        return self.engines.setdefault(url, EngineLoads())
