"""Estimate means for reports, with intervals and e-values, all three from the same session means.

Each session counts once, so that long sessions have no more weight, and a mean always lies in its interval because
both are computed from the same evidence. An interval holds for one look at one window: over many looks at a sliding
window, at most one in twenty shows an interval that misses the true mean. Only the evidence of a rollout's gates, whose
pairs never leave the window, holds at all looks at once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Final

from evaluators.statistics.betting import Evidence, log_e_above, log_e_below
from evaluators.statistics.confidence_sequence import bounds
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse

# Error rate of the intervals, which are shown to people and read by no gate.
ALPHA: Final = 0.05
# The cap of e-values, far above any threshold, so that figures stay readable.
MAX_EVIDENCE: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A comparator's mean over sessions; each session counts once, with the mean of its pairs.

    Attributes:
        means: Session → mean in [0, 1], as a share of `largest`.
        largest: The largest value of the comparator's scale.
        evidence: The statistics of `means` that intervals and e-values are computed from.
    """

    means: Mapping[str, float]
    largest: float
    evidence: Evidence

    @property
    def mean(self) -> float:
        """The mean over sessions; 0 without any."""
        return (self.evidence.mean or 0.0) * self.largest

    def interval(self) -> tuple[float | None, float | None]:
        """Return the 95 % interval of the mean, valid for one look; (None, None) for fewer than two sessions."""
        if self.evidence.n < 2:
            return None, None
        low, high = bounds(self.evidence, ALPHA)
        return low * self.largest, high * self.largest

    def without(self, others: Iterable[str]) -> "Estimate":
        """Return the estimate without these sessions."""
        excluded = set(others)
        means = {session: mean for session, mean in self.means.items() if session not in excluded}
        return Estimate(means=means, largest=self.largest, evidence=_evidence(means))


def estimate_of(values: Iterable[tuple[str, float]], *, largest: float = 1.0) -> Estimate:
    """Return the estimate of a mean from (session, number) values.

    A number above `largest` counts as `largest`; a session with a negative mean, which KL estimates may have, as 0.
    """
    sums: dict[str, tuple[int, float]] = {}
    for session, value in values:
        count, total = sums.get(session, (0, 0.0))
        sums[session] = (count + 1, total + min(value, largest) / largest)
    # Rounding may lead to a mean above 1.
    means = {session: min(1.0, max(0.0, total / count)) for session, (count, total) in sums.items()}
    return Estimate(means=means, largest=largest, evidence=_evidence(means))


def _evidence(means: Mapping[str, float]) -> Evidence:
    evidence = Evidence()
    # Most scores take few distinct values, and adding a value many times costs as much as adding it once.
    for value, times in Counter(means.values()).items():
        evidence = evidence.add(value, times)
    return evidence


def e_against(estimate: Estimate, mean: float) -> float:
    """Return the e-value against the hypothesis that the mean is `mean`, in [0, 1].

    Two-sided: half of the capital is bet on a larger mean and half on a smaller one.
    """
    return _half(log_e_above(estimate.evidence, mean)) + _half(log_e_below(estimate.evidence, mean))


def e_against_noise(estimate: Estimate, noise: Estimate) -> float | None:
    """Return the e-value against the hypothesis that the mean equals that of the noise; None without noise.

    Multiplying evidence requires independent samples, so sessions that have pairs of both kinds are left out of the
    noise.
    """
    other = noise.without(estimate.means).evidence
    if not other.n:
        return None
    return _half(log_e_worse(estimate.evidence, other, 0.0)) + _half(log_e_not_worse(estimate.evidence, other, 0.0))


def _half(log_e: float) -> float:
    return exp(min(log_e, log(MAX_EVIDENCE))) / 2
