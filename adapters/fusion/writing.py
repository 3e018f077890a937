"""Write a fused adapter as PEFT saves one: uniform rank, alpha = r, no patterns.

So its scaling is 1 in every engine, however that engine treats patterns and rsLoRA.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.artifact import TENSORS_FILE
from adapters.config_file import CONFIG_FILE
from adapters.fusion.factors import Factors
from adapters.fusion.source import PREFIX, ParentAdapter
from adapters.recipe import CannotFuse

if TYPE_CHECKING:
    from torch import Tensor


def name_tensors(module: str, result: Factors) -> "dict[str, Tensor]":
    """Return both tensors of a module, by the names under which PEFT saves them."""
    return {
        f"{PREFIX}{module}.lora_A.weight": result.a.contiguous(),
        f"{PREFIX}{module}.lora_B.weight": result.b.contiguous(),
    }


def result_config(sources: Sequence[ParentAdapter], rank: int) -> dict[str, Any]:
    """Return the config of a plain LoRA of `rank` that changes what any of `sources` changes."""

    def first(field: str) -> Any:
        return next((source.config[field] for source in sources if source.config.get(field)), None)

    return {
        "peft_type": "LORA",
        "task_type": first("task_type"),
        "base_model_name_or_path": first("base_model_name_or_path"),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": _targets(sources),
        "bias": "none",
        "fan_in_fan_out": bool(first("fan_in_fan_out")),
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _targets(sources: Sequence[ParentAdapter]) -> list[str]:
    """Return the parents' target lists joined. Where such a list would cover too much, list every module by its full
    name.

    That is the case for parents that leave out layers, or that name modules by a pattern.
    """
    narrowed = ("layers_to_transform", "exclude_modules")
    lists = [source.config.get("target_modules") for source in sources]
    if all(isinstance(each, list) for each in lists) and not any(s.config.get(f) for s in sources for f in narrowed):
        return sorted({str(name) for each in lists for name in each or ()})
    return sorted({module for source in sources for module in source.slots})


def write(out: Path, config: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> int:
    """Write the folder's two files, the config last: a folder without it is not taken for an adapter.

    Returns:
        Bytes of the tensors file.
    """
    from safetensors.torch import save_file

    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), out / TENSORS_FILE, metadata={"format": "pt"})
        (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        return (out / TENSORS_FILE).stat().st_size
    except OSError as error:
        raise CannotFuse(
            "cannot_write", f"`{out}` cannot be written: {error.strerror}", "make room, or give another folder"
        ) from None


def discard(out: Path) -> None:
    """Remove what `write` may have written, and the folder if nothing else is in it."""
    for name in (CONFIG_FILE, TENSORS_FILE):
        (out / name).unlink(missing_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def check_free(out: Path, taken: Iterable[Path]) -> None:
    """Check, without touching anything, that `out` can be written to.

    Raises:
        CannotFuse: It is a parent's folder, or is not empty.
    """
    if any(out.resolve() == folder.resolve() for folder in taken):
        raise CannotFuse("out", f"`{out}` is a parent's own folder", "give a folder that does not exist yet")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CannotFuse("out", f"`{out}` is not an empty folder", "give a folder that does not exist yet")
