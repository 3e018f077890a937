"""Which arm serves a unit: a sticky, uniform, monotone function of (salt, unit, weights).

The candidate owns the buckets `[0, weight)`. Raising its weight moves units to it and
never away from it; lowering only moves them back.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Weights are integer basis points, so no share can drift by rounding.
TOTAL_WEIGHT: Final = 10_000
# Where the unit of a request may come from; the defaults are in the order of DESIGN 4.3.
DEFAULT_SOURCES: Final = ("header", "safety_identifier", "user", "prompt_cache_key", "key")
CONVERSATION: Final = "conversation"  # a hash of how the conversation begins
SOURCES: Final = (*DEFAULT_SOURCES, CONVERSATION)


class Arm(StrEnum):
    """The two sides of a split."""

    CONTROL = "control"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Split:
    """The versions of a route and the candidate's weight in basis points."""

    control: str
    candidate: str | None = None
    weight: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= TOTAL_WEIGHT:
            raise ValueError(f"weight `{self.weight}` is not in 0..{TOTAL_WEIGHT} basis points")
        if self.weight and self.candidate is None:
            raise ValueError(f"weight `{self.weight}` is given to a candidate that is not named")


def bucket(salt: str, unit: str) -> int:
    """Return the bucket of `unit`, in 0..9,999, the same in every process and release.

    The unit separator between them keeps (`ab`, `c`) apart from (`a`, `bc`).
    """
    digest = hashlib.sha256(f"{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % TOTAL_WEIGHT


def sample_hash(salt: str, unit: str) -> int:
    """Return 64 bits that choose whether `unit` is kept in a sample; they tell nothing of its arm."""
    digest = hashlib.sha256(f"sample\x1f{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def pick_arm(split: Split, number: int) -> Arm:
    """Return the arm that owns bucket `number`.

    Raises:
        ValueError: `number` is outside 0..9,999.
    """
    if not 0 <= number < TOTAL_WEIGHT:
        raise ValueError(f"bucket `{number}` is not in 0..{TOTAL_WEIGHT - 1}")
    return Arm.CANDIDATE if number < split.weight else Arm.CONTROL


def check_sources(sources: tuple[str, ...]) -> None:
    """Refuse a list of unit sources that cannot be used.

    Raises:
        ValueError: Why not.
    """
    if not sources:
        raise ValueError(f"the unit has no source; name at least one of {', '.join(SOURCES)}")
    for source in sources:
        if source not in SOURCES:
            raise ValueError(f"the unit source `{source}` is unknown; it may be one of {', '.join(SOURCES)}")
    if len(set(sources)) < len(sources):
        raise ValueError(f"the unit sources `{', '.join(sources)}` name one twice")
