"""A recipe: how a version was made out of others, by which method, from which parents and weights.

This module checks the rules that concern the recipe alone; `adapters.fusion` checks those that need the parents'
tensors.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from adapters.reference import InvalidReference, check_name, split_version

# A sum of more parents hardly keeps the style of any of them, and `cat` of more exceeds every engine's rank.
MAX_PARENTS: Final = 8
# mergekit's examples keep half of the values. TIES (Yadav et al. 2023) kept a fifth of full-sized deltas, but here
# A and B are pruned separately, and a value of the delta survives only where both do.
DEFAULT_DENSITY: Final = 0.5
DEFAULT_SEED: Final = 0
# torch.manual_seed takes 64 bits; JSON readers that use doubles keep 53.
MAX_SEED: Final = 2**53 - 1
_WEIGHT: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


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


# The methods that use each setting.
TAKES_RANK: Final = frozenset((Method.SVD, Method.SLERP))
TAKES_SEED: Final = frozenset((Method.DARE_TIES, Method.DARE_LINEAR))
TAKES_DENSITY: Final = TAKES_SEED | {Method.TIES, Method.MAGNITUDE_PRUNE}


class CannotFuse(ValueError):
    """This recipe cannot be made, or not out of these parents.

    Attributes:
        code: A stable code, for programs.
        remedy: What to do instead.
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One parent's version and its weight."""

    version: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that is needed to make a fused or scaled version again.

    `rank` is the result's rank where the method leaves a choice; `density` is the share of values that pruning methods
    keep, in (0, 1]; `seed` is for methods that draw random numbers.
    """

    method: Method
    parents: tuple[Parent, ...]
    rank: int | None = None
    density: float | None = None
    seed: int | None = None

    @property
    def is_null(self) -> bool:
        """Whether the result is meant to add nothing to the base, because every weight is 0."""
        return all(parent.weight == 0 for parent in self.parents)


def parse_parents(words: Sequence[str]) -> tuple[Parent, ...]:
    """Return the parents that `legal=0.7`, `support@3f2a9c=0.3` or `legal` (weight 1) name, in that order.

    A parent's version may be an alias here; the caller, who has the catalog, resolves it.

    Raises:
        CannotFuse: A word cannot be parsed; the message names it.
    """
    return tuple(_parse_parent(word) for word in words)


def _parse_parent(word: str) -> Parent:
    version, equals, number = word.partition("=")
    try:
        if "@" in version:
            split_version(version)
        else:
            check_name(version)
    except InvalidReference as error:
        raise CannotFuse("bad_parent", f"`{word}`: {error}", "write name=weight or name@digest=weight") from None
    if equals and not _WEIGHT.fullmatch(number.strip()):
        raise CannotFuse(
            "bad_weight", f"`{word}`: `{number}` is not a weight", f"write a number after the sign, as in {version}=0.5"
        )
    return Parent(version=version, weight=float(number) if equals else 1.0)


def complete(recipe: Recipe) -> Recipe:
    """Return `recipe` with defaults for the settings that its method needs.

    The completed recipe makes the same version again even if defaults change later, so store that one. A missing rank
    stays missing: it is the largest of the parents' ranks.

    Raises:
        CannotFuse: It breaks a rule that can be checked without the parents; the message names the value.
    """
    _check_parents(recipe)
    _check_settings(recipe)
    if recipe.method in TAKES_DENSITY and recipe.density is None:
        recipe = replace(recipe, density=DEFAULT_DENSITY)
    if recipe.method in TAKES_SEED and recipe.seed is None:
        recipe = replace(recipe, seed=DEFAULT_SEED)
    return recipe


def _check_parents(recipe: Recipe) -> None:
    count = len(recipe.parents)
    fewest, most = {Method.SCALE: (1, 1), Method.SLERP: (2, 2)}.get(recipe.method, (1, MAX_PARENTS))
    if not fewest <= count <= most:
        expected = str(most) if fewest == most else f"{fewest} to {most}"
        remedy = "fuse some of them first" if recipe.method not in (Method.SCALE, Method.SLERP) else "or use `cat`"
        raise CannotFuse("parents", f"`{recipe.method}` takes {expected} parents, not {count}", remedy)
    versions = [parent.version for parent in recipe.parents]
    for version in versions:
        if versions.count(version) > 1:
            raise CannotFuse("parent_twice", f"`{version}` is given twice", "give it once, with the sum of its weights")
    for parent in recipe.parents:
        if not math.isfinite(parent.weight):
            raise CannotFuse(
                "bad_weight", f"the weight of `{parent.version}` is `{parent.weight}`", "give a finite number"
            )
    if recipe.method is Method.SLERP:
        _check_slerp_weights(recipe)


def _check_slerp_weights(recipe: Recipe) -> None:
    weights = [parent.weight for parent in recipe.parents]
    if min(weights) < 0 or not sum(weights) > 0 or not math.isfinite(sum(weights)):
        raise CannotFuse(
            "slerp_weights",
            f"`slerp` goes from one parent to the other, and `{weights[0]:g}`, `{weights[1]:g}` are no point between",
            "give weights of at least 0 that are not both 0, or use `cat`",
        )


def _check_settings(recipe: Recipe) -> None:
    for name, value, takers in (
        ("rank", recipe.rank, TAKES_RANK),
        ("density", recipe.density, TAKES_DENSITY),
        ("seed", recipe.seed, TAKES_SEED),
    ):
        if value is not None and recipe.method not in takers:
            raise CannotFuse(
                "setting_unused",
                f"{name} `{value}` means nothing to `{recipe.method}`",
                f"leave it out, or use one of {', '.join(sorted(takers))}",
            )
    if recipe.rank is not None and recipe.rank < 1:
        raise CannotFuse("bad_rank", f"the rank is `{recipe.rank}`", "give a whole number of at least 1")
    if recipe.density is not None and not 0 < recipe.density <= 1:
        raise CannotFuse("bad_density", f"the density is `{recipe.density}`", "give a share in (0, 1], such as 0.5")
    if recipe.seed is not None and not 0 <= recipe.seed <= MAX_SEED:
        raise CannotFuse("bad_seed", f"the seed is `{recipe.seed}`", f"give a whole number from 0 to {MAX_SEED}")
