"""What a gate says: pass, fail or inconclusive, always with *observed, limit, n*.

Inconclusive is an answer of its own: too little data, or data that cannot be had, is
neither a pass nor a failure. A failure takes everything back, a pass allows the next
step, inconclusive waits and in the end asks a person.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """The three answers, best first."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_BADNESS: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one gate read, and what it made of it.

    Attributes:
        gate: The gate's name in the plan.
        verdict: Its answer.
        reason: The sentence for people: observed, limit, n.
        observed: What was measured of the candidate; None when nothing was.
        limit: What it was held against; None where there is no number.
        n: How many of the candidate's samples stand behind it.
    """

    gate: str
    verdict: Verdict
    reason: str
    observed: float | None = None
    limit: float | None = None
    n: int = 0


def worst(readings: Iterable[Reading]) -> Verdict:
    """Return the worst verdict; without any reading nothing stands against going on: pass."""
    return max((reading.verdict for reading in readings), key=_BADNESS.__getitem__, default=Verdict.PASS)
