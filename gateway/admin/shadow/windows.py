"""Keep sliding means over each version's last pairs, in bounded memory, for the metrics.

A window is a row of blocks, each with the sums over up to `BLOCK_PAIRS` pairs. So its size
does not depend on the number of pairs, and blocks can be added up in any order. It has no
clock: callers pass the time. `ShadowMetricsCollector` feeds it with the pairs that the leader reads.

Invariant: no text of requests or answers is kept, only sums.
"""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from evaluators.judge.outcomes import kl_bound_of, kl_estimate_of, outcome_of
from evaluators.observation import Kind, Score, ScoredPair
from gateway.observe.shadow_counts import KL_BOUNDS, LAG_BOUNDS, BucketCounts, Key, ShadowReading, WindowView

BLOCK_PAIRS: Final = 100
# Ten blocks of BLOCK_PAIRS, the newest not full: a window covers the last 900 to 1,000 pairs.
MAX_BLOCKS: Final = 10
MAX_SECONDS: Final = 24 * 3600.0
# 500 adapters, each with a candidate, a base and a noise window, and room for versions that come and go.
MAX_WINDOWS: Final = 2_000
# For these statistics 0 means no difference; for all others 1 does, or 0.5 if each answer has its own score.
LEVELS: Final = ("kl", "kl_bound", "token_flip", "moved_share")


def figures_of(scored_pair: ScoredPair) -> Iterator[tuple[str, float]]:
    """Yield (comparator, number) for each comparator and statistic that a pair has a score of.

    A comparator that scores one answer at a time gives 0.5 for no difference. `kl` (an estimate, which may be
    negative) and `kl_bound` (a lower bound) are in nats a token. Times count only if the caller got the
    control's answer, as in gates.
    """
    for name in scored_pair.scores:
        if name not in LEVELS and isinstance(outcome := outcome_of(scored_pair, name), Score):
            yield name, outcome.value
    for name, value in (("kl", kl_estimate_of(scored_pair)), ("kl_bound", kl_bound_of(scored_pair))):
        if value is not None:
            yield name, value
    for name in ("token_flip", "moved_share"):
        found = outcome_of(scored_pair, name)
        if isinstance(found, Score):
            yield name, found.value


@dataclass(slots=True)
class Block:
    """Sums over some pairs.

    Attributes:
        n: Number of pairs.
        until: When the last of them was compared, Unix seconds.
        sums: Comparator → (count, sum).
    """

    n: int = 0
    until: float = 0.0
    sums: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, scored_pair: ScoredPair) -> None:
        """Take a pair in."""
        self.n += 1
        self.until = max(self.until, scored_pair.scored_at)
        for name, value in figures_of(scored_pair):
            count, total = self.sums.get(name, (0, 0.0))
            self.sums[name] = (count + 1, total + value)


class PairWindow:
    """The last pairs of one key, in blocks."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque(maxlen=MAX_BLOCKS)

    def add(self, scored_pair: ScoredPair) -> None:
        """Take a pair in."""
        if not self._blocks or self._blocks[-1].n >= BLOCK_PAIRS:
            self._blocks.append(Block())
        self._blocks[-1].add(scored_pair)

    def means(self, now: float) -> tuple[int, dict[str, float]]:
        """Return the number of pairs of the last day, and each comparator's mean over them."""
        blocks = [block for block in self._blocks if now - block.until <= MAX_SECONDS]
        return sum(block.n for block in blocks), mean_scores(blocks)


def mean_scores(blocks: Iterable[Block]) -> dict[str, float]:
    """Return each comparator's mean over all blocks."""
    sums: dict[str, tuple[int, float]] = {}
    for block in blocks:
        for name, (count, total) in block.sums.items():
            before, summed = sums.get(name, (0, 0.0))
            sums[name] = (before + count, summed + total)
    return {name: total / count for name, (count, total) in sums.items()}


def excess_over(scores: Mapping[str, float], noise: Mapping[str, float]) -> dict[str, float]:
    """Return comparator → how much more the versions differ than a version differs from itself, where both are known.

    `kl_bound` is left out: the difference of two lower bounds is not a bound.
    """
    return {
        name: scores[name] - noise[name] if name in LEVELS else noise[name] - scores[name]
        for name in scores.keys() & noise.keys() - {"kl_bound"}
    }


class CumulativeHistogram:
    """A histogram whose counts only grow, as Prometheus needs it."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def counts(self) -> BucketCounts:
        """Return the counts as they are."""
        return BucketCounts(counts=tuple(self._counts), sum=self._sum)


class Board:
    """The leader's metrics of compared pairs; each pair is added once, by the watch that reads them."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[Key, int] = OrderedDict()
        self._windows: dict[Key, PairWindow] = {}
        self._kl: dict[Key, CumulativeHistogram] = {}
        self._lag: dict[str, CumulativeHistogram] = {}
        self._controls: dict[Key, str] = {}

    def observe(self, scored_pair: ScoredPair) -> None:
        """Take in a pair that was compared."""
        key = (scored_pair.alias, scored_pair.other, scored_pair.kind.value)
        self._pairs[key] = self._pairs.get(key, 0) + 1
        self._pairs.move_to_end(key)
        self._controls[key] = scored_pair.control
        self._windows.setdefault(key, PairWindow()).add(scored_pair)
        divergence = kl_estimate_of(scored_pair)
        if divergence is not None:
            self._kl.setdefault(key, CumulativeHistogram(KL_BOUNDS)).add(max(0.0, divergence))  # a sum must not fall
        lag = self._lag.setdefault(scored_pair.alias, CumulativeHistogram(LAG_BOUNDS))
        lag.add(max(0.0, scored_pair.scored_at - scored_pair.at))
        if len(self._pairs) > MAX_WINDOWS:
            self._forget(next(iter(self._pairs)))

    def _forget(self, key: Key) -> None:
        del self._pairs[key], self._windows[key], self._controls[key]
        self._kl.pop(key, None)
        if not any(alias == key[0] for alias, _, _ in self._pairs):
            del self._lag[key[0]]

    def reading(self, now: float) -> ShadowReading:
        """Return the metrics of pairs; the other fields of the reading are filled in by the caller."""
        means = {key: window.means(now) for key, window in self._windows.items()}
        windows = {}
        for key, (n, scores) in means.items():
            if n:
                noise = {} if key[2] == Kind.NOISE else self._noise(key, means)
                windows[key] = WindowView(n=n, scores=scores, noise=noise, excess=excess_over(scores, noise))
        return ShadowReading(
            pairs=dict(self._pairs),
            windows=windows,
            kl={key: each.counts() for key, each in self._kl.items()},
            lag={alias: each.counts() for alias, each in self._lag.items()},
        )

    def _noise(self, key: Key, means: Mapping[Key, tuple[int, dict[str, float]]]) -> dict[str, float]:
        """Return the noise floor of a key, by comparator: of the control against itself, else of the version."""
        alias, version, _ = key
        found: dict[str, float] = {}
        for each in (version, self._controls[key]):
            found |= means.get((alias, each, Kind.NOISE.value), (0, {}))[1]
        return found
