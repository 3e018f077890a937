"""What an adapter says of itself: base, rank, alpha, target modules, size, digest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of one adapter folder.

    `digest` is 64 hex digits over config and tensors; `size_bytes` is that of the tensors file.
    """

    digest: str
    base: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    size_bytes: int
    tensors: int
