"""Read a parent's modules, ranks and scalings, and refuse what is not a plain LoRA.

A fused config is always that of a plain LoRA. So whatever a fused version would silently lose or change is refused
here, by name.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import re2

from adapters.artifact import TENSORS_FILE, InvalidArtifact, read_manifest
from adapters.config_file import HARMLESS_INITS, read_config
from adapters.fusion.factors import Factors
from adapters.problem import render
from adapters.recipe import CannotFuse

PREFIX: Final = "base_model.model."
# `.default` is the adapter's name inside PEFT, which some trainers leave in tensors' names.
_TENSOR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
# RE2 is linear in the name's length, whatever pattern an adapter's config has.
_QUIET: Final = re2.Options()
_QUIET.log_errors = False
_DTYPES: Final = frozenset(("F64", "F32", "F16", "BF16"))
_RETRAIN: Final = "train a plain LoRA"
# Config fields that change what an adapter computes beyond adding B·A: code, why, remedy.
_REFUSED: Final[Mapping[str, tuple[str, str, str]]] = {
    "use_dora": ("dora", "DoRA rescales the base's weights, which no sum of deltas does", _RETRAIN),
    "lora_bias": ("bias", "it adds biases", "train with `lora_bias` false"),
    "modules_to_save": ("modules_to_save", "it replaces whole modules", "train without `modules_to_save`"),
    "trainable_token_indices": ("tokens", "it replaces token embeddings", "train without `trainable_token_indices`"),
    "target_parameters": ("target_parameters", "it changes bare parameters of experts", "target modules instead"),
    "layer_replication": ("layer_replication", "it is for a base with replicated layers", _RETRAIN),
    "alora_invocation_tokens": ("alora", "it acts only after its invocation tokens, a fusion always", _RETRAIN),
    "use_qalora": ("qalora", "it pools its input, which no sum of deltas does", _RETRAIN),
    "use_bdlora": ("bdlora", "it is block-diagonal", _RETRAIN),
    "arrow_config": ("arrow", "it routes among adapters by itself", _RETRAIN),
    "kasa_config": ("kasa", "it changes the base's weights", _RETRAIN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleChange:
    """One module that a parent changes: its shapes, the factor of B·A, and the names and dtypes of both tensors."""

    rank: int
    n_in: int
    n_out: int
    scaling: float
    name_a: str
    name_b: str
    dtypes: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentAdapter:
    """One parent: its config, and its modules by their names in the base."""

    version: str
    folder: Path
    config: Mapping[str, Any]
    slots: Mapping[str, ModuleChange]

    @contextmanager
    def open(self) -> Iterator["Tensors"]:
        """Open the tensors file; its tensors are read one at a time."""
        from safetensors import safe_open

        with safe_open(self.folder / TENSORS_FILE, framework="pt") as file:
            yield Tensors(self, file)


@dataclass(frozen=True, slots=True)
class Tensors:
    """A parent's tensors; valid while its file is open."""

    source: ParentAdapter
    file: Any

    def read(self, module: str) -> Factors | None:
        """Return the stored factors of `module`; None where this parent has none.

        Raises:
            CannotFuse: There are values that are not finite.
        """
        slot = self.source.slots.get(module)
        if slot is None:
            return None
        for name in (slot.name_a, slot.name_b):
            if not self.file.get_tensor(name).isfinite().all():
                raise CannotFuse(
                    "not_finite", f"`{self.source.version}`: `{name}` holds NaN or infinity", "leave this parent out"
                )
        return Factors(self.file.get_tensor(slot.name_a), self.file.get_tensor(slot.name_b))


def read_source(version: str, folder: Path) -> ParentAdapter:
    """Return a parent without reading its values.

    Raises:
        CannotFuse: It cannot be read, or is not a plain LoRA.
    """
    try:
        read_manifest(folder)
    except InvalidArtifact as error:
        raise CannotFuse("unreadable", f"`{version}`: {error}", "give versions that are registered") from None
    config, problems = read_config(folder)
    if config is None:
        raise CannotFuse("unreadable", f"`{version}`: {problems[0].message}", "give versions that are registered")
    _check_config(version, config)
    return ParentAdapter(version=version, folder=folder, config=config, slots=_slots(version, folder, config))


def _check_config(version: str, config: Mapping[str, Any]) -> None:
    for field, (code, why, remedy) in _REFUSED.items():
        if config.get(field):
            raise CannotFuse(code, f"`{version}` has `{field}` set: {why}", f"{remedy}, or leave this parent out")
    if config.get("bias", "none") != "none":
        raise CannotFuse(
            "bias", f"`{version}` has bias `{render(config['bias'])}`: it changes biases", "train with bias `none`"
        )
    start = config.get("init_lora_weights", True)
    # PiSSA, LoftQ and the like change the base's weights, so such an adapter does not fit the base that we serve.
    if isinstance(start, str) and start.lower() not in HARMLESS_INITS:
        raise CannotFuse(
            "changed_base",
            f"`{version}` was begun with `{render(start)}`, which changes the base: its delta is to another one",
            "convert it with PEFT's `path_initial_model_for_weight_conversion` when saving",
        )


def _slots(version: str, folder: Path, config: Mapping[str, Any]) -> dict[str, ModuleChange]:
    from safetensors import safe_open

    halves: dict[str, dict[str, str]] = {}
    found: dict[str, tuple[list[int], str]] = {}
    with safe_open(folder / TENSORS_FILE, framework="pt") as file:
        for name in sorted(file.keys()):
            module, half = _read_name(version, name)
            if half in halves.setdefault(module, {}):
                raise CannotFuse("twice", f"`{version}` has half {half} of `{module}` twice", "save it again with PEFT")
            halves[module][half] = name
            found[name] = file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()
            if found[name][1] not in _DTYPES:
                raise CannotFuse(
                    "dtype",
                    f"`{version}`: `{name}` is of type {found[name][1]}; {', '.join(sorted(_DTYPES))} can be fused",
                    "save it in one of these",
                )
    return {module: _slot(version, module, names, found, config) for module, names in sorted(halves.items())}


def _read_name(version: str, name: str) -> tuple[str, str]:
    """Return the module's name in the base, and which half the tensor is."""
    match = _TENSOR.fullmatch(name)
    if match is None:
        if "lora_magnitude_vector" in name:
            raise CannotFuse("dora", f"`{version}` holds `{name}`: {_REFUSED['use_dora'][1]}", _RETRAIN)
        if "lora_embedding" in name:
            raise CannotFuse(
                "embedding", f"`{version}` holds `{name}`: it changes the embeddings", "leave this parent out"
            )
        raise CannotFuse(
            "whole_tensor",
            f"`{version}` holds `{name}`, which is no half of a LoRA pair: a fusion would lose it",
            "save the adapter without it (for embeddings: `save_embedding_layers=False`)",
        )
    return match["module"].removeprefix(PREFIX), match["half"]


def _slot(
    version: str,
    module: str,
    names: Mapping[str, str],
    found: Mapping[str, tuple[list[int], str]],
    config: Mapping[str, Any],
) -> ModuleChange:
    if len(names) != 2:
        lost = "B" if "A" in names else "A"
        raise CannotFuse("pair", f"`{version}` has no half {lost} of `{module}`", "save it again with PEFT")
    (a, dtype_a), (b, dtype_b) = found[names["A"]], found[names["B"]]
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise CannotFuse(
            "shape",
            f"`{version}`: the halves of `{module}` are of shapes {a} and {b}; (r, n_in) and (n_out, r) can be fused",
            "leave this parent out",
        )
    try:
        rank = number_of(config, "rank_pattern", module, "r")
        alpha = number_of(config, "alpha_pattern", module, "lora_alpha")
    except (re.error, ValueError, TypeError, AttributeError):
        raise CannotFuse(
            "pattern", f"`{version}`: `rank_pattern` or `alpha_pattern` cannot be read", "save it again with PEFT"
        ) from None
    if rank != a[0]:
        raise CannotFuse(
            "rank",
            f"`{version}`: `{module}` has tensors of rank {a[0]} and `{rank:g}` in the config, which sets the scaling",
            "save it again with PEFT",
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return ModuleChange(
        rank=a[0],
        n_in=a[1],
        n_out=b[0],
        scaling=scaling,
        name_a=names["A"],
        name_b=names["B"],
        dtypes=(dtype_a, dtype_b),
    )


def number_of(config: Mapping[str, Any], patterns: str, module: str, default: str) -> float:
    """Return a module's own rank or alpha if a pattern has one, else the adapter's.

    A pattern matches the end of a name that follows a dot, and the first match wins, as in PEFT's `get_pattern_key`.
    That function is not called, since importing PEFT takes seconds.
    """
    for pattern, value in (config.get(patterns) or {}).items():
        try:
            is_meant = re2.fullmatch(rf"(.*\.)?({pattern})", module, _QUIET) is not None
        except re2.error:
            raise CannotFuse(
                "pattern",
                f"`{patterns}` names {render(pattern)}, which cannot be matched in linear time (RE2)",
                "write the module's name, without looking around or back",
            ) from None
        if is_meant:
            return float(value)
    return float(config[default])
