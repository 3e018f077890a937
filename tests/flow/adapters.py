"""Adapter folders that a gateway takes and a fake engine does not look into."""

import json
from pathlib import Path


def adapter_folder(folder: Path, seed: int) -> Path:
    """Write a minimal adapter; another seed is other content, and so another version."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": 1,
        "lora_alpha": 2,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header = json.dumps({"a.lora_A.weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes((seed,)))
    return folder
