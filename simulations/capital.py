"""The e-values of `evaluators.statistics`, for many runs and all looks at once."""

from collections.abc import Callable, Iterator
from math import log

import numpy as np
from numpy.typing import NDArray

from evaluators.statistics.betting import BETS, SHARES

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_MAX_EXPONENT = 600.0
_LOST = -60.0
_FEW = 4
# Runs at a time: few enough for a processor's cache, many enough to keep NumPy busy.
_CHUNK = 100


def log_e_above(values: Array, boundary: float, counts: Mask | None = None) -> Array:
    """Return (n_runs, n_looks) log e-values against "the mean is at most `boundary`" after each of the values.

    Args:
        values: (n_runs, n_looks), in [0, 1].
        boundary: In [0, 1].
        counts: Which of the values count; None: all.
    """
    capital = np.zeros(values.shape)
    gains = _gains(values, boundary, np.ones(values.shape, dtype=bool) if counts is None else counts)
    for share, gained in zip(SHARES, gains, strict=True):
        alive = np.flatnonzero(gained.max(axis=0) > _LOST)
        end = alive[-1] + 1 if len(alive) else 0  # what lies behind is no part of the sum any more
        capital[:, :end] += share * np.exp(np.minimum(gained[:, :end], _MAX_EXPONENT))
    with np.errstate(divide="ignore"):  # capital that is lost is lost
        return np.log(capital)


def _gains(values: Array, boundary: float, counts: Mask) -> Iterator[Array]:
    """Yield each bet's sums of logs; of few different numbers it is enough to count how often each has come."""
    few = np.unique(values[:, :50])
    if len(few) <= _FEW and np.isin(values, few).all():
        seen = [np.cumsum((values == each) & counts, axis=1, dtype=float) for each in few]
        for bet in BETS:
            yield sum(
                (
                    count * (np.log1p(bet * each) - np.log1p(bet * boundary))
                    for each, count in zip(few, seen, strict=True)
                ),
                start=np.zeros(values.shape),
            )
        return
    for bet in BETS:
        yield np.cumsum(np.where(counts, np.log1p(bet * values) - np.log1p(bet * boundary), 0.0), axis=1)


def log_e_below(values: Array, boundary: float) -> Array:
    """Return the log e-values against "the mean is at least `boundary`"; see `log_e_above`."""
    return log_e_above(1 - values, 1 - boundary)


def first_crossings(log_e_values: Array, alpha: float) -> Array:
    """Return (n_runs,) at which look, from 1, each run's e-value reaches 1/alpha; infinity where it never does."""
    reached = log_e_values >= -log(alpha)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def chunks(runs: int, size: int = _CHUNK) -> Iterator[int]:
    """Split so many runs."""
    for begun in range(0, runs, size):
        yield min(size, runs - begun)


def crossings(draw: Callable[[int], Array], evidence: Callable[[Array], Array], runs: int, alpha: float) -> Array:
    """Return `first_crossings` of so many runs, drawn and looked at piece by piece."""
    return np.concatenate([first_crossings(evidence(draw(size)), alpha) for size in chunks(runs)])


def run_lengths(draw: Callable[[int], Array], limit: float, run_length: float, runs: int, most: int) -> Array:
    """Return (runs,) after how many values a `Detector` first alarms; `most` where it has not by then.

    Args:
        draw: Makes (n,) values of one step in n runs.
        limit, run_length: The detector's.
        runs: How many.
        most: Steps to go.
    """
    bets, shares = np.array(BETS), np.array(SHARES)
    sums = np.zeros((runs, len(BETS)))
    found = np.full(runs, float(most))
    running = np.ones(runs, dtype=bool)
    for step in range(1, most + 1):
        values = draw(runs)
        sums = (1 + sums) * (1 + bets * values[:, None]) / (1 + bets * limit)
        hit = running & (sums @ shares >= run_length)
        found[hit] = step
        running &= ~hit
        sums[hit] = 0.0
        if not running.any():
            break
    return found
