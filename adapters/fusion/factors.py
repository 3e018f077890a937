"""The algebra of low-rank deltas, computed on their factors and never on the full matrices.

A delta is B·A with A (r, n_in) and B (n_out, r). Sums of deltas are stacked factors; norms, angles and best
approximations are computed from matrices of size r×r. Values are float64 here, so that measured errors come from
rounding the result, not from this module.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """The delta B·A of one module: `a` is (r, n_in), `b` is (n_out, r)."""

    a: "Tensor"
    b: "Tensor"

    @property
    def rank(self) -> int:
        """The rows of A, which is the nominal rank."""
        return int(self.a.shape[0])

    def times(self, weight: float) -> "Factors":
        """Return the delta times `weight`. Only B is multiplied: A keeps its bits, and B is rounded once."""
        import torch

        # 0 times a negative number is −0.0, whose bytes differ from those of 0.0.
        return Factors(self.a, self.b * weight if weight else torch.zeros_like(self.b))

    def pad(self, rank: int) -> "Factors":
        """Return the same delta at a higher nominal rank, padded with zeros."""
        import torch

        more = rank - self.rank
        if more == 0:
            return self
        a = torch.cat([self.a, self.a.new_zeros(more, self.a.shape[1])])
        return Factors(a, torch.cat([self.b, self.b.new_zeros(self.b.shape[0], more)], dim=1))

    def in_dtype(self, dtype: object) -> "Factors":
        """Return the factors rounded to a torch dtype."""
        return Factors(self.a.to(dtype), self.b.to(dtype))


def total(parts: Sequence[Factors]) -> Factors:
    """Return the exact sum of one or more deltas, at the sum of their ranks."""
    import torch

    return Factors(torch.cat([part.a for part in parts]), torch.cat([part.b for part in parts], dim=1))


def core(delta: Factors) -> "tuple[Tensor, Tensor, Tensor]":
    """Return (Q_b, K, Q_a) with B·A = Q_b·K·Q_aᵀ, where Q_a and Q_b have orthonormal columns and K is small.

    K has the delta's singular values and its Frobenius norm.
    """
    import torch

    q_b, r_b = torch.linalg.qr(delta.b)
    q_a, r_a = torch.linalg.qr(delta.a.T)
    return q_b, r_b @ r_a.T, q_a


def norm(delta: Factors) -> float:
    """Return the Frobenius norm of B·A.

    It is computed by `core`, because Gram matrices would square the values and lose half of the digits.
    """
    import torch

    return float(torch.linalg.matrix_norm(core(delta)[1]))


def inner(one: Factors, other: Factors) -> float:
    """Return the Frobenius inner product of two deltas: tr((B₁A₁)ᵀ B₂A₂) = sum of B₁ᵀB₂ ∘ A₁A₂ᵀ."""
    return float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())


def truncate(delta: Factors, rank: int) -> tuple[Factors, float]:
    """Return the nearest delta of at most `rank`, and its distance.

    Nearest in the Frobenius norm (Eckart & Young 1936, doi:10.1007/BF02288367). Each factor gets the roots of the
    singular values, so that neither leaves the range of a 16-bit float.
    """
    import torch

    q_b, inside, q_a = core(delta)
    u, s, vh = torch.linalg.svd(inside, full_matrices=False)
    roots = s[:rank].sqrt()
    near = Factors(roots[:, None] * (vh[:rank] @ q_a.T), (q_b @ u[:, :rank]) * roots)
    return near, float(torch.linalg.vector_norm(s[rank:]))


def compare(result: Factors, parts: Sequence[Factors]) -> tuple[float | None, float]:
    """Return the error of `result` against the sum of `parts`, and its size relative to them.

    Returns:
        ‖result − sum‖ / ‖sum‖, or None where the parts cancel out as far as float64 can tell;
        ‖result‖ / (sum of ‖part‖), which is 0 when there is nothing.
    """
    sizes = math.fsum(norm(part) for part in parts)
    whole = norm(total(parts))
    distance = norm(total([result, *(part.times(-1.0) for part in parts)]))
    share = norm(result) / sizes if sizes else 0.0
    return (distance / whole if whole > 1e-12 * sizes else None), share
