"""Criteria: the direction of a metric, how much worse a candidate may be, and how certain a verdict must be.

Every metric is turned into numbers in [0, 1] where more is better ("goodness"), and every
demand into "the mean goodness is at least a boundary":

| shape | without a limit | with a limit |
|---|---|---|
| DIFFERENCE | candidate - control is worse by at most the margin | the candidate's own mean is within the limit |
| PREFERENCE | at least 0.5 - margin | at least the limit |
| SIMILARITY, LEVEL | at most the margin worse than noise pairs are (two samples) | within the limit |

Margins and limits are in the metric's own unit: shares for most, nats for `kl`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evaluators.compare.comparator import Direction, Shape
from evaluators.drift.token_kl import KL_CAP_NATS

HIGHER, LOWER = Direction.HIGHER_IS_BETTER, Direction.LOWER_IS_BETTER
# Sessions before a criterion may pass; a failure does not wait. Less is an hour's mood of the traffic, whatever the
# e-value. Spinnaker asks for 50 data points per metric, too (spinnaker.io/guides/user/canary/best-practices).
MIN_SAMPLES: Final = 50
# Chance of ever answering wrongly, where no plan shares out its own: as `gateway/rollout/plan.py`.
ALPHA: Final = 0.01
# A preference counts with at most a quarter of its size. So weights of up to four times those of evenly chosen pairs
# stay bounded (`evaluators/preference/choosing.py` makes at most twice), and a win rate near a half, whose variance
# is eight times a pass rate's, meets the bets that have the largest shares.
WEIGHT_ROOM: Final = 4.0
REGISTERED: Final = "score:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric and its default margin or limit, for plans that set none.

    Attributes:
        shape: Meaning of the score's number.
        direction: Whether higher or lower is better.
        margin: How much worse than the control, than 0.5, or than noise pairs is allowed, in the metric's unit.
        limit: Absolute limit that replaces the margin; None means that the margin applies.
        scale: Value of a score of 1 in the metric's unit.
        unit: The unit as shown to operators; empty for shares.
    """

    shape: Shape
    direction: Direction = HIGHER
    margin: float = 0.05
    limit: float | None = None
    scale: float = 1.0
    unit: str = ""


_DIFFERENCE, _SIMILARITY, _LEVEL = Shape.DIFFERENCE, Shape.SIMILARITY, Shape.LEVEL

# A margin of 5 points is what some 500 sessions can show at 12 % discordance (docs/statistics.md); the audit's 2 points
# need thousands. Where arms rarely differ a smaller one is shown as quickly.
METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        # It did not answer where the other side did; of well-behaved arms neither ever does.
        "failed": Metric(shape=_DIFFERENCE, direction=LOWER),
        "refusal": Metric(shape=_DIFFERENCE, direction=LOWER),
        "repetition": Metric(shape=_DIFFERENCE, direction=LOWER),
        # Invalid JSON breaks the caller's program, and of well-trained arms both are nearly always right.
        "json_valid": Metric(shape=_DIFFERENCE, margin=0.02),
        "truncated": Metric(shape=_DIFFERENCE, direction=LOWER),
        "expected": Metric(shape=_DIFFERENCE),
        # Of similarities nobody can say what is right for a prompt; only how alike one version is to itself.
        # An adapter is there to answer otherwise, so they are wide: 10 points beyond noise.
        "exact": Metric(shape=_SIMILARITY, margin=0.10),
        "edit": Metric(shape=_SIMILARITY, margin=0.10),
        "chrf": Metric(shape=_SIMILARITY, margin=0.10),
        "rouge_l": Metric(shape=_SIMILARITY, margin=0.10),
        "embedding": Metric(shape=_SIMILARITY, margin=0.10),
        "length_ratio": Metric(shape=_SIMILARITY, margin=0.10),
        "tool_calls": Metric(shape=_SIMILARITY),
        "language": Metric(shape=_SIMILARITY),
        "finish_reason": Metric(shape=_SIMILARITY),
        # control / (control + candidate): 0.05 below noise's 0.5 is 22 % slower or longer.
        "ttft": Metric(shape=_SIMILARITY),
        "itl": Metric(shape=_SIMILARITY),
        "tokens": Metric(shape=_SIMILARITY),
        # Half a nat a token, of the divergence over the whole vocabulary: in the geometric mean a token has 60 % of the
        # likelihood under the other version that it has under the one which drew it. To pass, that is estimated; to
        # fail, a bound must exceed it that tells some 85 % (docs/drift.md). Of one model in another precision a few
        # hundredths are seen.
        "kl": Metric(shape=_LEVEL, direction=LOWER, limit=0.5, scale=KL_CAP_NATS, unit=" nats"),
        # One first choice in five, and one token in ten by more than 1 nat: as much as half a nat goes with.
        "token_flip": Metric(shape=_LEVEL, direction=LOWER, limit=0.2),
        "moved_share": Metric(shape=_LEVEL, direction=LOWER, limit=0.1),
        "judge": Metric(shape=Shape.PREFERENCE),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One requirement on one metric; see the module's table. `criterion` makes one from a metric's name.

    Attributes:
        metric: The comparator's name, or `kl`, `token_flip`, `moved_share`.
        shape, direction: Meaning of the numbers, and whether higher or lower is better.
        margin, limit: In the metric's unit; a limit replaces the margin.
        alpha: Chance, in (0, 1), of ever failing a candidate that meets the criterion.
        pass_alpha: Chance, in (0, 1), of ever passing a candidate that does not; None means `alpha`. A candidate goes
            on only if all criteria pass, so each may use the whole chance that is shared out for failing
            (intersection-union).
        min_samples: Number of sessions before the criterion may pass.
        critical, muted: Not used here; kept for the gate that acts on the verdict.
        scale, unit: As in `Metric`.
        judged_share: The share of pairs that the judge is asked about; it bounds their weights. For preferences only.
    """

    metric: str
    shape: Shape
    direction: Direction = HIGHER
    margin: float = 0.05
    limit: float | None = None
    alpha: float = ALPHA
    pass_alpha: float | None = None
    min_samples: int = MIN_SAMPLES
    critical: bool = True
    muted: bool = False
    scale: float = 1.0
    unit: str = ""
    judged_share: float = 1.0

    def __post_init__(self) -> None:
        for name, alpha in (("alpha", self.alpha), ("pass_alpha", self.alpha_to_pass)):
            if not 0 < alpha < 1:
                raise ValueError(f"{name} `{alpha}` of `{self.metric}` is not between 0 and 1")
        most = self.scale / 2 if self.shape is Shape.PREFERENCE else self.scale
        if not 0 <= self.margin < most:
            raise ValueError(f"margin `{self.margin}` of `{self.metric}` is not in [0, {most:g})")
        if self.limit is not None and not 0 <= self.limit <= self.scale:
            raise ValueError(f"limit `{self.limit}` of `{self.metric}` is not in [0, {self.scale:g}]")
        if not 0 < self.judged_share <= 1:
            raise ValueError(f"judged_share `{self.judged_share}` of `{self.metric}` is not in (0, 1]")

    @property
    def alpha_to_pass(self) -> float:
        """The chance of ever passing a candidate that does not meet the criterion."""
        return self.alpha if self.pass_alpha is None else self.pass_alpha

    @property
    def needs_noise(self) -> bool:
        """Whether the metric is compared with noise pairs."""
        return self.limit is None and self.shape in (Shape.SIMILARITY, Shape.LEVEL)

    @property
    def is_relative(self) -> bool:
        """Whether the numbers are differences between the arms."""
        return self.limit is None and self.shape is Shape.DIFFERENCE

    @property
    def most_weight(self) -> float | None:
        """The weight at which a pair's weight is capped; None where pairs have no weights."""
        return WEIGHT_ROOM / self.judged_share if self.shape is Shape.PREFERENCE else None

    @property
    def boundary(self) -> float | None:
        """The least allowed goodness, in [0, 1]; None where it depends on noise pairs."""
        if self.limit is not None:
            return self.goodness(self.limit)
        if self.shape is Shape.DIFFERENCE:
            return 0.5 - self.margin / 2
        return 0.5 - self.margin if self.shape is Shape.PREFERENCE else None

    def goodness(self, value: float) -> float:
        """Turn a number in the metric's unit (of a DIFFERENCE without limit: candidate - control) into goodness."""
        share = (1 + value) / 2 if self.is_relative else value / self.scale
        return share if self.direction is HIGHER else 1 - share

    def in_unit(self, goodness: float) -> float:
        """Convert goodness to the metric's unit; the inverse of `goodness`."""
        share = goodness if self.direction is HIGHER else 1 - goodness
        return 2 * share - 1 if self.is_relative else share * self.scale


def criterion(
    metric: str,
    *,
    alpha: float = ALPHA,
    pass_alpha: float | None = None,
    margin: float | None = None,
    limit: float | None = None,
    min_samples: int | None = None,
    critical: bool = True,
    muted: bool = False,
    kind: Metric | None = None,
    judged_share: float = 1.0,
) -> Criterion:
    """Return the criterion for a metric, with the defaults of `METRICS` for arguments that are None.

    Args:
        metric: A name of `METRICS`; any other name needs `kind`.
        alpha: This criterion's own part of alpha, after it was shared out among all criteria.
        pass_alpha: See `Criterion`.
        margin: A margin without a limit replaces the default limit, too.
        limit: See `Criterion`.
        min_samples: See `Criterion`.
        critical, muted: See `Criterion`.
        kind: The metric of a comparator that the user has registered; see `plugin_metric`.
        judged_share: See `Criterion`.

    Raises:
        ValueError: The metric is not known, or a number is out of range.
    """
    found = kind or METRICS.get(metric)
    if found is None:
        raise ValueError(f"`{metric}` is no metric; known are {', '.join(METRICS)}, and registered comparators")
    if limit is None and margin is None:
        limit = found.limit
    return Criterion(
        metric=metric,
        shape=found.shape,
        direction=found.direction,
        alpha=alpha,
        pass_alpha=pass_alpha,
        limit=limit,
        margin=found.margin if margin is None else margin,
        min_samples=MIN_SAMPLES if min_samples is None else min_samples,
        critical=critical,
        muted=muted,
        scale=found.scale,
        unit=found.unit,
        judged_share=judged_share,
    )


def plugin_metric(shape: Shape, direction: Direction) -> Metric:
    """Return the metric of a comparator that the user has registered, with a margin of 5 points."""
    return Metric(shape=shape, direction=direction)
