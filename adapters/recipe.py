"""How a version was made out of others: the method, the parents and their weights."""

from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """A way to make one adapter out of one or more."""

    SCALE = "scale"
    CAT = "cat"
    LINEAR = "linear"
    SVD = "svd"
    TIES = "ties"
    DARE_TIES = "dare_ties"
    DARE_LINEAR = "dare_linear"
    MAGNITUDE_PRUNE = "magnitude_prune"
    SLERP = "slerp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One version that went in, and its weight."""

    version: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes a fused or scaled version again.

    `rank` is the rank of the result where the method leaves a choice; `density` is the share
    of values that pruning methods keep, in (0, 1]; `seed` is that of methods that draw.
    """

    method: Method
    parents: tuple[Parent, ...]
    rank: int | None = None
    density: float | None = None
    seed: int | None = None

    @property
    def is_null(self) -> bool:
        """Whether the result adds nothing to the base by intention: every weight is 0."""
        return all(parent.weight == 0 for parent in self.parents)
