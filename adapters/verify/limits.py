"""What engines can serve, and how large a folder may be; each value has its source."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Architectures whose class (or a parent) sets `embedding_modules`. Only for these does vLLM have a LoRA layer for
# `lm_head` and the input embeddings. Read from `vllm/model_executor/models/` of 0.32 with `ast`; for the
# rest (Qwen2, Gemma, OLMo, gpt-oss…) it refuses such an adapter: "expected target modules in …".
EMBEDDING_ARCHITECTURES: Final = frozenset(
    (
        "ApertusForCausalLM",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DeciLMForCausalLM",
        "Ernie4_5ForCausalLM",
        "Exaone4ForCausalLM",
        "ExaoneForCausalLM",
        "ExaoneMoEForCausalLM",
        "ExaoneMoeForCausalLM",
        "FalconH1ForCausalLM",
        "Granite4VisionForConditionalGeneration",
        "GraniteForCausalLM",
        "GraniteMoeForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeSWAForCausalLM",
        "GraniteMoeSharedForCausalLM",
        "GraniteSWAForCausalLM",
        "HyperCLOVAXForCausalLM",
        "IQuestCoderForCausalLM",
        "InternLM3ForCausalLM",
        "JambaForCausalLM",
        "K2HorizonForCausalLM",
        "LLaMAForCausalLM",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "Llama4ForCausalLM",
        "LlamaForCausalLM",
        "MiniCPM3ForCausalLM",
        "MiniCPMForCausalLM",
        "Ministral3ForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "NemotronForCausalLM",
        "NemotronHForCausalLM",
        "NemotronHPuzzleForCausalLM",
        "Param2MoEForCausalLM",
        "Phi3ForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5MoeForCausalLM",
        "SolarForCausalLM",
        "TeleChat2ForCausalLM",
        "TeleChat3ForCausalLM",
        "TeleFLMForCausalLM",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """Limits for a folder. An adapter may be in any folder unless `root` is given."""

    # vLLM's largest rank, 512, on every projection of a 70B model in F16 is 13 GB; rank 64 is 1.7 GB.
    largest_file_bytes: int = 16_000_000_000
    # Room for a trainer's output folder: the adapter, and a few checkpoints with the optimizer's state.
    largest_total_bytes: int = 64_000_000_000
    # A trainer's output folder has 10 to 20 files for each checkpoint that it kept.
    most_files: int = 2_000
    root: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engines can serve, by the options that they were started with."""

    # vLLM's own default (`vllm/config/lora.py`).
    max_lora_rank: int = 16
    embedding_architectures: Collection[str] = EMBEDDING_ARCHITECTURES
    files: FileLimits = field(default_factory=FileLimits)
