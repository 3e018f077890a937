"""Rules that compare the tensors with the base's modules.

vLLM compares the *last part* of a module's name with those of its layers, and refuses unknown ones. It then looks up
each of its own layers by full name, and *silently serves the base* where an adapter has nothing (`activate_adapter`;
vllm-project/vllm #34186). A matrix that is smaller than the layer's is copied into a corner of it (`set_lora`). So both
are errors here.

Source: vLLM 0.32: `vllm/lora/lora_model.py`, `model_manager.py`, `utils.py`, `vllm/lora/layers/`.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from adapters.lora_names import LoraPair, Parts
from adapters.problem import Problem, Severity, render
from adapters.safetensors_file import Tensor
from adapters.verify.base_model import BaseModel, Shape
from adapters.verify.limits import EngineLimits

Modules = Mapping[str, Shape | None]
_PACKED: Final[Mapping[str, str]] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_OTHER_BASE: Final = "give the base that it was trained on"


def base_problems(config: Mapping[str, object], parts: Parts, base: BaseModel | None) -> Iterator[Problem]:
    """Yield the tensors' mismatches with the base."""
    if base is None or base.modules is None:
        yield _not_checked(base)
        return
    # For multimodal models, engines and PEFT use other module names than the files.
    tails = _tails(base.modules) if base.is_multimodal else {}
    is_transposed = bool(config.get("fan_in_fan_out"))
    for pair in parts.pairs.values():
        if pair.is_expert and any(".experts" in name for name in base.modules):
            yield _experts(pair)
        elif pair.module in base.modules:
            yield from check_shape(pair, base.modules[pair.module], is_transposed=is_transposed)
        elif _tail(pair.module) in tails:
            yield _name_problem(pair, tails[_tail(pair.module)])
        else:
            yield name_matches_nothing(pair, base.modules)
    for tensor in parts.saved_embeddings:
        yield from check_embedding_shape(tensor, base.modules)


def _not_checked(base: BaseModel | None) -> Problem:
    unknown = "give its folder: engine.base in the settings, --base for `adapters verify`"
    remedy = unknown if base is None else "save the base as safetensors"
    return _warning(
        "base_not_checked",
        "names, shapes, tokenizer and chat template were not compared with the base's"
        if base is None
        else "names and shapes were not compared with the base's, whose folder has no safetensors",
        None,
        "the base's modules",
        "",
        remedy,
    )


def check_shape(pair: LoraPair, shape: Shape | None, *, is_transposed: bool) -> Iterator[Problem]:
    """Refuse matrices whose width differs from the layer's: A is (rank, in), B is (out, rank)."""
    if shape is None:
        message = "the base's layer is quantised, so the shape was not compared"
        yield _warning("shape_not_checked", message, None, None, pair.module, "trust the fingerprint after loading")
        return
    if len(shape) != 2:
        message = "the base's module is no linear layer; vLLM has no LoRA for it"
        value = render(list(shape))
        yield _error("not_linear", message, value, "a linear layer", pair.module, "target linear layers")
        return
    outputs, inputs = (shape[1], shape[0]) if is_transposed or pair.is_embedding else shape
    for half, axis, own in ((pair.a, 1, inputs), (pair.b, 0, outputs)):
        if half is not None and len(half.shape) == 2 and half.shape[axis] != own:
            message = f"the matrix {list(half.shape)} does not fit the base's layer {list(shape)}"
            yield _error("shape_not_base", message, half.shape[axis], own, half.name, _OTHER_BASE)


def name_matches_nothing(pair: LoraPair, modules: Modules) -> Problem:
    """Return the problem of a module that the base does not have, with the place where its name differs."""
    parent, _, leaf = pair.module.rpartition(".")
    packed = next((name for name in {_PACKED.get(leaf, "")} if name and f"{parent}.{name}" in modules), None)
    parts = [name for name, whole in _PACKED.items() if whole == leaf and f"{parent}.{name}" in modules]
    tail = _tail(pair.module)
    close = next((name for name in modules if tail and _tail(name) == tail), None)
    if packed or parts:
        message = f"the base has `{packed or ' and '.join(parts)}` in this place"
        remedy = "train on the base as it is saved; do not split or fuse its layers"
    elif close:
        message = "the base has no such module, and vLLM would silently serve the base"
        remedy = f"name it as the base does: base_model.model.{close}.lora_A.weight"
    elif any(name.rpartition(".")[2] == leaf for name in modules):
        message = "the base has no such module, and vLLM would silently serve the base"
        remedy = _OTHER_BASE
    else:
        message = f"no module of the base is called `{render(leaf)}`; vLLM refuses the adapter"
        remedy = _OTHER_BASE
    return _error("module_not_in_base", message, render(pair.module), "a module of the base", pair.module, remedy)


def _tail(module: str) -> str:
    """Return a name from its layer's number on: `layers.3.mlp.up_proj`."""
    before, found, after = module.rpartition("layers.")
    # A vision tower has numbered layers, too; the part before them shows which tower it is.
    tower = "vision." if "vis" in before else "audio." if "audio" in before else ""
    return f"{tower}{found}{after}" if found else ""


def _tails(modules: Modules) -> dict[str, str]:
    return {tail: name for name in modules if (tail := _tail(name))}


def _name_problem(pair: LoraPair, name: str) -> Problem:
    return _warning(
        "module_renamed",
        "the base's file calls the module by another name, as models of several parts do",
        render(pair.module),
        name,
        pair.module,
        "trust the fingerprint that is taken after loading",
    )


def _experts(pair: LoraPair) -> Problem:
    message = "an expert's shape is not compared: engines stack experts in ways of their own"
    remedy = "trust the fingerprint that is taken after loading"
    return _warning("experts_not_checked", message, None, None, pair.module, remedy)


def check_embedding_shape(tensor: Tensor, modules: Modules) -> Iterator[Problem]:
    """Refuse a saved matrix whose size differs from the base's: vLLM ignores the rows that were added."""
    end = tensor.name.removesuffix(".base_layer.weight").rpartition(".")[2]
    shape = next((shape for name, shape in modules.items() if name.rpartition(".")[2] == end), None)
    if shape is not None and shape != tensor.shape:
        message = "the embeddings were resized for the training, and vLLM serves the base's"
        value, limit = render(list(tensor.shape)), render(list(shape))
        remedy = "save the base with the resized embeddings and serve that"
        yield _error("embeddings_resized", message, value, limit, tensor.name, remedy)


def check_embedding_targets(parts: Parts, base: BaseModel | None, limits: EngineLimits) -> Iterator[Problem]:
    """Report whether the engine serves changes of `lm_head` and of the input embeddings, and with what limitations."""
    for pair in parts.pairs.values():
        is_head = pair.leaf == "lm_head"
        if not is_head and not pair.targets_embeddings:
            continue
        what = "lm_head" if is_head else "embed_tokens"
        if base is not None and not set(base.architectures) & set(limits.embedding_architectures):
            message = f"vLLM has no LoRA for {what} of this architecture and refuses the adapter"
            remedy = f"train without {what} among the targets"
            value = ", ".join(base.architectures)
            yield _error(f"{what}_not_served", message, render(value), "an architecture with it", pair.module, remedy)
        elif is_head:
            message = "it is served, but vLLM leaves it out of log-probabilities of prompts (#51594)"
            remedy = "judge this adapter by its replies, or train without lm_head among the targets"
            yield _warning("lm_head_not_scorable", message, None, None, pair.module, remedy)
        elif not pair.is_embedding:
            message = "a change of the input embeddings is saved as one of a linear layer"
            remedy = "save the adapter with PEFT's save_pretrained"
            yield _error("embedding_form", message, None, "lora_embedding_A and lora_embedding_B", pair.module, remedy)


def _error(code: str, message: str, value: str | int | None, limit: str | int, where: str, remedy: str) -> Problem:
    return Problem(code=code, message=message, value=value, limit=limit, remedy=remedy, where=f"`{render(where)}`")


def _warning(code: str, message: str, value: str | None, limit: str | None, where: str, remedy: str) -> Problem:
    return Problem(
        code=code,
        message=message,
        value=value,
        limit=limit,
        remedy=remedy,
        severity=Severity.WARNING,
        where=f"`{render(where)}`" if where else "",
    )
