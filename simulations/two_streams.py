"""A candidate's pairs held against noise pairs, for many runs at once: how many of them should be noise."""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from evaluators.statistics.betting import BETS, SHARES
from simulations.capital import Array
from simulations.promises import Size

_BETS, _SHARES = np.array(BETS), np.array(SHARES)
_GOLDEN = (sqrt(5) - 1) / 2
_STEPS = 30  # leaves 5e-7 of the interval; a look is not so fine
NOISE_SHARES = (0.1, 0.2, 0.3, 0.35, 0.4, 0.5)


@dataclass(slots=True)
class Stream:
    """One stream's sums in each run: what `Evidence` keeps of one."""

    n: Array
    up: Array
    down: Array

    @classmethod
    def empty(cls, runs: int) -> "Stream":
        """Return the sums of nothing in so many runs."""
        return cls(np.zeros(runs), np.zeros((runs, len(BETS))), np.zeros((runs, len(BETS))))

    def add(self, values: Array, counts: NDArray[np.bool_]) -> None:
        """Add (n_runs, n) numbers in [0, 1], of each those that count."""
        self.n += counts.sum(axis=1)
        for at, bet in enumerate(BETS):
            self.up[:, at] += np.where(counts, np.log1p(bet * values), 0.0).sum(axis=1)
            self.down[:, at] += np.where(counts, np.log1p(bet * (1 - values)), 0.0).sum(axis=1)


def _log_capital(n: Array, sums: Array, boundary: Array) -> Array:
    terms = np.log(_SHARES) + sums - n[:, None] * np.log1p(_BETS * boundary[:, None])
    top: Array = terms.max(axis=1)
    found: Array = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return found


def log_e_worse(first: Stream, other: Stream, margin: float) -> Array:
    """Return (n_runs,) log e-values as `two_sample.log_e_worse` has them."""
    return _least(first, other, margin, is_worse=True)


def log_e_not_worse(first: Stream, other: Stream, margin: float) -> Array:
    """Return (n_runs,) log e-values as `two_sample.log_e_not_worse` has them."""
    return _least(first, other, margin, is_worse=False)


def _least(first: Stream, other: Stream, margin: float, *, is_worse: bool) -> Array:
    def value(mean: Array) -> Array:
        least = np.maximum(0.0, mean - margin)
        if is_worse:
            return _log_capital(first.n, first.down, 1 - least) + _log_capital(other.n, other.up, mean)
        return _log_capital(first.n, first.up, least) + _log_capital(other.n, other.down, 1 - mean)

    low, high = np.full(first.n.shape, margin), np.ones(first.n.shape)
    least = np.minimum(value(low), value(high))
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = value(left), value(right)
        least = np.minimum(least, np.minimum(at_left, at_right))
        is_left = at_left <= at_right
        high, low = np.where(is_left, right, high), np.where(is_left, low, left)
    return least


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Similarities of a candidate and of noise, each Beta(a, b), and what is asked of them.

    Attributes:
        candidate, noise: (a, b).
        margin: The gate's.
        fails: Whether failing is waited for, else passing.
        every: Pairs from look to look.
        most: Pairs at most.
    """

    candidate: tuple[float, float]
    noise: tuple[float, float]
    margin: float
    fails: bool
    every: int
    most: int


CASES = {
    "10 points less similar than noise, margin 5: fails": Case(
        candidate=(7, 3), noise=(8, 2), margin=0.05, fails=True, every=20, most=8_000
    ),
    "20 points less similar, margin 10: fails": Case(
        candidate=(6, 4), noise=(8, 2), margin=0.10, fails=True, every=10, most=4_000
    ),
    "as similar as noise, margin 10: passes": Case(
        candidate=(8, 2), noise=(8, 2), margin=0.10, fails=False, every=10, most=4_000
    ),
}


def noise_share(size: Size) -> dict[str, dict[str, float]]:
    """Return how many pairs of both kinds together it takes to decide, by the share of noise pairs; medians."""
    runs = min(size.runs, 500)
    return {
        name: {f"{share:g}": _median(case, share, size, runs) for share in NOISE_SHARES} for name, case in CASES.items()
    }


def _median(case: Case, share: float, size: Size, runs: int) -> float:
    rng = size.traffic(f"noise share {share} {case}").rng
    trial, noise = Stream.empty(runs), Stream.empty(runs)
    found = np.full(runs, np.inf)
    judge = log_e_worse if case.fails else log_e_not_worse
    for pairs in range(case.every, case.most + 1, case.every):
        shape = (runs, case.every)
        is_noise = rng.random(shape) < share
        trial.add(rng.beta(*case.candidate, shape), ~is_noise)
        noise.add(rng.beta(*case.noise, shape), is_noise)
        hit = judge(trial, noise, case.margin) >= -log(size.alpha)
        found = np.minimum(found, np.where(hit, float(pairs), np.inf))
        if np.isfinite(found).mean() > 0.5:
            break
    return float(np.quantile(found, 0.5, method="higher"))
