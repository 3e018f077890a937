"""LoRA folders of chosen ranks, alphas, targets and dtypes, for fusion: small, random, seeded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:  # torch takes seconds, and every process that runs tests imports every module of tests
    import torch

SHAPES = {"q_proj": (12, 12), "v_proj": (12, 6), "down_proj": (20, 12)}  # n_in, n_out


def module_names(targets: tuple[str, ...], layers: int = 2) -> list[str]:
    """Return the full names of the modules that `targets` are in a model of so many layers."""
    return [f"model.layers.{layer}.{target}" for layer in range(layers) for target in targets]


def write_lora(
    folder: Path,
    seed: int,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
    dtype: str = "float32",
    ranks: Mapping[str, int] | None = None,
    more: "Mapping[str, torch.Tensor] | None" = None,
    **config: Any,
) -> Path:
    """Write a random adapter and return its folder; the same seed gives the same values.

    Args:
        folder: Made with its parents.
        seed: Of NumPy's generator.
        rank: Of every module that `ranks` does not name.
        alpha: As in PEFT.
        targets: Of SHAPES.
        dtype: Of the tensors, by torch's name.
        ranks: Rank by target; also written as `rank_pattern`.
        more: Tensors to add under their own names.
        config: Fields to set in the config.
    """
    import torch

    rng = numpy.random.default_rng(seed)
    tensors: dict[str, torch.Tensor] = dict(more or {})
    for module in module_names(targets):
        target = module.rpartition(".")[2]
        n_in, n_out = SHAPES[target]
        r = (ranks or {}).get(target, rank)
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.from_numpy(rng.normal(0, 1, (r, n_in))).to(getattr(torch, dtype))
        tensors[f"{prefix}.lora_B.weight"] = torch.from_numpy(rng.normal(0, 1, (n_out, r))).to(getattr(torch, dtype))
    return write_tensors(
        folder,
        tensors,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "base",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": sorted(targets),
            **({"rank_pattern": dict(ranks)} if ranks else {}),
            **config,
        },
    )


def write_tensors(folder: Path, tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> Path:
    """Write an adapter of these tensors and this config, whatever they are."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(dict(config)))
    return folder


def tensors_in(folder: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of an adapter."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return tensors


def config_in(folder: Path) -> dict[str, Any]:
    """Return the config of an adapter."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def dense(folder: Path) -> dict[str, numpy.ndarray]:
    """Return each module's full delta in float64, scaling included: the oracle, by the definition of LoRA."""
    config, tensors = config_in(folder), tensors_in(folder)
    found = {}
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = tensors[name.replace("lora_A", "lora_B")]
        alpha = (config.get("alpha_pattern") or {}).get(module.rpartition(".")[2], config["lora_alpha"])
        divisor = a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0]
        found[module] = (b.double().numpy() @ a.double().numpy()) * (alpha / divisor)
    return found
