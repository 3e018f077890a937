"""Choose the pairs that are judged: pairs with more drift are chosen more often.

A pair that was chosen with chance c has the weight 1/c, so weighted means stay what they would be if all were judged.
"""

import hashlib
from typing import Final

from evaluators.observation import Drift, NoDrift

# No pair's chance falls below this part of the share, so no weight exceeds `1 / (share * LEAST)`.
LEAST: Final = 0.5
# How much oftener a reply is judged whose every token moved.
BOOST: Final = 10.0


def chance_of(share: float, drift: Drift | NoDrift | None) -> float:
    """Return the chance with which a pair is judged.

    Args:
        share: Chance of a pair without drift, in (0, 1]. At 1 every pair is judged.
        drift: The pair's drift.

    Raises:
        ValueError: `share` is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share `{share}` is not in (0, 1]")
    if share == 1.0 or not isinstance(drift, Drift):
        return share
    return min(1.0, share * (LEAST + BOOST * drift.moved_share))


def is_chosen(salt: str, sample: str, chance: float) -> bool:
    """Whether a sample is chosen at a chance of `chance`; every process gives the same answer for the same salt."""
    digest = hashlib.sha256(f"{salt}\x1f{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < chance * 2**64
