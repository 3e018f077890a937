"""A gate's reading: its verdict (pass, fail or inconclusive), always with *observed, limit, n*.

Inconclusive is a verdict of its own: too little data, or data that cannot be had, is neither a pass nor a failure.
A failure rolls the rollout back, a pass allows the next step, and an inconclusive gate waits until the stage's time or
samples are used up and a person is asked. A muted gate is evaluated and shown but decides nothing. A gate that is not
critical pauses the rollout when it fails, and a person decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from evaluators.judge.verdict import Verdict

_BADNESS: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountShare:
    """One account's part in a gate's counts: its units on each arm, and how many of them had a bad request."""

    account: str
    n: int
    bad: int
    control_n: int
    control_bad: int
    units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The verdict of one gate at one look, with the figures behind it.

    Attributes:
        gate: The gate's name in the plan.
        verdict: The gate's verdict.
        reason: The verdict as a sentence for people, with observed, limit and n.
        observed: The value measured for the candidate; None if nothing was measured.
        limit: The value that `observed` is compared with; None for gates without a number.
        n: The number of the candidate's units behind the reading; for gates on pairs, of sessions.
        e_value: Evidence for the verdict (for an inconclusive one: for failing), valid at every look; None if the
            gate computes none.
        is_muted: Whether the reading is only shown and decides nothing.
        is_critical: Whether a failure rolls back at once; otherwise it pauses the rollout and asks a person.
        first, last: Numbers of the first and the last stored pair behind it; None for gates that do not read pairs.
        against: Ids of the samples with the strongest evidence against the candidate, the worst first.
        accounts: How much each account contributed, the largest first; empty if nothing is counted by account.
    """

    gate: str
    verdict: Verdict
    reason: str
    observed: float | None = None
    limit: float | None = None
    n: int = 0
    e_value: float | None = None
    is_muted: bool = False
    is_critical: bool = True
    first: int | None = None
    last: int | None = None
    against: tuple[str, ...] = ()
    accounts: tuple[AccountShare, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether the gate fails and is not muted."""
        return self.verdict is Verdict.FAIL and not self.is_muted

    @property
    def rolls_back(self) -> bool:
        """Whether this reading alone rolls the candidate back."""
        return self.fails and self.is_critical


def worst(readings: Iterable[Reading]) -> Verdict:
    """Return the worst verdict of the gates that are not muted; pass if there are none."""
    deciding = (reading.verdict for reading in readings if not reading.is_muted)
    return max(deciding, key=_BADNESS.__getitem__, default=Verdict.PASS)
