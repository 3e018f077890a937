"""What a gate says: pass, fail or inconclusive, always with *observed, limit, n*.

Inconclusive is an answer of its own: too little data, or data that cannot be had, is
neither a pass nor a failure. A failure takes everything back, a pass allows the next
step, inconclusive waits and in the end asks a person. A gate may be muted: it is read and
told, and decides nothing. And it may be uncritical: when it fails, a person decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from evaluators.judge.verdict import Verdict

_BADNESS: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountShare:
    """What one account has contributed to a gate's counts: of each arm units, and those that had something bad."""

    account: str
    n: int
    bad: int
    control_n: int
    control_bad: int
    units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one gate read, and what it made of it.

    Attributes:
        gate: The gate's name in the plan.
        verdict: Its answer.
        reason: The sentence for people: observed, limit, n.
        observed: What was measured of the candidate; None when nothing was.
        limit: What it was held against; None where there is no number.
        n: How many of the candidate's units stand behind it; of pairs, sessions.
        e_value: Evidence for what the verdict says (inconclusive: that it fails), valid at every look; None where
            none is made.
        is_muted: Whether it is told and decides nothing.
        is_critical: Whether a failure rolls back at once; else it pauses and asks a person.
        first, last: Numbers of the first and the last stored pair behind it; None of what is not read from pairs.
        against: Ids of the samples that spoke most against the candidate, the worst first.
        accounts: Who has contributed how much, the largest first; empty of what is not counted by account.
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
        """Whether this says that something is wrong, and is listened to."""
        return self.verdict is Verdict.FAIL and not self.is_muted

    @property
    def rolls_back(self) -> bool:
        """Whether this alone takes the candidate back."""
        return self.fails and self.is_critical


def worst(readings: Iterable[Reading]) -> Verdict:
    """Return the worst verdict of those that decide; without any, nothing stands against going on: pass."""
    deciding = (reading.verdict for reading in readings if not reading.is_muted)
    return max(deciding, key=_BADNESS.__getitem__, default=Verdict.PASS)
