"""Is one stream's mean below another's by more than a margin? For pairs against noise pairs.

For a fixed mean b of the other stream, the product

    E_below(first, b - margin) · E_above(other, b)

is evidence against "first ≥ b - margin and other ≤ b", and its least value over all b is
evidence against all of "first ≥ other - margin", since the true b is among them. Both factors
are convex in b in logs, so the least is found by golden-section search. That is never less
valid than comparing two confidence sequences at α/2 each, and it needs less data: weak evidence
on both sides counts together.

It asks that no session gives numbers to both streams (`judge/sessions.py` sees to that):
a product of e-values is one only if the factors' numbers do not depend on each other.

Source: Waudby-Smith and Ramdas (2024), doi:10.1093/jrsssb/qkad009 (products of capital
processes, infima over nuisance means); A. Ramdas et al. (2023), Statist. Sci. 38(4), 576-601,
doi:10.1214/23-STS894 (the infimum over a composite null is an e-process).
"""

from collections.abc import Callable
from math import exp, log, sqrt
from typing import Final

from evaluators.statistics.betting import Evidence, log_e_above, log_e_below

_GOLDEN: Final = (sqrt(5) - 1) / 2
# 0.618^44 = 6e-10 of the interval. The function is flat at its least, so its value is off by some n · 1e-18.
_STEPS: Final = 44


def log_e_worse(first: Evidence, other: Evidence, margin: float, *, kept: float = 0.0) -> float:
    """Return the log e-value, in nats, against "first's mean is at least other's - margin".

    Args:
        first, other: Streams of different sessions.
        margin: In [0, 1).
        kept: The share, in [0, 1), of each factor's capital that is not staked. Where one stream is many times as long,
            bets on it are lost at means that the other cannot exclude, and more than the other can win; what is kept
            bounds that loss.
    """
    _check(margin)
    return _least(
        lambda mean: _saved(log_e_below(first, max(0.0, mean - margin)), kept) + _saved(log_e_above(other, mean), kept),
        margin,
    )


def log_e_not_worse(first: Evidence, other: Evidence, margin: float, *, kept: float = 0.0) -> float:
    """Return the log e-value, in nats, against "first's mean is at most other's - margin"; see `log_e_worse`."""
    _check(margin)
    return _least(
        lambda mean: _saved(log_e_above(first, max(0.0, mean - margin)), kept) + _saved(log_e_below(other, mean), kept),
        margin,
    )


def _saved(log_capital: float, kept: float) -> float:
    """Return the log of what is kept and staked together; convex where the log of what was staked is."""
    if not kept:
        return log_capital
    top = max(log_capital, 0.0)
    return top + log(kept * exp(-top) + (1 - kept) * exp(log_capital - top))


def _check(margin: float) -> None:
    if not 0 <= margin < 1:
        raise ValueError(f"margin `{margin}` is not in [0, 1)")


def _least(function: Callable[[float], float], low: float) -> float:
    """Return the least value of a convex function on [low, 1]."""
    high = 1.0
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    least = min(function(low), function(high), at_left, at_right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
        least = min(least, at_left, at_right)
    return least
