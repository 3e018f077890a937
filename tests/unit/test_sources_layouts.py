"""Layouts: the adapter is found inside what PEFT, TRL, Axolotl, Unsloth and torchtune write.

The folders are made up after the trainers' own documentation and code, each named at its test, with real small
safetensors files; PEFT and TRL are run for real in tests/real/test_trainers.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.artifact import read_manifest
from adapters.sources import Allowed, PickledAdapter, SourceAmbiguous, SourceNotFound, SourceTooLarge, fetch
from adapters.sources.layouts import MAX_FOLDERS, find_adapter
from tests.support.adapter_folders import Tensors, safetensors, tensors_of, write_adapter

BOTH = ("adapter_config.json", "adapter_model.safetensors")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def take(folder: Path) -> Path:
    """Fetch a local folder; return what was taken, relative to it."""
    return fetch(str(folder), folder.parent / "scratch", allowed=Allowed(any_local=True)).relative_to(folder)


def litter(folder: Path, *names: str) -> None:
    """Write other files that a trainer leaves: what they hold is never looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")


def checkpoint(folder: Path, seed: int = 1, **config: Any) -> None:
    """Write a checkpoint as transformers' Trainer does (trainer.py, `_save_checkpoint`)."""
    write_adapter(folder, seed, **config)
    litter(
        folder,
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "training_args.bin",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    )


# PEFT: PeftModel.save_pretrained


def test_peft_s_default_adapter_is_at_the_top(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out")
    litter(tmp_path / "out", "README.md")
    assert take(tmp_path / "out") == Path()


def test_peft_s_named_adapter_is_in_its_folder(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out/support")
    litter(tmp_path / "out", "README.md")
    assert take(tmp_path / "out") == Path("support")


def test_several_named_adapters_are_for_the_caller_to_choose_from(tmp_path: Path) -> None:
    for name in ("support", "legal"):
        write_adapter(tmp_path / "out" / name)
    with pytest.raises(SourceAmbiguous, match=r"2 adapters .*`legal`, `support`; give the path of one.*/out/support`"):
        take(tmp_path / "out")
    assert take(tmp_path / "out/legal") == Path()


def test_the_default_adapter_wins_over_named_ones(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out")
    write_adapter(tmp_path / "out/support")
    assert take(tmp_path / "out") == Path()


# TRL and transformers: output_dir with checkpoint-N/


def test_trl_s_final_adapter_wins_over_its_checkpoints(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out", seed=3)
    litter(tmp_path / "out", "training_args.bin", "tokenizer.json", "runs/Nov22/events.out.tfevents.1")
    checkpoint(tmp_path / "out/checkpoint-10", seed=1)
    checkpoint(tmp_path / "out/checkpoint-20", seed=2)
    assert take(tmp_path / "out") == Path()


def test_the_only_checkpoint_is_taken(tmp_path: Path) -> None:
    checkpoint(tmp_path / "out/checkpoint-10")
    assert take(tmp_path / "out") == Path("checkpoint-10")


def test_several_checkpoints_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (100, 9, 20):
        checkpoint(tmp_path / f"out/checkpoint-{number}")
    with pytest.raises(SourceAmbiguous, match="`checkpoint-9`, `checkpoint-20`, `checkpoint-100`"):
        take(tmp_path / "out")


def test_a_named_adapter_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out/checkpoint-10/support")
    assert take(tmp_path / "out") == Path("checkpoint-10/support")


# Axolotl: src/axolotl/train.py, `save_initial_configs` and `save_trained_model`


def axolotl(folder: Path) -> None:
    """Write what stands there before the first step, and a checkpoint."""
    write_adapter(folder)
    (folder / BOTH[1]).unlink()
    litter(folder, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "debug.log")
    checkpoint(folder / "checkpoint-7", seed=7)


def test_axolotl_s_final_adapter_is_taken(tmp_path: Path) -> None:
    axolotl(tmp_path / "out")
    write_adapter(tmp_path / "out", seed=8)
    litter(tmp_path / "out", "README.md", "merged/config.json", "merged/model.safetensors")
    assert take(tmp_path / "out") == Path()


def test_axolotl_s_checkpoint_is_taken_while_training_goes_on(tmp_path: Path) -> None:
    axolotl(tmp_path / "out")
    assert take(tmp_path / "out") == Path("checkpoint-7")


def test_a_training_that_saved_nothing_yet_says_so(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out")
    (tmp_path / "out" / BOTH[1]).unlink()
    with pytest.raises(SourceNotFound, match="training has not finished"):
        take(tmp_path / "out")


def test_axolotl_s_pickled_final_adapter_is_refused_with_its_checkpoints_named(tmp_path: Path) -> None:
    # As Axolotl wrote with `save_safetensors: false`: the checkpoint is safe, but it is not the final adapter.
    axolotl(tmp_path / "out")
    litter(tmp_path / "out", "adapter_model.bin")
    with pytest.raises(PickledAdapter, match=r"adapter_model\.bin` is a pickle.*`checkpoint-7`"):
        take(tmp_path / "out")


# Unsloth: unsloth-zoo hf_utils.py, `fix_lora_auto_mapping`; unsloth models/vision.py, `get_peft_regex`


def test_unsloth_s_adapter_is_read_with_its_mapping_its_4_bit_base_and_its_regex(tmp_path: Path) -> None:
    regex = (
        r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
        r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
        r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
    )
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
        "unsloth_fixed": True,
    }
    base = "unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit"
    out = write_adapter(
        tmp_path / "lora_model",
        auto_mapping=mapping,
        base_model_name_or_path=base,
        target_modules=regex,
        revision="unsloth",
        lora_dropout=0,
    )
    litter(out, "README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    assert take(out) == Path()
    assert read_manifest(out).base == base


# torchtune: docs/source/deep_dives/checkpointer.rst ("Checkpoint Output"); keys and config of
# torchtune/models/convert_weights.py, `tune_to_peft_adapter_weights` and `tune_to_peft_adapter_config`


def torchtune(folder: Path, seed: int) -> None:
    """Write an epoch: the adapter twice, pickled and safe, beside the merged model."""
    tensors: Tensors = {
        name.replace("base_model.model.layers", "base_model.model.model.layers"): content
        for name, content in tensors_of(seed).items()
    }
    folder.mkdir(parents=True)
    (folder / BOTH[1]).write_bytes(safetensors(tensors))
    config = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "peft_type": "LORA"}
    config["base_model_name_or_path"] = "meta-llama/Llama-3.2-3B-Instruct"
    (folder / BOTH[0]).write_text(json.dumps(config))
    litter(
        folder,
        "adapter_model.pt",
        "config.json",
        "ft-model-00001-of-00002.safetensors",
        "LICENSE.txt",
        "tokenizer.json",
        "ft-model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "original/tokenizer.model",
    )


def test_torchtune_s_only_epoch_is_taken(tmp_path: Path) -> None:
    torchtune(tmp_path / "out/epoch_0", seed=1)
    litter(tmp_path / "out", "recipe_state/recipe_state.pt", "logs/log_1734652101.txt", "torchtune_config.yaml")
    assert take(tmp_path / "out") == Path("epoch_0")
    assert read_manifest(tmp_path / "out/epoch_0").base == "meta-llama/Llama-3.2-3B-Instruct"


def test_torchtune_s_epochs_are_for_the_caller_to_choose_from(tmp_path: Path) -> None:
    for number in (0, 1):
        torchtune(tmp_path / f"out/epoch_{number}", seed=number)
    with pytest.raises(SourceAmbiguous, match=r"`epoch_0`, `epoch_1`; give the path of one, such as `.*/out/epoch_1`"):
        take(tmp_path / "out")


@pytest.mark.parametrize("name", ["adapter_0.pt", "adapter_model.bin", "adapter_model.pt", "epoch_1/adapter_1.pt"])
def test_torchtune_s_pickles_are_refused_with_a_remedy(name: str, tmp_path: Path) -> None:
    litter(tmp_path / "out", name, "adapter_config.json", "hf_model_0001_0.pt")
    with pytest.raises(PickledAdapter, match=f"{name}` is a pickle, which can run code.*safe_serialization=True"):
        take(tmp_path / "out")


# What is no adapter


def test_a_merged_model_is_told_from_an_adapter(tmp_path: Path) -> None:
    litter(tmp_path / "out", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    with pytest.raises(SourceNotFound, match="holds a whole model and no adapter"):
        take(tmp_path / "out")


@pytest.mark.parametrize("name", ["notes.txt", "a/b/c/adapter_config.json", ".cache/adapter_config.json"])
def test_a_folder_without_an_adapter_is_not_found(name: str, tmp_path: Path) -> None:
    litter(tmp_path / "out", name)
    with pytest.raises(SourceNotFound, match="holds no adapter, which is a folder with"):
        take(tmp_path / "out")


def test_weights_without_a_config_are_told(tmp_path: Path) -> None:
    litter(tmp_path / "out", BOTH[1])
    with pytest.raises(SourceNotFound, match=r"no adapter_config\.json"):
        take(tmp_path / "out")


def test_an_adapter_too_deep_for_any_trainer_is_not_looked_for(tmp_path: Path) -> None:
    write_adapter(tmp_path / "out/a/b/c")
    with pytest.raises(SourceNotFound):
        take(tmp_path / "out")


def test_linked_folders_are_not_looked_into(tmp_path: Path) -> None:
    write_adapter(tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out/round").symlink_to(tmp_path / "out")
    with pytest.raises(SourceNotFound):
        take(tmp_path / "out")


def test_a_folder_of_very_many_folders_is_not_walked(tmp_path: Path) -> None:
    for number in range(MAX_FOLDERS + 1):
        (tmp_path / f"out/{number}").mkdir(parents=True)
    with pytest.raises(SourceTooLarge, match="give the adapter's own folder"):
        take(tmp_path / "out")


def test_a_long_list_of_checkpoints_is_shortened() -> None:
    names = [f"checkpoint-{number}/{name}" for number in range(50) for name in BOTH]
    with pytest.raises(SourceAmbiguous, match=r"50 adapters.*`checkpoint-30`.*`checkpoint-49` and 30 more"):
        find_adapter(names, "s3://b/run")
