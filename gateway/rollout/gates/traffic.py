"""What a plan's gates are called and take, and those that live traffic and people answer.

`error_rate`, `latency` and `feedback` ask one question of two arms' units: is the candidate's mean share of bad
requests (or the share of its thumbs that are down) more than the control's plus a margin, or more than so many times
it? Units count once (`unit_shares.py`), and one e-value answers from both arms' sums:

* FAIL when the evidence against "no worse than allowed" reaches 1/alpha of the gate,
* PASS when the evidence against "worse than allowed" reaches 1/alpha of the plan,
* INCONCLUSIVE otherwise. Of no data nothing is known.

So a candidate within the margin ever fails with a chance of at most the gate's alpha, and one beyond it ever passes
with at most the plan's, however often one looks. With `limit`, an absolute ceiling, the same is asked of the candidate
alone, and of both demands the mean of the e-values fails and the lesser passes.

What it rests on: arms are drawn by unit, and one unit tells nothing of the next. Requests of one unit may have
everything to do with each other. Weather that both arms share (an engine down for a minute) moves both and cancels:
that is simulated (`simulations/`), and with `ratio` proved. Who gives a thumb is not drawn by lot, but alike in both
arms.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from math import exp, log
from types import MappingProxyType
from typing import Any, Final

from evaluators.compare.comparator import Direction, Shape
from evaluators.judge.criteria import METRICS, MIN_SAMPLES, REGISTERED, Metric, registered
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates.reading import Reading, Verdict
from gateway.rollout.gates.unit_shares import (
    NO_UNITS,
    ArmUnits,
    log_above,
    log_below,
    log_not_times_worse,
    log_not_worse,
    log_times_worse,
    log_worse,
    mean_of,
)


class GateSource(Enum):
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
    source: GateSource
    scale: float = 1.0

    @property
    def needs_live_traffic(self) -> bool:
        """Whether it can be read only while the candidate serves callers."""
        return self.source is GateSource.COUNTS


def _pair_kind(metric: Metric) -> GateKind:
    defaults = {"margin": metric.margin, "limit": metric.limit, "min_samples": MIN_SAMPLES}
    return GateKind(defaults=MappingProxyType(defaults), source=GateSource.PAIRS, scale=metric.scale)


def _live_kind(**defaults: float | None) -> GateKind:
    return GateKind(defaults=MappingProxyType(defaults), source=GateSource.COUNTS)


# Of whatever shape: its comparator says that, and is not asked here.
_REGISTERED_KIND: Final = _pair_kind(registered(Shape.SIMILARITY, Direction.HIGHER_IS_BETTER))

# Margins in shares of requests. One more failure in a hundred requests is what a 99 % objective
# can lose in total; with the 95th percentile as threshold 5 % of the control's requests are slow, and 5 % more
# is twice as many. Thumbs are few: 5 % more of them down is what some hundreds can show.
GATES: Final[Mapping[str, GateKind]] = MappingProxyType(
    {
        "error_rate": _live_kind(margin=0.01, limit=None),
        "latency": _live_kind(margin=0.05, quantile=0.95),
        "feedback": _live_kind(margin=0.05, limit=None),
        "manual": GateKind(defaults=MappingProxyType({}), source=GateSource.PERSON),
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
        ratio: Of counts: how many times the control's share is fine, in the margin's place; None: the margin holds.
        min_samples: Of pairs: sessions before it may pass.
        is_critical: Whether a failure rolls back at once; else it pauses and asks a person.
        is_muted: Whether it is read and told, and decides nothing.
        may_rest_on_one: Of counts: whether what one account alone says may decide it; see `by_account.py`.
    """

    name: str
    margin: float = 0.0
    limit: float | None = None
    quantile: float | None = None
    ratio: float | None = None
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
    def source(self) -> GateSource:
        """Who answers it."""
        return self.kind.source

    @property
    def takes_alpha(self) -> bool:
        """Whether it can be wrong by chance, with consequences."""
        return self.source is not GateSource.PERSON and not self.is_muted

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
        if self.ratio is not None:
            values["ratio"] = self.ratio
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStreams:
    """What one account, or all that have no name of their own, has contributed to `Streams`."""

    account: str
    control: ArmUnits = NO_UNITS
    candidate: ArmUnits = NO_UNITS

    @property
    def n(self) -> int:
        """Units of both arms."""
        return self.control.n + self.candidate.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Both arms' units of one step, by their requests that were bad in the sense of one gate.

    Attributes:
        control, candidate: Of all accounts.
        threshold_seconds: For `latency`, above which time a request was counted as bad; fixed before its unit was
            counted (`latency_threshold`).
        accounts: The same by account, the largest first; together all of it. Empty where accounts are not told apart.
        callers: How many accounts have sent more than a stray request in the step.
        weight: The candidate's, in basis points.
        multiplicity: How often a unit was counted, by several gateways that it called at: of each copy's e-value that
            root is taken, and the geometric mean of e-values is at most their mean, which is an e-value.
    """

    control: ArmUnits
    candidate: ArmUnits
    threshold_seconds: float | None = None
    accounts: tuple[AccountStreams, ...] = ()
    callers: int = 0
    weight: int = 0
    multiplicity: float = 1.0

    def without(self, account: AccountStreams) -> "Streams":
        """Return the units of all but one account."""
        return replace(
            self,
            control=self.control.without(account.control),
            candidate=self.candidate.without(account.candidate),
            accounts=tuple(each for each in self.accounts if each.account != account.account),
        )


def judge_streams(gate: Gate, streams: Streams | None, alpha: float, pass_alpha: float | None = None) -> Reading:
    """Return what a statistical gate makes of a step's units.

    Args:
        gate: With its margin or ratio, and a limit perhaps.
        streams: None when there is no measurement, which is inconclusive.
        alpha: This gate's chance, in (0, 1), of ever failing what is fine.
        pass_alpha: Its chance of ever passing what is not; None: as `alpha`.
    """
    flags: dict[str, Any] = {"is_critical": gate.is_critical, "is_muted": gate.is_muted}
    if streams is None:
        why = "not measured yet: too few requests (n=0)"
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason=why, **flags)
    fails, hiding = _against_hiding(gate, streams)
    passes = min(_passing(gate, streams))
    verdict, evidence, told = Verdict.INCONCLUSIVE, fails / streams.multiplicity, ""
    if evidence >= -log(alpha):
        verdict = Verdict.FAIL
        if hiding is not None:
            streams, told = streams.without(hiding), f"; without account `{hiding.account}`, beside which it looks well"
    elif passes / streams.multiplicity >= -log(pass_alpha or alpha):
        verdict, evidence = Verdict.PASS, passes / streams.multiplicity
    control, candidate = streams.control, streams.candidate
    rate, limit = candidate.whole.rate, _allowed(gate, control.whole.rate)
    what, ceiling = _measured(gate.name, streams.threshold_seconds), _ceiling(gate, control.whole.rate)
    if gate.limit is not None and (gate.limit < limit or (verdict is Verdict.FAIL and rate > gate.limit)):
        ceiling, limit = f"limit {gate.limit:.2%}", gate.limit
    e_value = exp(min(evidence, _MAX_EXPONENT))
    numbers = f"n={candidate.n:,} units, control n={control.n:,}, e={e_value:.3g}"
    if streams.multiplicity >= _TOLD_MULTIPLICITY:
        numbers += f", each counted {streams.multiplicity:.1f} times by several gateways"
    return Reading(
        gate=gate.name,
        verdict=verdict,
        observed=rate,
        limit=min(1.0, limit),
        n=candidate.n,
        e_value=e_value,
        reason=f"{what} {rate:.2%} {_RELATION[verdict]} {ceiling} ({numbers}){told}",
        **flags,
    )


_MAX_EXPONENT: Final = 700.0  # exp(710) is no float any more
_TOLD_MULTIPLICITY: Final = 1.05
_RELATION: Final = {Verdict.FAIL: ">", Verdict.PASS: "≤", Verdict.INCONCLUSIVE: "not told apart from"}
# So many of the largest accounts may each make the control look bad. Each is left out for its part of half of the
# capital: 0.7 nats where none does, 2.1 where one does.
MAX_HIDING: Final = 4


def _against_hiding(gate: Gate, streams: Streams) -> tuple[float, AccountStreams | None]:
    """Return the log e-value for failing, and the account that hides it, if one does.

    An account whose requests fail on control alone makes any candidate look well beside it. So the evidence is the mean
    of that of all and of all but one. That the largest are the largest tells nothing of what fails.
    """
    whole = mean_of(_failing(gate, streams))
    if streams.callers < _SEVERAL or not streams.accounts:
        return whole, None
    hiding = streams.accounts[:MAX_HIDING]
    rests = [mean_of(_failing(gate, streams.without(each))) for each in hiding]
    nobody = [0.0] * (MAX_HIDING - len(hiding))
    fails = mean_of([whole, mean_of([*rests, *nobody])])
    best = max(range(len(rests)), key=rests.__getitem__)
    return fails, hiding[best] if fails > whole + _TOLD_HIDING else None


_SEVERAL: Final = 2
_TOLD_HIDING: Final = 2.0  # nats


def _failing(gate: Gate, streams: Streams) -> list[float]:
    """Return the log e-values against "no worse than allowed", of each thing that is allowed."""
    return _evidence(gate, streams, log_worse, log_times_worse, log_above)


def _passing(gate: Gate, streams: Streams) -> list[float]:
    """Return the log e-values against "worse than allowed", of each thing that is allowed."""
    return _evidence(gate, streams, log_not_worse, log_not_times_worse, log_below)


def _evidence(
    gate: Gate,
    streams: Streams,
    by_margin: Callable[[ArmUnits, ArmUnits, float], float],
    by_ratio: Callable[[ArmUnits, ArmUnits, float, int], float],
    by_limit: Callable[[ArmUnits, float], float],
) -> list[float]:
    control, candidate = streams.control, streams.candidate
    found = 0.0  # where one arm alone is served, no ratio can be told
    if gate.ratio is None:
        found = by_margin(control, candidate, gate.margin)
    elif 0 < streams.weight < TOTAL_WEIGHT:
        found = by_ratio(control, candidate, gate.ratio, streams.weight)
    return [found] if gate.limit is None else [found, by_limit(candidate, gate.limit)]


def _allowed(gate: Gate, control: float) -> float:
    return control + gate.margin if gate.ratio is None else control * gate.ratio


def _ceiling(gate: Gate, control: float) -> str:
    if gate.ratio is None:
        return f"control {control:.2%} + margin {gate.margin:.2%}"
    return f"{gate.ratio:g} × control {control:.2%}"


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
