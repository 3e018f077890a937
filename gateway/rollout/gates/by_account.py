"""No account alone decides a rollout: a gate on counts holds only if it holds without any one account.

A caller chooses its units and sees the arm in the reply, so one key can say what it likes of the
candidate alone: fail it, or give it thumbs down. What it cannot do is speak for others. So a gate
that fails, or passes, on all counts is read again without each account in turn; if one of those
readings says something else, the gate is inconclusive, and its reason names the account.

Leaving something out makes no verdict more likely, so each gate's part of alpha still holds. It
costs time: a verdict waits until the accounts beside the largest one show it too. Where one
account makes all the traffic there is nobody else to ask; then it decides, and the reason says so.

Nor does one account hide a bad candidate, by failing on the control alone: see `_against_hiding` in `traffic.py`.
"""

from dataclasses import replace
from typing import Final

from gateway.rollout.gates.reading import AccountShare, Reading, Verdict
from gateway.rollout.gates.traffic import AccountStreams, Gate, Streams, judge_streams

# The name under which accounts stand that have none of their own.
OTHERS: Final = "others"
# What a reading tells of.
MAX_TOLD: Final = 5


def judge_by_account(gate: Gate, streams: Streams | None, alpha: float, pass_alpha: float | None = None) -> Reading:
    """Return what a gate makes of a step's units, whichever account is left out.

    Args:
        gate, streams, alpha, pass_alpha: As `judge_streams` takes them.
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
            said = "fails" if whole.verdict is Verdict.FAIL else "passes"
            reason = (
                f"{said} only because of {named(account.account)}; without it: {rest.reason}. With it: {whole.reason}"
            )
            return replace(whole, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return whole


def named(account: str) -> str:
    """Return an account's name for a sentence."""
    return "the accounts that are too small to be told apart" if account == OTHERS else f"account `{account}`"


def _all_of_one(streams: Streams) -> str:
    largest = streams.accounts[0]
    total = sum(each.n for each in streams.accounts)
    share = largest.n / total if total else 1.0
    return f"{share:.0%} of it is {named(largest.account)}, and hardly anybody else calls, so it alone decides"


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
