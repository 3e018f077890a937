"""Intervals for a report's means: always valid, over session means, so that long sessions do not count twice."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from evaluators.statistics.betting import Evidence
from evaluators.statistics.confidence_sequence import bounds

# Of an interval, which no gate reads.
ALPHA: Final = 0.05


def interval_of(values: Iterable[tuple[str, float]], *, largest: float = 1.0) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean, good at every look; (None, None) of fewer than two sessions.

    Args:
        values: (session, number in [0, `largest`]); what is larger counts as `largest`.
        largest: The end of the scale.
    """
    sums: dict[str, tuple[int, float]] = {}
    for session, value in values:
        count, total = sums.get(session, (0, 0.0))
        sums[session] = (count + 1, total + min(value, largest) / largest)
    if len(sums) < 2:
        return None, None
    evidence = Evidence()
    # Most scores are one of few numbers, and equal ones cost as much as one.
    for value, times in Counter(min(1.0, total / count) for count, total in sums.values()).items():
        evidence = evidence.add(value, times)
    low, high = bounds(evidence, ALPHA)
    return low * largest, high * largest
