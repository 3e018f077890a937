"""What a plan's gates are called and take, and those that live traffic and people answer.

`error_rate`, `latency` and `feedback` ask one question of two streams of yes and no: is the
candidate's share of bad requests (or thumbs) more than the control's plus a margin? Both arms' shares are bounded
at every look at once (`confidence.py`), each with half of the gate's alpha:

* FAIL when the candidate's lower bound is above the control's upper bound + margin,
* PASS when the candidate's upper bound is at or below the control's lower bound + margin,
* INCONCLUSIVE otherwise. Of no data nothing is known: the bounds are then 0 and 1.

Both errors at once: unless some arm's true share ever leaves its bounds, which has a chance
of at most alpha over all looks, no candidate within the margin fails, and none beyond it
passes. With `limit`, an absolute ceiling, the same holds of the candidate's bounds alone.

What it rests on: within a step each arm's chance of a bad request stays the same, and one
request tells nothing of the next. Weather that both arms share (an engine down for a
minute) moves both rates together and cancels in the difference; this is simulated in the
tests, not proved. Who gives a thumb is not drawn by lot, but alike in both arms. Requests that
fail together (one unit's, one crash's) count as more evidence than they are; `min_samples`
does not hold a FAIL back, so choose a margin that such a cluster does not exceed.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final

from evaluators.compare.comparator import Direction, Shape
from evaluators.judge.criteria import METRICS, MIN_SAMPLES, REGISTERED, Metric, registered
from gateway.decide.confidence import NOTHING, Count, bounds
from gateway.decide.verdict import Reading, Verdict


class Source(Enum):
    """Who answers a gate."""

    COUNTS = "counts"  # of both arms' requests or thumbs
    PAIRS = "pairs"  # of answers to the same request
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateKind:
    """What a gate's name stands for in a plan.

    Attributes:
        defaults: Its own parameters (numbers, mostly shares in [0, 1]) and their values where a plan
            gives none; None means: without one.
        source: Who answers it; all but a person take their part of alpha.
        scale: The largest limit, and more than any margin, in the gate's unit.
    """

    defaults: Mapping[str, float | None]
    source: Source
    scale: float = 1.0

    @property
    def needs_live_traffic(self) -> bool:
        """Whether it can be read only while the candidate serves callers."""
        return self.source is Source.COUNTS


def _pair_kind(metric: Metric) -> GateKind:
    defaults = {"margin": metric.margin, "limit": metric.limit, "min_samples": MIN_SAMPLES}
    return GateKind(defaults=MappingProxyType(defaults), source=Source.PAIRS, scale=metric.scale)


# Of whatever shape: its comparator says that, and is not asked here.
_REGISTERED_KIND: Final = _pair_kind(registered(Shape.SIMILARITY, Direction.HIGHER_IS_BETTER))

# Margins in shares of requests. One more failure in a hundred requests is what a 99 % objective
# can lose in total; with the 95th percentile as threshold 5 % of the control's requests are slow, and 5 % more
# is twice as many. Thumbs are few: 5 % more of them down is what some hundreds can show.
GATES: Final[Mapping[str, GateKind]] = MappingProxyType(
    {
        "error_rate": GateKind(defaults=MappingProxyType({"margin": 0.01, "limit": None}), source=Source.COUNTS),
        "latency": GateKind(defaults=MappingProxyType({"margin": 0.05, "quantile": 0.95}), source=Source.COUNTS),
        "feedback": GateKind(defaults=MappingProxyType({"margin": 0.05, "limit": None}), source=Source.COUNTS),
        "manual": GateKind(defaults=MappingProxyType({}), source=Source.PERSON),
    }
    | {name: _pair_kind(metric) for name, metric in METRICS.items()}
)


def kind_of(name: str) -> GateKind | None:
    """Return what a gate's name stands for, or None if it is no gate's."""
    if name.startswith(REGISTERED) and len(name) > len(REGISTERED):
        return _REGISTERED_KIND
    return GATES.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate of a plan's step with its parameters; see `GATES`.

    Attributes:
        name: In `GATES`, or `score:` and the name of a comparator that the user has registered.
        margin, limit, quantile: As its kind has them, in its unit; of pairs a limit takes the margin's place.
        min_samples: Of pairs: sessions before it may pass.
        is_critical: Whether a failure rolls back at once; else it pauses and asks a person.
        is_muted: Whether it is read and told, and decides nothing.
        may_rest_on_one: Of counts: whether what one account alone says may decide it; see `by_account.py`.
    """

    name: str
    margin: float = 0.0
    limit: float | None = None
    quantile: float | None = None
    min_samples: int | None = None
    is_critical: bool = True
    is_muted: bool = False
    may_rest_on_one: bool = False

    @property
    def kind(self) -> GateKind:
        """What its name stands for."""
        kind = kind_of(self.name)
        if kind is None:
            raise ValueError(f"`{self.name}` is no gate; gates are {', '.join(GATES)}, and {REGISTERED}NAME")
        return kind

    @property
    def source(self) -> Source:
        """Who answers it."""
        return self.kind.source

    @property
    def takes_alpha(self) -> bool:
        """Whether it can be wrong by chance, with consequences."""
        return self.source is not Source.PERSON and not self.is_muted

    def parameters(self) -> dict[str, float | bool | None]:
        """Return the parameters that this gate has, as a plan writes them."""
        values: dict[str, float | bool | None] = {name: getattr(self, name) for name in self.kind.defaults}
        # Written only where they say something: so plans that know nothing of them keep their hash.
        if not self.is_critical:
            values["critical"] = False
        if self.is_muted:
            values["muted"] = True
        if self.may_rest_on_one:
            values["single_account"] = True
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStreams:
    """What one account, or all that have no name of their own, has contributed to `Streams`; `units` of both arms."""

    account: str
    control: Count = NOTHING
    candidate: Count = NOTHING
    units: int = 0

    @property
    def n(self) -> int:
        """Of both arms."""
        return self.control.n + self.candidate.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Both arms' requests of one step, and how many were bad in the sense of one gate.

    Attributes:
        control, candidate: Of all accounts.
        threshold_seconds: For `latency`, above which time a request was counted as bad; fixed before the step began
            (`latency_threshold`).
        accounts: The same by account, the largest first; together all of it. Empty where accounts are not told apart.
        callers: How many accounts have sent more than a stray request in the step.
    """

    control: Count
    candidate: Count
    threshold_seconds: float | None = None
    accounts: tuple[AccountStreams, ...] = ()
    callers: int = 0


def judge_streams(gate: Gate, streams: Streams | None, alpha: float) -> Reading:
    """Return what a statistical gate makes of a step's counts.

    Args:
        gate: With its margin, and a limit perhaps.
        streams: None when there is no measurement, which is inconclusive.
        alpha: This gate's chance, in (0, 1), of ever answering wrongly in this step.
    """
    flags: dict[str, Any] = {"is_critical": gate.is_critical, "is_muted": gate.is_muted}
    if streams is None:
        why = "not measured yet: too few requests (n=0)"
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason=why, **flags)
    control, candidate = streams.control, streams.candidate
    low, high = bounds(candidate, alpha / 2)
    control_low, control_high = bounds(control, alpha / 2)
    absolute = 1.0 if gate.limit is None else gate.limit
    fails_margin, fails_limit = low > control_high + gate.margin, low > absolute
    passes = high <= control_low + gate.margin and high <= absolute
    what = _measured(gate.name, streams.threshold_seconds)
    ceiling = f"control {control.rate:.2%} + margin {gate.margin:.2%}"
    if gate.limit is not None and (fails_limit or gate.limit < control.rate + gate.margin):
        ceiling, limit = f"limit {gate.limit:.2%}", gate.limit
    else:
        limit = min(1.0, control.rate + gate.margin)
    if fails_margin or fails_limit:
        verdict, relation = Verdict.FAIL, f"> {ceiling}"
    elif passes:
        verdict, relation = Verdict.PASS, f"≤ {ceiling}"
    else:
        verdict, relation = Verdict.INCONCLUSIVE, f"not told apart from {ceiling}"
    numbers = f"n={candidate.n:,}, control n={control.n:,}, candidate between {low:.2%} and {high:.2%}"
    return Reading(
        gate=gate.name, verdict=verdict, reason=f"{what} {candidate.rate:.2%} {relation} ({numbers})",
        observed=candidate.rate, limit=limit, n=candidate.n, **flags,
    )  # fmt: skip


def _measured(name: str, threshold_seconds: float | None) -> str:
    if threshold_seconds is not None:
        return f"share slower than {threshold_seconds:g} s"
    return "share of thumbs down" if name == "feedback" else "error rate"


def judge_manual(gate: Gate, approved_by: str | None) -> Reading:
    """Return whether a person has approved this step."""
    if approved_by is None:
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason="waits for a person's approval")
    return Reading(gate=gate.name, verdict=Verdict.PASS, reason=f"approved by `{approved_by}`")


def latency_threshold(upper_bounds: Sequence[float], counts: Sequence[int], quantile: float) -> float | None:
    """Return the control's `quantile` as the upper bound of the histogram bucket that holds it.

    Take the control's requests from *before* a step, so that the threshold does not depend
    on what it judges.

    Args:
        upper_bounds: (n_buckets,) seconds, rising.
        counts: (n_buckets + 1,) requests per bucket, the last without a bound.
        quantile: Share in (0, 1).

    Returns:
        Seconds; None without requests, or when the quantile lies beyond the last bound.

    Raises:
        ValueError: The shapes do not match.
    """
    if len(counts) != len(upper_bounds) + 1:
        raise ValueError(f"`{len(counts)}` counts do not fit `{len(upper_bounds)}` bounds: one more is needed")
    sums = list(accumulate(counts))
    at = bisect_left(sums, quantile * sums[-1])
    return upper_bounds[at] if sums[-1] and at < len(upper_bounds) else None
