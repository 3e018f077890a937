"""Rules for the tensors: names, halves, shapes and ranks, compared with each other and with the config.

Source: vLLM 0.32: `vllm/lora/lora_model.py` (`check_unexpected_modules`, `from_lora_tensors`) and `vllm/lora/layers/`
(`set_lora` copies whatever fits, a smaller matrix even without a warning).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from adapters.config_file import CONFIG_FILE
from adapters.lora_names import LoraPair, Parts
from adapters.problem import Problem, Severity, render
from adapters.safetensors_file import Tensor
from adapters.verify.config_rules import compile_patterns, over_limit
from adapters.verify.limits import EngineLimits

# The dtypes that vLLM can cast to its own one without changing the meaning of the values.
WEIGHT_DTYPES: Final = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# The longest name that we know, in a vision model's tower, has 120 characters.
MAX_NAME: Final = 300
# The bound on the matching steps of all patterns together, which take about a second.
_MAX_STEPS: Final = 50_000_000
_SAVE: Final = "save the adapter with PEFT's save_pretrained"
# The end of a tensor's name → what it is, and what to do.
_STRANGE: Final[Mapping[str, tuple[str, str]]] = {
    "lora_magnitude_vector": ("a magnitude of DoRA", "train a plain LoRA: use_dora=False"),
    "lora_magnitude_vector.weight": ("a magnitude of DoRA", "train a plain LoRA: use_dora=False"),
    "default.weight": ("a name of PEFT's memory, not of its files", _SAVE),
    "trainable_tokens_delta": ("a trained token", "train without trainable_token_indices"),
    "lora_diag": ("a part of KaSA", "train a plain LoRA: kasa_config=None"),
    "bias": ("a bias", "train with bias='none' and lora_bias=False"),
}


def tensor_problems(tensors: Mapping[str, Tensor], parts: Parts) -> Iterator[Problem]:
    """Yield the problems of the tensors that do not depend on the config."""
    for tensor in tensors.values():
        yield from check_weight_dtype(tensor)
        yield from check_name_length(tensor)
    for tensor in parts.strange:
        yield not_lora(tensor)
    for tensor in parts.repeated:
        message = "another tensor is the same half of the same module"
        yield _problem("tensor_duplicate", message, render(tensor.name), "each half once", _SAVE, tensor.name)
    for pair in parts.pairs.values():
        yield from check_halves(pair)
        yield from check_dimensions(pair)
        yield from check_shapes(pair)


def check_weight_dtype(tensor: Tensor) -> Iterator[Problem]:
    """Refuse integers and packed floats: quantised weights have no meaning without their scales."""
    if tensor.dtype not in WEIGHT_DTYPES:
        remedy = "save the adapter's own weights in float (they are, if the base alone is quantised)"
        limit = ", ".join(WEIGHT_DTYPES)
        yield _problem("dtype_not_float", "the weights are not in float", tensor.dtype, limit, remedy, tensor.name)


def check_name_length(tensor: Tensor) -> Iterator[Problem]:
    """Refuse names longer than any model's, since matching them against patterns takes long."""
    if len(tensor.name) > MAX_NAME:
        yield _problem("name_too_long", "the name is too long", len(tensor.name), MAX_NAME, _SAVE, tensor.name)


def not_lora(tensor: Tensor) -> Problem:
    """Return the problem of a tensor that vLLM cannot assign; vLLM would refuse the whole adapter."""
    ends = (found for end, found in _STRANGE.items() if tensor.name.endswith(f".{end}"))
    what, remedy = next(ends, ("no half of a LoRA", _SAVE))
    message = f"it is {what}; vLLM refuses the adapter"
    return _problem("tensor_not_lora", message, None, "….lora_A.weight and ….lora_B.weight", remedy, tensor.name)


def check_halves(pair: LoraPair) -> Iterator[Problem]:
    """Refuse one half without the other: vLLM fails when such an adapter is first used."""
    for missing, there in (("A", pair.b), ("B", pair.a)):
        if (pair.a if missing == "A" else pair.b) is None and there is not None:
            message = f"lora_{missing} of the module is missing"
            yield _problem("half_missing", message, None, "lora_A and lora_B", _SAVE, there.name)


def check_dimensions(pair: LoraPair) -> Iterator[Problem]:
    """Refuse tensors that are not matrices: vLLM has LoRA layers only for linear layers and embeddings."""
    for half in (pair.a, pair.b):
        if half is not None and len(half.shape) != 2:
            remedy = "target linear layers"
            yield _problem(
                "not_a_matrix", "it is no matrix", render(list(half.shape)), "2 dimensions", remedy, half.name
            )


def check_shapes(pair: LoraPair) -> Iterator[Problem]:
    """Refuse halves that cannot be multiplied: A is (rank, in), B is (out, rank)."""
    if pair.a is None or pair.b is None or len(pair.a.shape) != 2 or len(pair.b.shape) != 2:
        return
    if pair.a.shape[0] != pair.b.shape[1]:
        message = f"A is {list(pair.a.shape)} and B is {list(pair.b.shape)}: their ranks differ"
        yield _problem("halves_do_not_fit", message, pair.a.shape[0], pair.b.shape[1], _SAVE, pair.module)


def rank_problems(config: Mapping[str, Any], parts: Parts, limits: EngineLimits) -> Iterator[Problem]:
    """Yield the tensors' ranks that differ from the config's, or exceed the engine's limit."""
    ranks = compile_patterns(config.get("rank_pattern"))
    steps = _steps([name.pattern for name, _ in ranks], parts)
    if steps > _MAX_STEPS:
        remedy = "write modules' names, without repeats"
        message = "matching these names with these modules takes too many steps"
        yield _config_problem("pattern_invalid", message, steps, _MAX_STEPS, remedy, "rank_pattern")
        return
    reported_ranks: set[int] = set()
    for pair in parts.pairs.values():
        # Experts are stacked in one matrix (`_stack_moe_lora_weights`), whose rank is r times their number.
        if pair.a is None or len(pair.a.shape) != 2 or pair.is_expert:
            continue
        own = pair.a.shape[0]
        yield from check_rank(config, ranks, pair, own)
        if own > limits.max_lora_rank and own not in reported_ranks and own != config.get("r"):
            reported_ranks.add(own)
            yield over_limit(own, limits, pair.a.name)


def _steps(patterns: list[str], parts: Parts) -> int:
    """Return how many steps matching may take: each repetition adds a power of the name's length."""
    longest = max(map(len, parts.pairs), default=0)
    repeats = [sum(map(pattern.count, "*+{")) - 1 for pattern in patterns]  # one is the prefix that PEFT allows
    return len(parts.pairs) * sum(longest ** (1 + each) // 6 if each else 8 for each in repeats)


def check_rank(config: Mapping[str, Any], ranks: list[tuple[Any, Any]], pair: LoraPair, own: int) -> Iterator[Problem]:
    """Refuse a rank that differs from the config's: vLLM divides alpha by the config's, and would apply a wrong
    scaling.
    """
    pattern = next((value for name, value in ranks if name.match(pair.module)), None)
    expected = config.get("r") if pattern is None else pattern
    if type(expected) is int and expected > 0 and own != expected:
        message = "the tensor's rank is not the config's, so alpha / r would be another strength than was trained"
        remedy = "give the config that belongs to the tensors"
        yield _problem("rank_differs", message, own, expected, remedy, pair.module)


def target_problems(config: Mapping[str, Any], parts: Parts) -> Iterator[Problem]:
    """Yield the differences between the config's list of targets and the modules of the tensors."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not parts.pairs:
        return  # only PEFT uses a pattern; vLLM goes by the tensors' names
    names = {each for each in targets if isinstance(each, str)}
    met: set[str] = set()
    for pair in parts.pairs.values():
        ends = {pair.module.split(".", count)[-1] for count in range(pair.module.count(".") + 1)} & names
        met |= ends
        if not ends and not pair.is_expert:
            message = "the config does not target the module: PEFT leaves its tensors out, vLLM serves them"
            yield _warning("not_targeted", message, pair.module, "a module of target_modules", pair.module)
    for name in sorted(names - met):
        message = "the module is a target and has no tensors"
        yield _warning("target_without_tensors", message, render(name), "lora_A and lora_B of it", CONFIG_FILE)


def check_saved_embeddings(parts: Parts) -> Iterator[Problem]:
    """Warn that vLLM ignores whole embeddings that PEFT saved with the adapter (`is_base_embedding_weights`)."""
    for tensor in parts.saved_embeddings:
        message = "the whole matrix is saved beside; vLLM leaves it out and serves the base's"
        yield _warning("saved_embeddings_ignored", message, render(list(tensor.shape)), "the base's own", tensor.name)


def _problem(
    code: str, message: str, value: str | int | None, limit: str | int | None, remedy: str, tensor: str
) -> Problem:
    return Problem(
        code=code, message=message, value=value, limit=limit, remedy=remedy, where=f"tensor `{render(tensor)}`"
    )


def _config_problem(code: str, message: str, value: int, limit: int, remedy: str, field: str) -> Problem:
    return Problem(code=code, message=message, value=value, limit=limit, remedy=remedy, where=f"{CONFIG_FILE}: {field}")


def _warning(code: str, message: str, value: str, limit: str, where: str) -> Problem:
    return Problem(
        code=code,
        message=message,
        value=value,
        limit=limit,
        where=render(where),
        severity=Severity.WARNING,
        remedy="save the adapter again with PEFT if this was not intended",
    )
