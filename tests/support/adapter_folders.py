"""Small adapter folders in PEFT's format, written by hand: every byte is the test's own choice."""

import json
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, list[int], bytes]]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "base",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "inference_mode": True,
}


def tensors_of(seed: int) -> Tensors:
    """Return the A (rank 4 of width 8) and B of two modules, small random numbers of `seed`."""
    source = random.Random(seed)

    def numbers() -> bytes:
        return struct.pack("<32e", *(source.uniform(-0.1, 0.1) for _ in range(32)))

    return {
        f"base_model.model.layers.0.{module}.lora_{half}.weight": ("F16", shape, numbers())
        for module in ("q_proj", "v_proj")
        for half, shape in (("A", [4, 8]), ("B", [8, 4]))
    }


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with the tensors laid out in the order given."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + b"".join(content for _, _, content in tensors.values())


def write_adapter(folder: Path, seed: int = 1, *, tensors: Tensors | None = None, **config: Any) -> Path:
    """Write an adapter and return its folder; the same seed gives the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors or tensors_of(seed)))
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


# A Llama of two layers, by its modules' shapes. Nobody runs it: its weights are zeros.
BASE_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16,
    "tie_word_embeddings": True,
}
BASE_LAYER: dict[str, list[int]] = {
    "self_attn.q_proj": [8, 8],
    "self_attn.k_proj": [4, 8],
    "self_attn.v_proj": [4, 8],
    "self_attn.o_proj": [8, 8],
    "mlp.gate_proj": [12, 8],
    "mlp.up_proj": [12, 8],
    "mlp.down_proj": [8, 12],
    "input_layernorm": [8],
}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def tokenizer(**added: int) -> str:
    """Return a tokenizer.json of 16 tokens, and those added by name and id."""
    tokens = [{"id": number, "content": name} for name, number in added.items()]
    return json.dumps({"model": {"vocab": {f"t{number}": number for number in range(16)}}, "added_tokens": tokens})


def write_base(folder: Path, *, layer: Mapping[str, list[int]] = BASE_LAYER, **config: Any) -> Path:
    """Write the folder of a base model and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"model.embed_tokens": [16, 8]}
    shapes |= {f"model.layers.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    tensors = {f"{name}.weight": ("F32", shape, bytes(4 * math.prod(shape))) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    (folder / "config.json").write_text(json.dumps({**BASE_CONFIG, **config}))
    (folder / "tokenizer.json").write_text(tokenizer())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def fitting_tensors(seed: int = 1, *, rank: int = 4, modules: tuple[str, ...] = ("q_proj", "v_proj")) -> Tensors:
    """Return the A and B of some modules of both layers of the base, small random numbers."""
    source = random.Random(seed)

    def matrix(*shape: int) -> tuple[str, list[int], bytes]:
        count = math.prod(shape)
        return "F32", list(shape), struct.pack(f"<{count}f", *(source.uniform(-1, 1) for _ in range(count)))

    found: Tensors = {}
    for number in range(2):
        for name, shape in BASE_LAYER.items():
            if name.rpartition(".")[2] in modules:
                prefix = f"base_model.model.model.layers.{number}.{name}"
                found[f"{prefix}.lora_A.weight"] = matrix(rank, shape[1])
                found[f"{prefix}.lora_B.weight"] = matrix(shape[0], rank)
    return found
