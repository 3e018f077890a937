"""Is one stream's mean below another's by more than a margin? For pairs against noise pairs.

For a fixed mean b of the other stream, the product

    E_below(first, b - margin) · E_above(other, b)

is evidence against "first ≥ b - margin and other ≤ b", and its least value over all b is
evidence against all of "first ≥ other - margin", since the true b is among them. Both factors
are convex in b in logs, so the least is found between tangents. That is never less
valid than comparing two confidence sequences at α/2 each, and it needs less data: weak evidence
on both sides counts together.

It asks that no session gives numbers to both streams (`judge/sessions.py` sees to that):
a product of e-values is one only if the factors' numbers do not depend on each other.

Source: Waudby-Smith and Ramdas (2024), doi:10.1093/jrsssb/qkad009 (products of capital
processes, infima over nuisance means); A. Ramdas et al. (2023), Statist. Sci. 38(4), 576-601,
doi:10.1214/23-STS894 (the infimum over a composite null is an e-process).
"""

from collections.abc import Callable
from math import exp, log
from typing import Final

from evaluators.statistics.betting import Evidence, slope_above, slope_below

# Precision of the minimum in nats. It is rounded down, so that evidence is never overstated.
_PRECISION: Final = 1e-3
_MAX_STEPS: Final = 60

# A function of the other stream's mean, and its slope there.
_Sloped = Callable[[float], tuple[float, float]]


def log_e_worse(first: Evidence, other: Evidence, margin: float, *, reserve: float = 0.0) -> float:
    """Return the log e-value, in nats, against "first's mean is at least other's - margin".

    Args:
        first, other: Streams of different sessions.
        margin: In [0, 1).
        reserve: The share, in [0, 1), of each factor's capital that is not staked. Where one stream is many times as
            long, bets on it are lost at means that the other cannot exclude, and more than the other can win; the
            reserve bounds that loss.
    """
    _check(margin)
    return _minimum(
        lambda mean: _add_factors(slope_below(first, mean - margin), slope_above(other, mean), reserve), margin
    )


def log_e_not_worse(first: Evidence, other: Evidence, margin: float, *, reserve: float = 0.0) -> float:
    """Return the log e-value, in nats, against "first's mean is at most other's - margin"; see `log_e_worse`."""
    _check(margin)
    return _minimum(
        lambda mean: _add_factors(slope_above(first, mean - margin), slope_below(other, mean), reserve), margin
    )


def _add_factors(first: tuple[float, float], other: tuple[float, float], reserve: float) -> tuple[float, float]:
    one, two = (_add_reserve(*each, reserve) if reserve else each for each in (first, other))
    return one[0] + two[0], one[1] + two[1]


def _add_reserve(log_capital: float, slope: float, reserve: float) -> tuple[float, float]:
    """Return the log of the unstaked and the staked capital together, and its slope.

    The result is convex wherever `log_capital` is.
    """
    top = max(log_capital, 0.0)
    staked = (1 - reserve) * exp(log_capital - top)
    total = reserve * exp(-top) + staked
    return top + log(total), slope * staked / total


def _check(margin: float) -> None:
    if not 0 <= margin < 1:
        raise ValueError(f"margin `{margin}` is not in [0, 1)")


def _minimum(function: _Sloped, low: float) -> float:
    """Return the minimum of a convex function on [low, 1], rounded down by at most `_PRECISION`.

    Between two points whose slopes have different signs, the function is never below the crossing of their tangents.
    """
    high = 1.0
    (at_low, slope_low), (at_high, slope_high) = function(low), function(high)
    if slope_low >= 0:
        return at_low
    if slope_high <= 0:
        return at_high
    for step in range(_MAX_STEPS):
        meet = (at_high - at_low + slope_low * low - slope_high * high) / (slope_low - slope_high)
        bound = at_low + slope_low * (meet - low)
        if min(at_low, at_high) - bound <= _PRECISION:
            break
        # Where tangents meet is near the least of what is nearly straight; halves where it is not.
        middle = meet if step % 3 != 2 and low < meet < high else (low + high) / 2
        found, slope = function(middle)
        if slope < 0:
            low, at_low, slope_low = middle, found, slope
        else:
            high, at_high, slope_high = middle, found, slope
        if slope == 0:
            return found
    return bound
