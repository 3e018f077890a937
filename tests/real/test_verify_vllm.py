"""What our rules say of vLLM, asked of the vLLM that is installed."""

import ast
from pathlib import Path
from typing import Any

import pytest

from adapters.lora_names import parts_of
from adapters.safetensors_file import Tensor
from adapters.verify import EngineLimits
from adapters.verify.config_rules import config_problems
from adapters.verify.limits import EMBEDDING_ARCHITECTURES

# The warning is PyTorch's own, at import.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

GOOD: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
# What vLLM does not look at, and we refuse: it would serve something else than was trained, or fail later.
SILENT: tuple[dict[str, Any], ...] = (
    {"peft_type": "IA3"},
    {"lora_alpha": 0},
    {"alpha_pattern": {"q_proj": 0}},
    {"trainable_token_indices": [1]},
    {"kasa_config": {"beta": 1}},
    {"arrow_config": {"top_k": 1}},
    {"megatron_config": {"a": 1}},
)
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"r": 8},
    {"r": 9},
    {"r": 0},
    {"rank_pattern": {"q_proj": 8}},
    {"rank_pattern": {"q_proj": 9}},
    {"rank_pattern": {"q_proj": 0}},
    {"use_rslora": True},
    {"use_dora": True},
    {"lora_bias": True},
    {"bias": "all"},
    {"modules_to_save": ["lm_head"]},
    {"alora_invocation_tokens": [1]},
    {"layer_replication": [[0, 1]]},
    {"use_bdlora": {"nblocks": 1}},
    {"use_qalora": True},
    {"alpha_pattern": {"q_proj": 2}},
    {"fan_in_fan_out": True},
    {"velora_config": {"a": 1}},
    {"exclude_modules": ["x"]},
    {"lora_dropout": 0.5},
    *({"init_lora_weights": init} for init in (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")),
    *({"init_lora_weights": init} for init in ("pissa", "pissa_niter_4", "olora", "corda", "loftq")),
)


def vllm_refuses(config: dict[str, Any]) -> bool:
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    try:
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=8))
    except ValueError:
        return True
    return False


def we_refuse(config: dict[str, Any]) -> bool:
    return any(problem.is_error for problem in config_problems(config, EngineLimits(max_lora_rank=8)))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_config_is_refused_where_vllm_refuses_it(change: dict[str, Any]) -> None:
    assert we_refuse({**GOOD, **change}) == vllm_refuses({**GOOD, **change})


@pytest.mark.parametrize("change", SILENT, ids=str)
def test_what_vllm_would_serve_wrongly_is_refused_by_us_alone(change: dict[str, Any]) -> None:
    assert not vllm_refuses({**GOOD, **change}), "vLLM has learnt it: say so in the rule"
    assert we_refuse({**GOOD, **change})


@pytest.mark.parametrize("missing", ["r", "lora_alpha", "target_modules"])
def test_the_fields_that_vllm_needs_are_needed(missing: str) -> None:
    config = {field: value for field, value in GOOD.items() if field != missing}
    assert we_refuse(config)
    assert vllm_refuses(config)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.q_proj.lora_B.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.lora_B.weight",
        "base_model.model.x.lora_A.default.weight",
        "base_model.model.x.lora_magnitude_vector",
        "x.lora_A.bias",
        "base_model.model.x.lora_B.bias",
        "base_model.model.lm_head.weight",
        "x",
        "lora_A",
        "a.b.lora_C.weight",
    ],
)
def test_names_mean_what_they_mean_to_vllm(name: str) -> None:
    from vllm.lora.utils import parse_fine_tuned_lora_name

    parts = parts_of([Tensor(name, "F32", (1, 1), 0, 4)])
    try:
        module, is_a = parse_fine_tuned_lora_name(name)
    except ValueError:
        assert [tensor.name for tensor in parts.strange] == [name]
    else:
        pair = parts.pairs[module]
        assert (pair.a is not None, pair.b is not None) == (is_a, not is_a)


def test_the_architectures_with_lora_for_embeddings_are_vllms() -> None:
    import vllm

    models = Path(vllm.__file__).parent / "model_executor/models"
    classes: dict[str, tuple[bool, list[str]]] = {}
    for path in models.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                own = any(
                    isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "embedding_modules"
                    for line in node.body
                )
                classes[node.name] = own, [ast.unparse(parent).rpartition(".")[2] for parent in node.bases]

    def has(name: str) -> bool:
        own, parents = classes.get(name, (False, []))
        return own or any(has(parent) for parent in parents if parent != name)

    registry = {
        key.value: ast.literal_eval(value)[1]
        for node in ast.walk(ast.parse((models / "registry.py").read_text()))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant)
        and isinstance(key.value, str)
        and isinstance(value, ast.Tuple)
        and len(value.elts) == 2
    }
    there = {name for name, of in registry.items() if name.endswith("ForCausalLM") and has(of)}
    ours = {name for name in EMBEDDING_ARCHITECTURES if name.endswith("ForCausalLM")}
    assert ours == {name for name in there if "Eagle" not in name and "Peagle" not in name}
