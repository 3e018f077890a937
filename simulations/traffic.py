"""Traffic whose truth is known exactly: what the simulations draw."""

from collections.abc import Callable
from math import sqrt

import numpy as np

from simulations.capital import Array

Draw = Callable[[int], Array]
_QUANTILES = 20_000


class Traffic:
    """Draws (n_runs, n_looks) numbers, seeded.

    Each method returns a function from a number of runs to arrays, which goes on drawing where the last call ended.
    """

    def __init__(self, seed: int, looks: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.looks = looks

    def pass_rates(self, difference: float, discordance: float) -> Draw:
        """Goodness of a binary DIFFERENCE: the candidate passes `difference` oftener, the arms differ in so many."""
        better = (discordance + difference) / 2

        def draw(runs: int) -> Array:
            chance = self.rng.random((runs, self.looks))
            return np.where(chance < better, 1.0, np.where(chance < discordance, 0.0, 0.5))

        return draw

    def scores(self, difference: float = 0.0) -> Draw:
        """Goodness of a DIFFERENCE of scores that are spread over [0, 1]: Beta(4, 2) in both arms, and a part worse."""

        def draw(runs: int) -> Array:
            control, candidate = (self.rng.beta(4, 2, (runs, self.looks)) for _ in range(2))
            # The candidate's answer is worth nothing so often that its mean is `difference` lower.
            candidate[self.rng.random(candidate.shape) < -difference / (4 / 6)] = 0.0
            return (1 + candidate - control) / 2

        return draw

    def wins(self, rate: float, ties: float = 0.0) -> Draw:
        """Preferences: so many ties, and of the rest wins such that the mean is `rate`."""
        won = rate - ties / 2

        def draw(runs: int) -> Array:
            chance = self.rng.random((runs, self.looks))
            return np.where(chance < won, 1.0, np.where(chance < won + ties, 0.5, 0.0))

        return draw

    def ones(self, rate: float) -> Draw:
        """Zeros and ones."""
        return lambda runs: (self.rng.random((runs, self.looks)) < rate).astype(float)

    def shares(self, a: float, b: float) -> Draw:
        """Beta(a, b)."""
        return lambda runs: self.rng.beta(a, b, (runs, self.looks))

    def divergences(self, mean: float, cap: float = 5.0) -> Draw:
        """Goodness of `kl`: log-normal nats of shape 1, cut at `cap`, and so scaled that its mean is `mean`."""
        values = kl_values(mean, cap)
        return lambda runs: 1 - values[self.rng.integers(0, len(values), (runs, self.looks))] / cap

    def turns(self, discordance: float, correlation: float, turns: int) -> Draw:
        """A/A pass rates in sessions of so many turns, one after the other; any two turns of one correlate so."""
        sessions = self.looks // turns
        copies = sqrt(correlation)  # a turn takes its session's own draw with this chance

        def one(shape: tuple[int, ...]) -> Array:
            chance = self.rng.random(shape)
            return np.where(chance < discordance / 2, 1.0, np.where(chance < discordance, 0.0, 0.5))

        def draw(runs: int) -> Array:
            common, own = one((runs, sessions, 1)), one((runs, sessions, turns))
            return np.where(self.rng.random(own.shape) < copies, common, own).reshape(runs, sessions * turns)

        return draw


def kl_values(mean: float, cap: float = 5.0) -> Array:
    """Return the quantiles of a log-normal, scaled and cut at `cap` so that their mean is exactly `mean`."""
    rng = np.random.default_rng(0)
    raw = np.exp(np.sort(rng.standard_normal(_QUANTILES)))
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(raw * middle, cap).mean() < mean:
            low = middle
        else:
            high = middle
    return np.minimum(raw * high, cap)
