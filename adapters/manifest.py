"""The facts that an adapter states about itself: base, rank, alpha, target modules, size, digest."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of one adapter folder.

    `digest` is 64 hex digits over config and tensors; `size_bytes` is the size of the tensors file. `target_modules`
    are the config's own names, or those of the tensors where the config has a pattern. Fields with defaults were not
    recorded by earlier versions; a rank of 0 means that it was not recorded.
    """

    digest: str
    base: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    size_bytes: int
    tensors: int
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    targets_lm_head: bool = False
    targets_embeddings: bool = False
    dtypes: tuple[str, ...] = ()
    largest_rank: int = 0
    modules: int = 0

    @property
    def scaling(self) -> float:
        """The factor of B·A, where no pattern sets another.

        Source: Hu et al. (2021), section 4.1; with rsLoRA, Kalajdzievski (2023), arXiv:2312.03732.
        """
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def is_scorable(self) -> bool:
        """Whether an engine's log-probabilities of a prompt are this adapter's own.

        vLLM leaves an adapter's part of `lm_head` out of them (vllm-project/vllm #51594).
        """
        return not self.targets_lm_head
