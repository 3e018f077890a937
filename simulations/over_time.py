"""What is told of traffic over months: how far two mixes look apart, and how long a detector is quiet."""

import numpy as np

from evaluators.statistics.distances import jensen_shannon, psi
from simulations.capital import Array, run_lengths
from simulations.promises import Size

# Categories, sessions of the baseline, sessions of the window.
MIXES = ((4, 200, 50), (4, 200, 200), (8, 200, 50), (8, 200, 200), (8, 1_000, 1_000))
# A session is a copy of the one before it with this chance.
REPEATS = (0.0, 0.2, 0.5, 0.8)


def psi_bias(size: Size) -> dict[str, dict[str, float]]:
    """Return what distances say of two draws of one even mix."""
    rng = size.traffic("psi bias").rng
    told = {}
    for count, baseline, window in MIXES:
        shares = np.full(count, 1 / count)
        found, bits = [], []
        for _ in range(size.runs):
            first, second = (
                {str(at): int(n) for at, n in enumerate(rng.multinomial(total, shares))} for total in (baseline, window)
            )
            found.append(psi(first, second))
            bits.append(jensen_shannon(first, second))
        told[f"{count} categories, {baseline:,} and {window:,} sessions"] = {
            "mean": float(np.mean(found)),
            "formula": (count - 1) * (1 / baseline + 1 / window),
            "above": float(np.mean(np.array(found) >= 0.2)),
            "bits": float(np.mean(bits)),
        }
    return told


def correlated_alarms(size: Size, run_length: float = 1_000.0) -> dict[str, dict[str, float]]:
    """Return mean run lengths of a detector over refusals, 5 %, of sessions that repeat their predecessors."""
    return {
        f"{repeats:.0%}".replace("%", " %"): {
            "at_limit": _quiet(size, repeats, 0.05, run_length),
            "within": _quiet(size, repeats, 0.10, run_length),
        }
        for repeats in REPEATS
    }


_MOST = 20_000


def _quiet(size: Size, repeats: float, limit: float, run_length: float) -> float:
    rng = size.traffic(f"correlated {repeats} {limit}").rng
    runs = min(size.runs, 1_000)
    before = (rng.random(runs) < 0.05).astype(float)

    def draw(n: int) -> Array:
        nonlocal before
        own = (rng.random(n) < 0.05).astype(float)
        before = np.where(rng.random(n) < repeats, before, own)
        return before

    return float(run_lengths(draw, limit, run_length, runs, _MOST).mean())
