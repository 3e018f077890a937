"""How many units it takes to see that a split is off its weights, and how often a right one is called wrong."""

from math import log
from typing import Any

import numpy as np

from gateway.rollout.gates.sample_ratio import ALPHA, CONCENTRATION
from simulations.capital import Array, chunks
from simulations.promises import Size

CONCENTRATIONS = (100.0, CONCENTRATION)
# Weight, share of the candidate's units that are found in control, units from look to look, and looks at most.
LEAKS = (
    (0.5, 0.01, 1_000, 600),
    (0.05, 0.01, 20_000, 600),
    (0.5, 0.05, 50, 600),
    (0.5, 0.5, 5, 400),
    (0.05, 0.5, 20, 400),
)
_EVERY, _LOOKS = 20, 1_000


def sample_ratio(size: Size) -> dict[str, dict[str, Any]]:
    """Return the median of the units of both arms until a mismatch is told, and false alarms in 20,000 units."""
    told: dict[str, dict[str, Any]] = {}
    for weight, leak, every, looks in LEAKS:
        rng = size.traffic(f"ratio {weight} {leak}").rng
        name = f"{leak:.0%} of the candidate's units in control, at {weight:.0%}".replace("%", " %")
        candidate = rng.binomial(every, weight * (1 - leak), (size.runs, looks)).cumsum(axis=1)
        told[name] = {f"{each:g}": _median(candidate, every, weight, each) for each in CONCENTRATIONS}
    for weight in (0.5, 0.05):
        rng = size.traffic(f"right ratio {weight}").rng
        hits = dict.fromkeys(CONCENTRATIONS, 0)
        for runs in chunks(size.many):
            candidate = rng.binomial(_EVERY, weight, (runs, _LOOKS)).cumsum(axis=1)
            for each in CONCENTRATIONS:
                hits[each] += int((_log_e(candidate, _EVERY, weight, each) >= -log(ALPHA)).any(axis=1).sum())
        name = f"a right split, at {weight:.0%}: ever told in {_EVERY * _LOOKS:,} units".replace("%", " %")
        told[name] = {f"{each:g}": hit / size.many for each, hit in hits.items()}
    return told


def _median(candidate: Array, every: int, weight: float, concentration: float) -> float:
    hit = _log_e(candidate, every, weight, concentration) >= -log(ALPHA)
    found = np.where(hit.any(axis=1), (hit.argmax(axis=1) + 1.0) * every, np.inf)
    return float(np.quantile(found, 0.5, method="higher"))


def _log_e(candidate: Array, every: int, weight: float, concentration: float) -> Array:
    """Return log e-values as `judge_ratio` has them, after each look."""
    n = every * np.arange(1, candidate.shape[1] + 1)
    a, b = concentration * weight, concentration * (1 - weight)
    mixture = _log_beta(candidate + a, n - candidate + b) - _log_beta(np.array(a), np.array(b))
    found: Array = mixture - candidate * log(weight) - (n - candidate) * log(1 - weight)
    return found


def _log_beta(a: Array, b: Array) -> Array:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _log_gamma(x: Array) -> Array:
    """Stirling's series (Abramowitz and Stegun 6.1.41), from 5 on to 1e-9."""
    found: Array = (
        (x - 0.5) * np.log(x) - x + 0.5 * log(2 * np.pi) + 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)
    )
    return found
