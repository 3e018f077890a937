"""What loaders and checks have done, by engine; shown by `metrics.py`."""

from bisect import bisect_left

from gateway.observe.ledger import LOAD_BOUNDS, Histogram


class EngineLoads:
    """Counts of one engine's loader."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.seconds = Histogram.of(LOAD_BOUNDS)
        self.evictions = 0
        self.verdicts: dict[str, int] = {}

    def loaded(self, seconds: float, outcome: str) -> None:
        """Count a load, and how long it took with its check."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.seconds.counts[bisect_left(LOAD_BOUNDS, seconds)] += 1
        self.seconds.sum += seconds

    def evicted(self) -> None:
        """Count a version that made room for another."""
        self.evictions += 1

    def judged(self, verdict: str) -> None:
        """Count a check by its verdict."""
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


class LoadCounts:
    """Counts of every engine's loader."""

    def __init__(self) -> None:
        self.engines: dict[str, EngineLoads] = {}

    def of_engine(self, url: str) -> EngineLoads:
        """Return the counts of one engine, for who counts."""
        return self.engines.setdefault(url, EngineLoads())
