"""What is demanded of one metric: its direction, how much is allowed, and how sure a verdict must be.

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
    """A metric and what is allowed of it where a plan says nothing.

    Attributes:
        shape: What the number is.
        direction: Which way is good.
        margin: How much worse than control, a half, or noise is still fine; in the metric's unit.
        limit: Absolute, and in place of the margin; None: the margin holds.
        scale: What 1 in a score is in the metric's unit.
        unit: For people; empty for shares.
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
    """One demand on one metric; see the module's table. `criterion` makes one from a name.

    Attributes:
        metric: The comparator's name, or `kl`, `token_flip`, `moved_share`.
        shape, direction: What its numbers are, and which way is good.
        margin, limit: In the metric's unit; a limit takes the margin's place.
        alpha: Chance, in (0, 1), of ever failing what is fine.
        pass_alpha: Chance, in (0, 1), of ever passing what is not; None: as `alpha`. A candidate goes on only where all
            criteria pass, so each may take the whole of what failing shares out (intersection-union).
        min_samples: Sessions before it may pass.
        critical, muted: Carried along for whoever decides by it.
        scale, unit: Of the metric.
        judged_share: The share of pairs that is judged at all; with it come the weights of those that are.
            For preferences alone.
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
        """The chance of ever passing what is not fine."""
        return self.alpha if self.pass_alpha is None else self.pass_alpha

    @property
    def needs_noise(self) -> bool:
        """Whether it is held against noise pairs."""
        return self.limit is None and self.shape in (Shape.SIMILARITY, Shape.LEVEL)

    @property
    def is_relative(self) -> bool:
        """Whether its numbers are differences between the arms."""
        return self.limit is None and self.shape is Shape.DIFFERENCE

    @property
    def most_weight(self) -> float | None:
        """Beyond which a pair's weight is cut; None where weights say nothing."""
        return WEIGHT_ROOM / self.judged_share if self.shape is Shape.PREFERENCE else None

    @property
    def boundary(self) -> float | None:
        """The least goodness that is fine, in [0, 1]; None where noise pairs tell it."""
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
        """Turn goodness back; the inverse of `goodness`."""
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
    """Return the criterion of a metric, with the table's defaults for what is None.

    Args:
        metric: A name of `METRICS`; any other name needs `kind`.
        alpha: This criterion's own part, after sharing out.
        pass_alpha: See `Criterion`.
        margin: Given without a limit, it takes the place of the default limit too.
        limit: See `Criterion`.
        min_samples: See `Criterion`.
        critical, muted: See `Criterion`.
        kind: What a comparator registered by the user measures; see `plugin_metric`.
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
    """Return what is allowed of a comparator that the user has registered: 5 points."""
    return Metric(shape=shape, direction=direction)
