"""Compare two amounts by the control's share: control / (control + candidate), 0.5 if they are equal.

A share instead of a ratio, so that it stays in [0, 1] and three times as much is as far from 0.5
as a third of it. Swapping the arms gives 1 minus the number.
"""

from evaluators.compare.comparator import Reason


def control_share(control: float | None, candidate: float | None, unknown: Reason) -> float | Reason:
    """Return the control's share of both amounts; `unknown` if one is not known, 0.5 if both are 0."""
    if control is None or candidate is None or control < 0 or candidate < 0:
        return unknown
    both = control + candidate
    return control / both if both else 0.5
