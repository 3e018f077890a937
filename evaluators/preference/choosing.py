"""Which pairs are worth a judge's time: those whose drift moved, oftener; and each with its weight.

A pair judged with chance c stands for 1/c pairs, so weighted means stay what they would be if all were judged.
"""

import hashlib
from typing import Final

from evaluators.observation import Drift, NoDrift

# No pair's chance falls below this part of the share, so no weight exceeds `1 / (share * LEAST)`.
LEAST: Final = 0.5
# How much oftener a reply is judged whose every token moved.
BOOST: Final = 10.0


def chance_of(share: float, drift: Drift | NoDrift | None) -> float:
    """Return with what chance a pair is judged.

    Args:
        share: Of all pairs, in (0, 1]; that of pairs without a drift. At 1 every pair is judged.
        drift: The pair's.

    Raises:
        ValueError: `share` is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share `{share}` is not in (0, 1]")
    if share == 1.0 or not isinstance(drift, Drift):
        return share
    return min(1.0, share * (LEAST + BOOST * drift.moved_share))


def is_chosen(salt: str, sample: str, chance: float) -> bool:
    """Whether a sample is among those that have a chance of `chance`: the same answer wherever it is asked."""
    digest = hashlib.sha256(f"{salt}\x1f{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < chance * 2**64
