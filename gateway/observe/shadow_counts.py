"""The values that are exported about shadow evaluation.

Labels are bounded: aliases, versions, kinds, comparators, few reasons.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.observe.drift_view import DriftStanding

# Nats a token. Sampling noise stays below 0.001; an adapter that learned a style is at 0.1 to 1, another language at 3.
KL_BOUNDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Seconds from the caller's reply to the finished comparison: at least one generation, at most a night in the queue.
LAG_BOUNDS: Final = (1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)

# Alias, version under evaluation, kind of the pairs.
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCounts:
    """A histogram that is never reset: counts by bucket, and the sum of all observed values."""

    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """Means over the most recent pairs of one key.

    Attributes:
        n: Pairs in the window.
        scores: Comparator → mean score in [0, 1]; `kl` and `kl_bound` are in nats a token, `token_flip` and
            `moved_share` are shares.
        noise: The same means over pairs that compare the version (or its control) with itself, where there are any.
        excess: Comparator → how much more the two versions differ than one version differs from itself.
    """

    n: int
    scores: Mapping[str, float]
    noise: Mapping[str, float]
    excess: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class EvaluatorCounts:
    """The work of all evaluators, dead ones included, since this gateway first saw each of them.

    `alive` and `flagged` (alias → whether its judge was found unfit) hold for the present moment.
    """

    shed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    replay_tokens: int = 0
    alive: int = 0
    flagged: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """Samples in the store that wait (`pending`), are being compared (`claimed`), or were given up (`failed`)."""

    pending: int
    claimed: int
    failed: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReading:
    """Everything that a scrape exports about shadow evaluation.

    Attributes:
        pairs: Pairs that this gateway has read from the store since it became the leader.
        kl: Histograms of the pairs' estimated KL divergence, with the bounds `KL_BOUNDS`.
        lag: Alias → histogram of the time from a reply to its comparison, with the bounds `LAG_BOUNDS`.
        windows: Means over the most recent pairs.
        evaluators: Counts that evaluators report.
        queue: Samples in the store; None where the store was not asked.
        drift: How far versions' traffic is from its accepted baseline.
    """

    pairs: Mapping[Key, int] = field(default_factory=dict)
    kl: Mapping[Key, BucketCounts] = field(default_factory=dict)
    lag: Mapping[str, BucketCounts] = field(default_factory=dict)
    windows: Mapping[Key, WindowView] = field(default_factory=dict)
    evaluators: EvaluatorCounts = field(default_factory=EvaluatorCounts)
    queue: QueueView | None = None
    drift: tuple[DriftStanding, ...] = ()
