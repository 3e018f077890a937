"""Sessions whose length goes with the score: in which order they count."""

from functools import partial

import numpy as np

from simulations.capital import Array, crossings, log_e_below
from simulations.promises import Size

SESSIONS, TURNS = 1_000, 10
IDLE, GAP = 30.0, 25.0  # seconds: of a shadow stage, and between two turns
DISCORDANCE, DIFFERENCE = 0.12, 0.10
# Sessions a second, and the margin, in points.
CASES = ((2.0, 0), (2.0, 5), (0.5, 0), (0.1, 0))


def session_order(size: Size) -> dict[str, dict[str, float]]:
    """Return false rollbacks of a candidate that is no worse on the whole, by the order in which sessions count.

    Half of the sessions are of one pair and 10 points worse, half of ten pairs and 10 points better; their mean is 0.
    """
    told = {}
    for rate, margin in CASES:
        by_order = {}
        for order in ("as they end", "as they began"):
            rng = size.traffic(f"session order {rate} {margin}").rng
            found = crossings(
                partial(_means, rng, rate=rate, order=order),
                partial(log_e_below, boundary=0.5 - margin / 200),
                size.runs,
                size.alpha,
            )
            by_order[order] = float(np.isfinite(found).mean())
        told[f"{rate:g} sessions a second, margin {margin} points"] = by_order
    return told


def _means(rng: np.random.Generator, runs: int, rate: float, order: str) -> Array:
    began = rng.exponential(1 / rate, (runs, SESSIONS)).cumsum(axis=1)
    is_long = rng.random(began.shape) < 0.5
    better = (DISCORDANCE + np.where(is_long, DIFFERENCE, -DIFFERENCE)) / 2
    chance = rng.random((runs, SESSIONS, TURNS))
    turns = np.where(chance < better[..., None], 1.0, np.where(chance < DISCORDANCE, 0.0, 0.5))
    means = np.where(is_long, turns.mean(axis=2), turns[..., 0])
    if order == "as they began":
        return means
    ended = began + np.where(is_long, (TURNS - 1) * GAP, IDLE)
    in_time = np.argsort(ended, axis=1)
    last = began[:, -1:]
    sorted_means = np.take_along_axis(means, in_time, axis=1)
    # What ends after the last session has begun is not waited for: nothing is decided by it.
    return np.where(np.take_along_axis(ended, in_time, axis=1) <= last, sorted_means, 0.5)
