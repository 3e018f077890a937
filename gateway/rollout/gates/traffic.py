"""The gates that live traffic answers, `error_rate`, `latency` and `feedback`.

`error_rate`, `latency` and `feedback` ask one question of two arms' units: is the candidate's mean share of bad
requests (or the share of its thumbs that are down) more than the control's plus a margin, or more than so many times
it? Units count once (`unit_shares.py`), and one e-value answers from both arms' sums:

* FAIL when the evidence against "no worse than allowed" reaches 1/alpha of the gate,
* PASS when the evidence against "worse than allowed" reaches 1/alpha of the plan,
* INCONCLUSIVE otherwise, and without data.

So a candidate within the margin ever fails with a chance of at most the gate's alpha, and one beyond it ever passes
with at most the plan's, however often one looks. With `limit`, an absolute ceiling, the same is asked of the candidate
alone, and of both demands the mean of the e-values fails and the lesser passes.

These bounds assume that arms are drawn by unit and that units are independent of each other. Requests of one unit may
depend on each other in any way. Disturbances that both arms share (an engine down for a minute) move both and cancel:
this is simulated (`simulations/`), and with `ratio` proved. The units that give thumbs are not a random sample, but are
selected alike in both arms.

No account alone decides a rollout: a gate on counts holds only if it holds without any one account.

A caller chooses its units and sees the arm in the reply, so one key can say what it likes of the
candidate alone: fail it, or give it thumbs down. What it cannot do is speak for others. So a gate
that fails, or passes, on all counts is read again without each account in turn; if one of those
readings says something else, the gate is inconclusive, and its reason names the account.

Leaving something out makes no verdict more likely, so each gate's part of alpha still holds. It
costs time: a verdict waits until the accounts beside the largest one show it too. Where one
account makes all the traffic there is no other evidence; then it decides, and the reason says so.

Nor does one account hide a bad candidate, by failing on the control alone: see `_evidence_past_hiding`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from math import exp, log
from types import MappingProxyType
from typing import Any, Final

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates.gate import Gate, GateKind, GateSource
from gateway.rollout.gates.look import Look
from gateway.rollout.gates.reading import AccountShare, Reading
from gateway.rollout.gates.streams import AccountStreams, Streams
from gateway.rollout.gates.unit_shares import (
    ArmUnits,
    log_above,
    log_below,
    log_not_times_worse,
    log_not_worse,
    log_times_worse,
    log_worse,
    mean_of,
)


def judge_streams(gate: Gate, streams: Streams | None, alpha: float, pass_alpha: float | None = None) -> Reading:
    """Return the reading of a statistical gate on a step's units.

    Args:
        gate: The gate, with its margin or ratio, and possibly a limit.
        streams: Both arms' units; None if nothing was measured, which is inconclusive.
        alpha: The chance, in (0, 1), that this gate ever fails a candidate that is fine.
        pass_alpha: The chance that it ever passes a candidate that is not fine; None for the same as `alpha`.
    """
    flags: dict[str, Any] = {"is_critical": gate.is_critical, "is_muted": gate.is_muted}
    if streams is None:
        why = "not measured yet: too few requests (n=0)"
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason=why, **flags)
    fails, hiding = _evidence_past_hiding(gate, streams)
    passes = min(_evidence_to_pass(gate, streams))
    verdict, evidence, remark = Verdict.INCONCLUSIVE, fails / streams.multiplicity, ""
    if evidence >= -log(alpha):
        verdict = Verdict.FAIL
        if hiding is not None:
            streams, remark = (
                streams.without(hiding),
                f"; without account `{hiding.account}`, beside which it looks well",
            )
    elif passes / streams.multiplicity >= -log(pass_alpha or alpha):
        verdict, evidence = Verdict.PASS, passes / streams.multiplicity
    control, candidate = streams.control, streams.candidate
    rate, limit = candidate.whole.rate, _max_rate(gate, control.whole.rate)
    what, ceiling = _quantity(gate.name, streams.threshold_seconds), _max_rate_text(gate, control.whole.rate)
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
        reason=f"{what} {rate:.2%} {_RELATION[verdict]} {ceiling} ({numbers}){remark}",
        **flags,
    )


_MAX_EXPONENT: Final = 700.0  # exp(710) is no float any more
_TOLD_MULTIPLICITY: Final = 1.05
_RELATION: Final = {Verdict.FAIL: ">", Verdict.PASS: "≤", Verdict.INCONCLUSIVE: "not told apart from"}
# How many of the largest accounts are each left out in turn, in case one makes the control look bad. Each takes its
# part of half of the betting capital: this costs 0.7 nats if no account does so, and 2.1 if one does.
MAX_HIDING: Final = 4


def _evidence_past_hiding(gate: Gate, streams: Streams) -> tuple[float, AccountStreams | None]:
    """Return the log e-value for failing, and the account that hides it, if one does.

    An account whose requests fail on the control alone makes any candidate look good beside it. So the evidence is the
    mean of the evidence of all accounts and of that of all but one. Only the largest accounts are left out, which is
    valid because an account's size does not depend on which of its requests fail.
    """
    whole = mean_of(_evidence_to_fail(gate, streams))
    if streams.callers < _SEVERAL or not streams.accounts:
        return whole, None
    hiding = streams.accounts[:MAX_HIDING]
    rests = [mean_of(_evidence_to_fail(gate, streams.without(each))) for each in hiding]
    nobody = [0.0] * (MAX_HIDING - len(hiding))
    fails = mean_of([whole, mean_of([*rests, *nobody])])
    best = max(range(len(rests)), key=rests.__getitem__)
    return fails, hiding[best] if fails > whole + _TOLD_HIDING else None


_SEVERAL: Final = 2
_TOLD_HIDING: Final = 2.0  # nats


def _evidence_to_fail(gate: Gate, streams: Streams) -> list[float]:
    """Return the log e-values against "no worse than allowed", for the margin or ratio and for the limit if any."""
    return _evidence(gate, streams, log_worse, log_times_worse, log_above)


def _evidence_to_pass(gate: Gate, streams: Streams) -> list[float]:
    """Return the log e-values against "worse than allowed", for the margin or ratio and for the limit if any."""
    return _evidence(gate, streams, log_not_worse, log_not_times_worse, log_below)


def _evidence(
    gate: Gate,
    streams: Streams,
    by_margin: Callable[[ArmUnits, ArmUnits, float], float],
    by_ratio: Callable[[ArmUnits, ArmUnits, float, int], float],
    by_limit: Callable[[ArmUnits, float], float],
) -> list[float]:
    control, candidate = streams.control, streams.candidate
    found = 0.0  # no evidence about a ratio while only one arm is served
    if gate.ratio is None:
        found = by_margin(control, candidate, gate.margin)
    elif 0 < streams.weight < TOTAL_WEIGHT:
        found = by_ratio(control, candidate, gate.ratio, streams.weight)
    return [found] if gate.limit is None else [found, by_limit(candidate, gate.limit)]


def _max_rate(gate: Gate, control: float) -> float:
    return control + gate.margin if gate.ratio is None else control * gate.ratio


def _max_rate_text(gate: Gate, control: float) -> str:
    if gate.ratio is None:
        return f"control {control:.2%} + margin {gate.margin:.2%}"
    return f"{gate.ratio:g} × control {control:.2%}"


def _quantity(name: str, threshold_seconds: float | None) -> str:
    if threshold_seconds is not None:
        return f"share slower than {threshold_seconds:g} s"
    return "share of thumbs down" if name == "feedback" else "error rate"


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


# The name for all accounts that are too small to be counted by their own.
OTHERS: Final = "others"
# The greatest number of accounts that a reading lists.
MAX_TOLD: Final = 5


def judge_by_account(gate: Gate, streams: Streams | None, alpha: float, pass_alpha: float | None = None) -> Reading:
    """Return a gate's reading on a step's units, inconclusive if it changes when any one account is left out.

    Args:
        gate, streams, alpha, pass_alpha: The same as for `judge_streams`.
    """
    whole = judge_streams(gate, streams, alpha, pass_alpha)
    if streams is None or not streams.accounts:
        return whole
    whole = replace(whole, accounts=tuple(map(_share, streams.accounts[:MAX_TOLD])))
    if whole.verdict is Verdict.INCONCLUSIVE or gate.may_rest_on_one:
        return whole
    if streams.callers < 2:
        return replace(whole, reason=f"{whole.reason}; {_all_of_one(streams)}")
    for account in streams.accounts:
        rest = judge_streams(gate, streams.without(account), alpha, pass_alpha)
        if rest.verdict is not whole.verdict:
            outcome = "fails" if whole.verdict is Verdict.FAIL else "passes"
            whose = phrase_for(account.account)
            reason = f"{outcome} only because of {whose}; without it: {rest.reason}. With it: {whole.reason}"
            return replace(whole, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return whole


def phrase_for(account: str) -> str:
    """Return the words that name an account in a sentence."""
    return "the accounts that are too small to be told apart" if account == OTHERS else f"account `{account}`"


def _all_of_one(streams: Streams) -> str:
    largest = streams.accounts[0]
    total = sum(each.n for each in streams.accounts)
    share = largest.n / total if total else 1.0
    return f"{share:.0%} of it is {phrase_for(largest.account)}, and hardly anybody else calls, so it alone decides"


def _share(each: AccountStreams) -> AccountShare:
    candidate, control = each.candidate, each.control
    return AccountShare(
        account=each.account,
        n=candidate.n,
        bad=candidate.whole.some_bad,
        control_n=control.n,
        control_bad=control.whole.some_bad,
        units=each.n,
    )


def _judge(gate: Gate, look: Look) -> Reading:
    return judge_by_account(gate, look.facts.streams.get(gate.name), look.alpha, look.pass_alpha)


def _kind(**defaults: float | None) -> GateKind:
    return GateKind(defaults=MappingProxyType(defaults), source=GateSource.COUNTS, judge=_judge)


# Margins in shares of requests. One more failure in a hundred requests is what a 99 % objective
# can lose in total; with the 95th percentile as threshold 5 % of the control's requests are slow, and 5 % more
# is twice as many. Thumbs are few: 5 % more of them down is what some hundreds can show.
KINDS: Final = {
    "error_rate": _kind(margin=0.01, limit=None),
    "latency": _kind(margin=0.05, quantile=0.95),
    "feedback": _kind(margin=0.05, limit=None),
}
