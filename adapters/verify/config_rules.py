"""Rules for the config: what vLLM 0.32 serves, refuses, or silently ignores.

Source: vLLM 0.32: `vllm/lora/peft_helper.py` (`PEFTHelper.__post_init__`, `_validate_features`, `validate_legal`)
refuses. Fields that `PEFTHelper` does not have are silently ignored (`from_dict`), so what such a field changes in PEFT
would be missing from every answer.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from adapters.artifact import MAX_NUMBER
from adapters.config_file import CONFIG_FILE, HARMLESS_INITS
from adapters.problem import Problem, Severity, render
from adapters.verify.limits import EngineLimits

Config = Mapping[str, Any]
_MERGE: Final = "merge it into the base and train a plain LoRA on that"
_PLAIN: Final = "train a plain LoRA: {field}={value}"
# field → (code, what vLLM does with it). Each of these fields affects PEFT's inference.
_REFUSED_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "use_dora": ("dora", "vLLM refuses DoRA"),
    "lora_bias": ("lora_bias", "vLLM refuses a bias in LoRA layers"),
    "alora_invocation_tokens": ("alora", "vLLM refuses activated LoRA"),
    "layer_replication": ("layer_replication", "vLLM refuses replicated layers"),
    "use_bdlora": ("bdlora", "vLLM refuses block-diagonal LoRA"),
    "use_qalora": ("qalora", "vLLM refuses QALoRA"),
    "trainable_token_indices": ("trainable_tokens", "vLLM has no trained tokens and refuses their tensors"),
    "kasa_config": ("kasa", "vLLM ignores KaSA and would serve the adapter on weights that it was not trained on"),
    "arrow_config": ("arrow", "vLLM ignores Arrow routing and would serve this adapter alone"),
    "monteclora_config": ("monteclora", "vLLM ignores MonteCLoRA's sampling"),
    "megatron_config": ("megatron", "vLLM ignores Megatron's layers, whose tensors are split in another way"),
}
# PEFT changes the base only in training, and loads such an adapter without a warning (peft #2926).
_CHANGES_BASE_IN_TRAINING: Final = frozenset(("lora_ga",))
_REQUIRED: Final = ("r", "lora_alpha", "target_modules")
_PATTERN_TEXT: Final = 300
# The most names in a pattern: in the largest config that we know, every expert of a mixture has its own rank.
_MAX_PATTERNS: Final = 4_096
# The most `*`, `+`, `{` in one expression: matching time grows with that power of the name's length.
_MAX_REPEATS: Final = 2


def config_problems(config: Config, limits: EngineLimits) -> Iterator[Problem]:
    """Yield the problems of a config that was parsed."""
    yield from check_adapter_type(config)
    yield from check_required_fields(config)
    yield from check_rank(config, limits)
    yield from check_alpha(config)
    yield from check_patterns(config, limits)
    yield from check_refused_fields(config)
    yield from check_bias(config)
    yield from check_saved_modules(config)
    yield from check_initialisation(config)
    yield from check_target_parameters(config)


def check_adapter_type(config: Config) -> Iterator[Problem]:
    """Refuse other types than LoRA: vLLM ignores the type and would read the adapter as a LoRA."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield _problem("not_lora", "the adapter is of another type", render(kind), "LORA", "train a LoRA", "peft_type")


def check_required_fields(config: Config) -> Iterator[Problem]:
    """Refuse a config without the fields that vLLM requires."""
    for field in _REQUIRED:
        if field not in config:
            remedy = "give the config that PEFT wrote beside the tensors"
            yield _problem("field_missing", f"vLLM needs `{field}`", None, "a value", remedy, field)
    targets = config.get("target_modules")
    is_names = isinstance(targets, list) and all(isinstance(each, str) for each in targets)
    if targets is not None and not is_names and not isinstance(targets, str):
        remedy = "write the names of the modules"
        yield _problem(
            "targets_invalid", "the targets are no names", render(targets), "names", remedy, "target_modules"
        )


def check_rank(config: Config, limits: EngineLimits) -> Iterator[Problem]:
    """Refuse a rank that is not a positive number, or beyond the engine's limit."""
    if "r" in config:
        yield from _rank(config["r"], "r", limits)


def _rank(value: object, where: str, limits: EngineLimits) -> Iterator[Problem]:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_NUMBER:
        remedy = "give the config that belongs to the tensors"
        yield _problem("rank_invalid", "the rank cannot be", render(value), "a positive whole number", remedy, where)
    elif value > limits.max_lora_rank:
        yield over_limit(value, limits, where)


def over_limit(value: int, limits: EngineLimits, where: str) -> Problem:
    """Return the problem of a rank beyond the engine's limit."""
    remedy = f"start the engine with --max-lora-rank {_next_rank(value)}, or make the adapter smaller"
    return _problem(
        "rank_over_limit", "the rank is beyond the engine's limit", value, limits.max_lora_rank, remedy, where
    )


def _next_rank(value: int) -> int:
    # The values that vLLM accepts for its limit (`vllm/config/lora.py`: `MaxLoRARanks`).
    return next((each for each in (1, 8, 16, 32, 64, 128, 256, 320, 512) if each >= value), value)


def check_alpha(config: Config) -> Iterator[Problem]:
    """Refuse an alpha that is not a positive number: with 0, only the base would be served."""
    if "lora_alpha" in config:
        yield from _alpha(config["lora_alpha"], "lora_alpha")


def _alpha(value: object, where: str) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_NUMBER:
        remedy = "give the config that belongs to the tensors"
        yield _problem("alpha_invalid", "the alpha cannot be", render(value), "a positive number", remedy, where)


def check_patterns(config: Config, limits: EngineLimits) -> Iterator[Problem]:
    """Check ranks and alphas of single modules. vLLM 0.32 applies both, and matches names as PEFT does."""
    for field, check in (("rank_pattern", lambda value, where: _rank(value, where, limits)), ("alpha_pattern", _alpha)):
        pattern = config.get(field)
        if not pattern:
            continue
        if not isinstance(pattern, dict):
            remedy = "write a number for each name"
            yield _problem("pattern_invalid", "it is no map", render(pattern), "names and numbers", remedy, field)
            continue
        if len(pattern) > _MAX_PATTERNS:
            remedy = "use names that stand for several modules"
            yield _problem("pattern_invalid", "it has too many names", len(pattern), _MAX_PATTERNS, remedy, field)
            continue
        for key, value in pattern.items():
            yield from check(value, f"{field}[{render(key)}]")
            yield from _unsafe_pattern(key, field)


def _unsafe_pattern(key: str, field: str) -> Iterator[Problem]:
    """Refuse a pattern that may keep a regular-expression engine, ours or vLLM's, busy for ever."""
    is_repeated = re.search(r"[)*+}?][*+{]", key) or sum(map(key.count, "*+{")) > _MAX_REPEATS
    try:
        is_bad = bool(is_repeated) or len(key) > _PATTERN_TEXT or re.compile(key) is None
    except (re.error, RecursionError, OverflowError):
        is_bad = True
    if is_bad:
        remedy = "write the module's name"
        yield _problem("pattern_invalid", "the name is an unsafe expression", render(key), "a name", remedy, field)


def compile_patterns(pattern: object) -> list[tuple["re.Pattern[str]", Any]]:
    """Return the pattern's names, compiled as vLLM and PEFT match them, with their numbers.

    Source: vLLM 0.32, `PEFTHelper._match_pattern`; PEFT's `get_pattern_key`. The first match wins.
    """
    if not isinstance(pattern, dict) or any(_unsafe_pattern_found(key) for key in pattern):
        return []
    return [(re.compile(rf"(.*\.)?({key})$"), value) for key, value in pattern.items()]


def _unsafe_pattern_found(key: str) -> bool:
    return next(_unsafe_pattern(key, ""), None) is not None


def check_refused_fields(config: Config) -> Iterator[Problem]:
    """Refuse fields that vLLM refuses, and fields that vLLM ignores although PEFT uses them."""
    for field, (code, message) in _REFUSED_FIELDS.items():
        value = config.get(field)
        if value:
            yield _problem(code, message, render(value), "not set", f"train without `{field}`, or {_MERGE}", field)


def check_bias(config: Config) -> Iterator[Problem]:
    """Refuse trained biases, which vLLM does not support."""
    value = config.get("bias", "none")
    if value not in ("none", None):
        remedy = _PLAIN.format(field="bias", value="'none'")
        yield _problem("bias", "vLLM refuses adapters with a bias", render(value), "none", remedy, "bias")


def check_saved_modules(config: Config) -> Iterator[Problem]:
    """Refuse whole modules saved with the LoRA: vLLM supports only a classifier's head, never a generating model's."""
    value = config.get("modules_to_save")
    if value:
        remedy = f"target the module with LoRA instead (lm_head and embed_tokens can be), or {_MERGE}"
        message = "vLLM refuses whole modules for models that generate"
        yield _problem("modules_to_save", message, render(value), "none", remedy, "modules_to_save")


def check_initialisation(config: Config) -> Iterator[Problem]:
    """Refuse initialisations that change the base's weights: PiSSA, OLoRA, CorDA, LoftQ."""
    value = config.get("init_lora_weights", True)
    if isinstance(value, str) and value.lower() not in HARMLESS_INITS:
        remedy = "convert it with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        message = "this start changes the base's own weights, which vLLM does not"
        yield _problem("init_changes_base", message, render(value), "true", remedy, "init_lora_weights")
    elif isinstance(value, str) and value.lower() in _CHANGES_BASE_IN_TRAINING:
        yield Problem(
            code="init_changed_base",
            message="while it was trained, this start took its own part out of the base's weights; saved plainly, the "
            "adapter is off by that part",
            value=render(value),
            limit="true",
            remedy="convert it with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            severity=Severity.WARNING,
            where=f"{CONFIG_FILE}: init_lora_weights",
        )


def check_target_parameters(config: Config) -> Iterator[Problem]:
    """Warn that experts' parameters cannot be checked against the base."""
    value = config.get("target_parameters")
    if value:
        yield Problem(
            code="target_parameters",
            message="parameters of experts are served by engines of such models only, and not checked here",
            value=render(value),
            remedy="trust the fingerprint that is taken after loading",
            severity=Severity.WARNING,
            where=f"{CONFIG_FILE}: target_parameters",
        )


def _problem(
    code: str, message: str, value: str | int | None, limit: str | int | None, remedy: str, where: str
) -> Problem:
    return Problem(code=code, message=message, value=value, limit=limit, remedy=remedy, where=f"{CONFIG_FILE}: {where}")
