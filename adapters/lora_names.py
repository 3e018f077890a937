"""Parse the names of an adapter's tensors: the module, and which half of its change.

The rule is vLLM's own, so that our module names are those that the engine looks for. Source: vLLM 0.32,
`vllm/lora/utils.py`: `parse_fine_tuned_lora_name`, `is_base_embedding_weights`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.safetensors_file import Tensor

PREFIX: Final = "base_model.model."
_SAVED_EMBEDDINGS: Final = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
_EMBEDDING_LEAVES: Final = ("embed_tokens", "embed_in", "wte", "word_embeddings", "embedding", "embeddings")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two halves of one module's change; `module` is its name in the base."""

    module: str
    a: Tensor | None = None
    b: Tensor | None = None
    is_embedding: bool = False

    @property
    def leaf(self) -> str:
        """The last part of the module's name: `q_proj`."""
        return self.module.rpartition(".")[2]

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to an expert of a mixture; engines name and stack these in their own ways."""
        return ".experts" in f".{self.module}"

    @property
    def targets_embeddings(self) -> bool:
        return self.is_embedding or self.leaf in _EMBEDDING_LEAVES


@dataclass(frozen=True, slots=True)
class Parts:
    """An adapter's tensors, sorted by kind.

    `saved_embeddings` are whole matrices of the base that PEFT saved as well; `repeated` tensors spell a half that
    another name spells already; `strange` tensors belong to no LoRA that vLLM reads.
    """

    pairs: Mapping[str, LoraPair]
    saved_embeddings: tuple[Tensor, ...]
    repeated: tuple[Tensor, ...]
    strange: tuple[Tensor, ...]


def parts_of(tensors: Iterable[Tensor]) -> Parts:
    """Sort tensors into pairs and the rest."""
    pairs: dict[str, LoraPair] = {}
    saved: list[Tensor] = []
    repeated: list[Tensor] = []
    strange: list[Tensor] = []
    for tensor in tensors:
        if tensor.name.endswith(_SAVED_EMBEDDINGS):
            saved.append(tensor)
            continue
        found = _parse(tensor.name)
        if found is None:
            strange.append(tensor)
            continue
        module, is_a, is_embedding = found
        pair = pairs.get(module, LoraPair(module, is_embedding=is_embedding))
        if (pair.a if is_a else pair.b) is not None:
            repeated.append(tensor)
        else:
            pairs[module] = replace(pair, a=tensor) if is_a else replace(pair, b=tensor)
    return Parts(pairs, tuple(saved), tuple(repeated), tuple(strange))


def _parse(name: str) -> tuple[str, bool, bool] | None:
    """Return the module, whether the tensor is the half A, and whether it belongs to an embedding."""
    bare = name.replace(PREFIX, "") if name.startswith(PREFIX) else name
    module, _, last = bare.rpartition(".")
    if last in ("lora_embedding_A", "lora_embedding_B"):
        return (module, last.endswith("A"), True) if module else None
    module, _, half = module.rpartition(".")
    if last == "weight" and half in ("lora_A", "lora_B") and module:
        return module, half == "lora_A", False
    return None
