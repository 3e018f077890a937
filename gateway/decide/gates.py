"""The gates that live traffic and people answer: `error_rate`, `latency`, `manual`.

Both statistical gates ask one question of two streams of yes and no: is the candidate's
share of bad requests more than the control's plus a margin? Both arms' shares are bounded
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
tests, not proved. Requests that fail together (one unit's, one crash's) count as more
evidence than they are; `min_samples` does not hold a FAIL back, so choose a margin that
such a cluster does not exceed.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Final

from gateway.decide.confidence import Count, bounds
from gateway.decide.verdict import Reading, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class GateKind:
    """What a gate's name stands for in a plan.

    Attributes:
        defaults: Its parameters (shares in [0, 1]) and their values where a plan gives none;
            None means: without one.
        is_statistical: Whether it is answered by data, and so takes its part of alpha.
        needs_live_traffic: Whether it can be read only while the candidate serves callers.
    """

    defaults: Mapping[str, float | None]
    is_statistical: bool
    needs_live_traffic: bool


# Margins in shares of requests. One more failure in a hundred requests is what a 99 % objective
# can lose in total; with the 95th percentile as threshold 5 % of the control's requests are slow, and 5 % more
# is twice as many.
GATES: Final[Mapping[str, GateKind]] = MappingProxyType(
    {
        "error_rate": GateKind(
            defaults=MappingProxyType({"margin": 0.01, "limit": None}), is_statistical=True, needs_live_traffic=True
        ),
        "latency": GateKind(
            defaults=MappingProxyType({"margin": 0.05, "quantile": 0.95}), is_statistical=True, needs_live_traffic=True
        ),
        "manual": GateKind(defaults=MappingProxyType({}), is_statistical=False, needs_live_traffic=False),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate of a plan's step with its parameters; see `GATES`."""

    name: str
    margin: float = 0.0
    limit: float | None = None
    quantile: float | None = None

    def parameters(self) -> dict[str, float | None]:
        """Return the parameters that this gate has, as a plan writes them."""
        return {name: getattr(self, name) for name in GATES[self.name].defaults}


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Both arms' requests of one step, and how many were bad in the sense of one gate.

    `threshold_seconds`: for `latency`, above which time a request was counted as bad;
    fixed before the step began (`latency_threshold`).
    """

    control: Count
    candidate: Count
    threshold_seconds: float | None = None


def judge_streams(gate: Gate, streams: Streams | None, alpha: float) -> Reading:
    """Return what a statistical gate makes of a step's counts.

    Args:
        gate: With its margin, and a limit perhaps.
        streams: None when there is no measurement, which is inconclusive.
        alpha: This gate's chance, in (0, 1), of ever answering wrongly in this step.
    """
    if streams is None:
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason="not measured yet: too few requests (n=0)")
    control, candidate = streams.control, streams.candidate
    low, high = bounds(candidate, alpha / 2)
    control_low, control_high = bounds(control, alpha / 2)
    absolute = 1.0 if gate.limit is None else gate.limit
    fails_margin, fails_limit = low > control_high + gate.margin, low > absolute
    passes = high <= control_low + gate.margin and high <= absolute
    what = _measured(streams.threshold_seconds)
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
        observed=candidate.rate, limit=limit, n=candidate.n,
    )  # fmt: skip


def _measured(threshold_seconds: float | None) -> str:
    return "error rate" if threshold_seconds is None else f"share slower than {threshold_seconds:g} s"


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
