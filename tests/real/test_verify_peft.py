"""What PEFT writes for real models, verified against the model's own folder."""

from pathlib import Path
from typing import Any

import pytest

from adapters.artifact import read_manifest
from adapters.verify import BaseModel, EngineLimits, verify

# PEFT warns of what it does with tied and with targeted embeddings.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning:peft")]


@pytest.fixture(scope="module", params=["llama", "llama-tied", "qwen2", "phi3", "gemma2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers, saved as transformers does."""
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 128,
        "pad_token_id": 0,
        "tie_word_embeddings": request.param == "llama-tied",
    }
    kinds = {"llama": "Llama", "llama-tied": "Llama", "qwen2": "Qwen2", "phi3": "Phi3", "gemma2": "Gemma2"}
    kind = kinds[request.param]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    folder = tmp_path_factory.mktemp(request.param)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


def saved(base: Path, out: Path, **settings: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.layers\.1\..*(o_proj|down_proj)"},
        {"target_modules": ["o_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"o_proj": 3}},
        {"target_modules": ["o_proj"], "alpha_pattern": {"layers.0.self_attn.o_proj": 3}, "layers_to_transform": [0]},
    ],
    ids=["all-linear", "expression", "rank pattern", "alpha pattern"],
)
def test_what_peft_saves_is_accepted_without_a_warning(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = saved(base, tmp_path / "adapter", r=4, **settings)
    report = verify(folder, base=BaseModel.read(base), limits=EngineLimits())
    assert report.problems == ()
    assert report.check().largest_rank == 4


def test_what_peft_saves_and_vllm_does_not_serve_is_refused(base: Path, tmp_path: Path) -> None:
    folder = saved(
        base, tmp_path / "adapter", r=4, target_modules=["o_proj"], use_dora=True, modules_to_save=["lm_head"]
    )
    codes = {problem.code for problem in verify(folder, base=BaseModel.read(base), limits=EngineLimits()).errors}
    assert codes == {"dora", "modules_to_save", "tensor_not_lora"}


def test_changed_heads_and_embeddings_are_served_where_vllm_has_a_layer_for_them(base: Path, tmp_path: Path) -> None:
    folder = saved(base, tmp_path / "adapter", r=4, target_modules=["lm_head", "embed_tokens", "o_proj"])
    model = BaseModel.read(base)
    report = verify(folder, base=model, limits=EngineLimits())
    if model.architectures[0] in ("LlamaForCausalLM", "Phi3ForCausalLM"):
        assert report.is_accepted, report.errors
        assert {problem.code for problem in report.warnings} == {"lm_head_not_scorable", "saved_embeddings_ignored"}
    else:
        assert {problem.code for problem in report.errors} == {"lm_head_not_served", "embed_tokens_not_served"}


def test_saving_again_with_peft_is_the_same_version(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = saved(base, tmp_path / "adapter", r=4, target_modules="all-linear")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).save_pretrained(tmp_path / "again")
    assert read_manifest(tmp_path / "again").digest == read_manifest(folder).digest
