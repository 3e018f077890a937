"""Write random LoRA adapters in PEFT's format, in milliseconds and without PEFT."""

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_adapter(base: Path, out: Path, *, seed: int, rank: int = 8, scale: float = 0.2) -> Path:
    """Write an adapter that fits `base` and changes its greedy replies; return `out`.

    Args:
        base: Folder of a Llama model; only its config is read.
        out: Folder to write to; its parents are made.
        seed: The same seed gives the same adapter, bit for bit.
        rank: LoRA rank; alpha is twice that.
        scale: Standard deviation of B. At 0 the adapter changes nothing.
    """
    rng = numpy.random.default_rng(seed)
    config = json.loads((base / "config.json").read_text())
    tensors: dict[str, numpy.ndarray] = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (n_in, n_out) in _projection_shapes(config).items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            a = rng.normal(0, n_in**-0.5, (rank, n_in))
            b = rng.normal(0, scale, (n_out, rank))
            tensors[f"{prefix}.lora_A.weight"] = a.astype(numpy.float32)
            tensors[f"{prefix}.lora_B.weight"] = b.astype(numpy.float32)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(_adapter_config(base, rank), indent=2))
    return out


def _projection_shapes(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return (n_in, n_out) of each projection of a layer, by its name in the model."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }


def _adapter_config(base: Path, rank: int) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(PROJECTIONS),
        "inference_mode": True,
    }
