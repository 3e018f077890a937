"""Bounds of a mean that hold at every look at once: the bets' capital, solved for the mean.

With a chance of 1 - α the mean of the numbers' expectations so far lies within the bounds at
*every* n (see `betting`: no number need be distributed like the next). The bounds of different
n may not be intersected where traffic changes, because what they bound changes too.

Source: Waudby-Smith and Ramdas (2024), Theorem 3, doi:10.1093/jrsssb/qkad009, with the two
directions at α/2 each; S. Howard, A. Ramdas, J. McAuliffe and J. Sekhon (2021), Ann. Statist. 49(2),
1055-1080, doi:10.1214/20-AOS1991 (confidence sequences).
"""

from collections.abc import Callable
from math import log
from typing import Final

from evaluators.statistics.betting import Evidence, log_e_above, log_e_below

_HALVINGS: Final = 44  # of [0, 1]: 6e-14, far below what a report shows


def bounds(evidence: Evidence, alpha: float) -> tuple[float, float]:
    """Return the lowest and the highest mean that the evidence allows, at every look at once.

    Args:
        evidence: (0, 1) is returned when it is empty.
        alpha: The chance, in (0, 1), that the mean is ever outside; half of it on each side.

    Raises:
        ValueError: `alpha` is out of range.
    """
    _threshold(alpha)
    return lower_bound(evidence, alpha / 2), upper_bound(evidence, alpha / 2)


def lower_bound(evidence: Evidence, alpha: float) -> float:
    """Return the bound that the mean is ever below with a chance of at most `alpha`; see `bounds`."""
    enough = _threshold(alpha)
    return _edge(lambda boundary: log_e_above(evidence, boundary) >= enough, evidence.mean or 0.0, 0.0)


def upper_bound(evidence: Evidence, alpha: float) -> float:
    """Return the bound that the mean is ever above with a chance of at most `alpha`; see `bounds`."""
    enough = _threshold(alpha)
    mean = evidence.mean
    return _edge(lambda boundary: log_e_below(evidence, boundary) >= enough, 1.0 if mean is None else mean, 1.0)


def _threshold(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha `{alpha}` is not between 0 and 1")
    return -log(alpha)


def _edge(is_excluded: Callable[[float], bool], inner: float, outer: float) -> float:
    """Return where exclusion begins between the mean and the end of [0, 1]; rounding widens the interval."""
    if not is_excluded(outer):
        return outer
    for _ in range(_HALVINGS):
        middle = (inner + outer) / 2
        if is_excluded(middle):
            outer = middle
        else:
            inner = middle
    return outer
