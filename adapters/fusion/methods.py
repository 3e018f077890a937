"""The fusion methods: from the parents' factors of one module to the fused module's factors.

`cat`, `svd` and `slerp` work on deltas, so it does not matter how a parent's delta is split into A and B. `linear`,
`ties`, `dare_*` and `magnitude_prune` are PEFT's: they merge A with A and B with B. The result is not the sum of the
deltas, since products of one parent's A with another's B join in, and it depends on the split.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from adapters.fusion import factors
from adapters.fusion.factors import Factors
from adapters.recipe import Method

if TYPE_CHECKING:
    from torch import Tensor

# PEFT's methods, which merge the factors A and B separately.
BY_FACTORS: Final = frozenset(
    (Method.LINEAR, Method.TIES, Method.DARE_TIES, Method.DARE_LINEAR, Method.MAGNITUDE_PRUNE)
)
# Above this cosine of their angle, two deltas are nearly on a line: slerp would divide nearly 0 by nearly 0, or have no
# defined path. This is the threshold of mergekit and of the code that it was taken from.
LINE_COSINE: Final = 0.9995


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One parent's share of one module: its stored factors, the factor of B·A, and the recipe's weight."""

    factors: Factors
    scaling: float
    weight: float

    def full(self) -> Factors:
        """Return this parent's delta at weight 1, in float64."""
        import torch

        return self.factors.in_dtype(torch.float64).times(self.scaling)

    def delta(self) -> Factors:
        """Return this parent's delta at its weight, in float64."""
        import torch

        return self.factors.in_dtype(torch.float64).times(self.scaling * self.weight)


def linear_sum(parts: Sequence[Part]) -> Factors:
    """Return the exact weighted sum of the deltas; its rank is the sum of theirs."""
    return factors.total([part.delta() for part in parts])


def slerp(parts: Sequence[Part]) -> Factors:
    """Return the spherical interpolation of two deltas; its rank is the sum of theirs. The weights sum to 1.

    Where only one parent has the module, the other's delta is zero.
    """
    if len(parts) == 1:
        return parts[0].delta()
    one, other = (part.full() for part in parts)
    first, second = slerp_weights(one, other, parts[1].weight)
    return factors.total([one.times(first), other.times(second)])


def by_factors(method: Method, parts: Sequence[Part], density: float | None) -> Factors:
    """Merge A with A and B with B, as PEFT's `add_weighted_adapter` does, by PEFT's own functions.

    Each factor takes the root of the weight, A its sign too: peft/tuners/lora/model.py,
    `_generalized_task_arithmetic_weighted_adapter`.
    """
    import torch
    from peft.utils import merge_utils

    wide = torch.float32
    for part in parts:
        wide = torch.promote_types(wide, torch.promote_types(part.factors.a.dtype, part.factors.b.dtype))
    weights = [part.weight * part.scaling for part in parts]
    roots = [math.sqrt(abs(weight)) for weight in weights]
    signed = [math.copysign(root, weight) for root, weight in zip(roots, weights, strict=True)]
    merge: Any = {
        Method.LINEAR: merge_utils.task_arithmetic,
        Method.TIES: merge_utils.ties,
        Method.DARE_TIES: merge_utils.dare_ties,
        Method.DARE_LINEAR: merge_utils.dare_linear,
        Method.MAGNITUDE_PRUNE: merge_utils.magnitude_prune,
    }[method]
    settings: Mapping[str, float] = {} if density is None else {"density": density}

    def merge_factors(tensors: "list[Tensor]", weights: list[float]) -> "Tensor":
        return merge([tensor.to(wide) for tensor in tensors], torch.tensor(weights, dtype=wide), **settings)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density .* no pruning")  # asked for, at density 1
        return Factors(
            merge_factors([part.factors.a for part in parts], signed),
            merge_factors([part.factors.b for part in parts], roots),
        )


def slerp_weights(one: Factors, other: Factors, t: float) -> tuple[float, float]:
    """Return (c₁, c₂) with which c₁·one + c₂·other is the spherical interpolation of two deltas at `t` in [0, 1].

    c₁ = sin((1−t)Ω)/sin Ω and c₂ = sin(tΩ)/sin Ω, where Ω is the angle between the deltas as vectors of all their
    values. If one is zero, or they lie on a line: 1−t and t.

    Source: Shoemake (1985), SIGGRAPH 19(3), doi:10.1145/325165.325242, for unit vectors. Here deltas keep their
    lengths, as in mergekit, so deltas of equal length give a result of that length. Scaling both to one length would
    amplify the noise of a module that one parent hardly changes.
    """
    lengths = factors.norm(one) * factors.norm(other)
    cosine = factors.inner(one, other) / lengths if lengths else 1.0
    if abs(cosine) > LINE_COSINE:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
