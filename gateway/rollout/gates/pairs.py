"""The gates that compared pairs answer: one for each metric that comparators make.

What the pairs of a stage say is found elsewhere (`evaluators/judge`); here is its shape, and
how a gate of a plan reads it. A finding is of one stage's pairs and of one gate's share of
alpha, and holds at every look at once.
"""

from dataclasses import dataclass

from gateway.rollout.gates.reading import Reading, Verdict
from gateway.rollout.gates.traffic import Gate

# Of the samples that spoke most against a candidate, so many are named: enough to read, and few to keep for good.
MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the pairs of one stage say of one metric.

    Attributes:
        verdict, reason, observed, limit: As a reading's.
        n: Sessions behind it; a session counts once, by the mean of its pairs.
        e_value: Evidence for the verdict, or, while there is none, that the candidate fails. Finite.
        first, last: Numbers of the first and the last pair that has this metric.
        against: Ids of the samples that spoke most against the candidate, the worst first.
    """

    verdict: Verdict
    reason: str
    observed: float | None = None
    limit: float | None = None
    n: int = 0
    e_value: float | None = None
    first: int | None = None
    last: int | None = None
    against: tuple[str, ...] = ()


def judge_pairs(gate: Gate, finding: Finding | None) -> Reading:
    """Return what a gate makes of what its pairs say; None when there are none, which is inconclusive."""
    if finding is None:
        return Reading(
            gate=gate.name,
            verdict=Verdict.INCONCLUSIVE,
            reason="no pair has been compared yet (n=0)",
            is_muted=gate.is_muted,
            is_critical=gate.is_critical,
        )
    return Reading(
        gate=gate.name,
        verdict=finding.verdict,
        reason=finding.reason,
        observed=finding.observed,
        limit=finding.limit,
        n=finding.n,
        e_value=finding.e_value,
        is_muted=gate.is_muted,
        is_critical=gate.is_critical,
        first=finding.first,
        last=finding.last,
        against=finding.against,
    )
