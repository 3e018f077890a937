"""What is exported of shadow evaluation. Labels are bounded: aliases, versions, kinds, comparators, few reasons."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.observe.drift_view import DriftStanding

# Nats a token. Sampling noise stays below 0.001; a style that was taught costs 0.1 to 1; 3 is another language.
KL_BOUNDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Seconds from the caller's reply to the finished comparison: at best one generation, at worst a night's queue.
LAG_BOUNDS: Final = (1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)

# Whose figures: alias, version on trial, kind of the pairs.
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallied:
    """Counts by bucket of a histogram that only grows, and the sum of what fell into them."""

    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """Means over the last pairs of one key.

    Attributes:
        n: Pairs in the window.
        scores: Comparator → mean score in [0, 1]; `kl` and `kl_bound` are in nats a token, `token_flip` and
            `moved_share` are shares.
        noise: The same of the pairs that compare the version (or its control) with itself, as far as there are any.
        excess: Comparator → how much more the sides differ than a version does from itself.
    """

    n: int
    scores: Mapping[str, float]
    noise: Mapping[str, float]
    excess: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class EvaluatorCounts:
    """What all evaluators have done since this gateway first heard of them, whichever of them still live.

    `alive` and `flagged` (alias → whether its judge was found unfit) are as of now.
    """

    shed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    replay_tokens: int = 0
    alive: int = 0
    flagged: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """Samples in the store that wait, are being compared, or were given up; None where the store was not asked."""

    pending: int
    claimed: int
    failed: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReading:
    """Everything that a scrape shows of shadow evaluation.

    Attributes:
        pairs: Pairs read from the store since this gateway leads.
        kl: Histograms of the pairs' estimated KL, by `KL_BOUNDS`.
        lag: Histograms of how late a pair was compared, by alias and `LAG_BOUNDS`.
        windows: Means over the last pairs.
        evaluators: Counts that evaluators report.
        queue: Samples that wait.
        drift: How far versions' traffic is from what it was when they were accepted.
    """

    pairs: Mapping[Key, int] = field(default_factory=dict)
    kl: Mapping[Key, Tallied] = field(default_factory=dict)
    lag: Mapping[str, Tallied] = field(default_factory=dict)
    windows: Mapping[Key, WindowView] = field(default_factory=dict)
    evaluators: EvaluatorCounts = field(default_factory=EvaluatorCounts)
    queue: QueueView | None = None
    drift: tuple[DriftStanding, ...] = ()
