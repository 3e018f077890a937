"""Small adapter folders in PEFT's format, written by hand: every byte is the test's own choice."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, list[int], bytes]]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "base_model_name_or_path": "base", "r": 4, "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True,
}  # fmt: skip


def tensors_of(seed: int) -> Tensors:
    """Return the A and B of two modules, random bytes of `seed`."""
    source = random.Random(seed)
    return {
        f"base_model.model.layers.0.{module}.lora_{half}.weight": ("F16", [4, 8], source.randbytes(64))
        for module in ("q_proj", "v_proj")
        for half in "AB"
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
