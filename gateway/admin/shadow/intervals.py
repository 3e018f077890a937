"""A report's means with their intervals and their evidence, all three of the same session means.

A session counts once, so that long ones do not count for more, and a mean lies in its interval because both are
read off the same evidence. The interval is that of a look at the pairs of one window: of windows that slide, and are
looked at again and again, one in twenty looks at most shows an interval without the truth. What holds at every look
at once is the evidence of a rollout's gates, whose pairs never slide out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Final

from evaluators.statistics.betting import Evidence, log_e_above, log_e_below
from evaluators.statistics.confidence_sequence import bounds
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse

# Of an interval, which no gate reads.
ALPHA: Final = 0.05
# More than any report asks for; so that figures stay readable.
MAX_EVIDENCE: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a comparator says over some pairs, each session once by the mean of its pairs.

    Attributes:
        means: Session → mean in [0, 1], of `largest`.
        largest: The end of the scale.
        evidence: Of these means.
    """

    means: Mapping[str, float]
    largest: float
    evidence: Evidence

    @property
    def mean(self) -> float:
        """The mean over sessions, of at least one."""
        return (self.evidence.mean or 0.0) * self.largest

    def interval(self) -> tuple[float | None, float | None]:
        """Return where the mean is with 95 % at this look; (None, None) of fewer than two sessions."""
        if self.evidence.n < 2:
            return None, None
        low, high = bounds(self.evidence, ALPHA)
        return low * self.largest, high * self.largest

    def without(self, others: Iterable[str]) -> "Estimate":
        """Return the same of all sessions but these."""
        left_out = set(others)
        kept = {session: mean for session, mean in self.means.items() if session not in left_out}
        return Estimate(means=kept, largest=self.largest, evidence=_evidence(kept))


def estimate_of(values: Iterable[tuple[str, float]], *, largest: float = 1.0) -> Estimate:
    """Return what numbers say, each given with its session.

    A number beyond `largest` counts as that; a session whose mean is negative, as that of estimates may be, as 0.
    """
    sums: dict[str, tuple[int, float]] = {}
    for session, value in values:
        count, total = sums.get(session, (0, 0.0))
        sums[session] = (count + 1, total + min(value, largest) / largest)
    # Rounding may exceed 1.
    means = {session: min(1.0, max(0.0, total / count)) for session, (count, total) in sums.items()}
    return Estimate(means=means, largest=largest, evidence=_evidence(means))


def _evidence(means: Mapping[str, float]) -> Evidence:
    evidence = Evidence()
    # Most scores are one of few numbers, and equal ones cost as much as one.
    for value, times in Counter(means.values()).items():
        evidence = evidence.add(value, times)
    return evidence


def e_against(estimate: Estimate, mean: float) -> float:
    """Return the e-value against "the mean is `mean`", in [0, 1]: half of the capital is bet on each side."""
    return _half(log_e_above(estimate.evidence, mean)) + _half(log_e_below(estimate.evidence, mean))


def e_against_noise(estimate: Estimate, noise: Estimate) -> float | None:
    """Return the e-value against "the mean is that of noise"; None without noise.

    Products of evidence ask for independence, so a session that has pairs of both kinds says nothing of the noise.
    """
    other = noise.without(estimate.means).evidence
    if not other.n:
        return None
    return _half(log_e_worse(estimate.evidence, other, 0.0)) + _half(log_e_not_worse(estimate.evidence, other, 0.0))


def _half(log_e: float) -> float:
    return exp(min(log_e, log(MAX_EVIDENCE))) / 2
