"""What PEFT and TRL really write registers: trained for two steps on a CPU, fetched, read.

QLoRA: bitsandbytes needs a GPU. What it changes is the base in memory; the adapter is saved by the same
`save_pretrained`, in fp32 beside a base of lower precision, as the one of a bfloat16 base here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapters.artifact import read_manifest
from adapters.sources import Allowed, fetch
from adapters.verify import BaseModel, EngineLimits, verify

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.real
ANY = Allowed(any_local=True)
PROJECTIONS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
# A and B, of seven modules, of two layers.
N_TENSORS = 2 * 7 * 2


def load(base: Path, dtype: str) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    return AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))


def lora(**fields: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules="all-linear", **fields)


def train(model: Any) -> None:
    """Take two steps on two lines of tokens."""
    import torch

    tokens: torch.Tensor = torch.arange(32).reshape(2, 16)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def check(folder: Path, base: Path) -> None:
    """Check that the adapter in a folder reads as it was trained, and that nothing is wrong with it."""
    report = verify(folder, base=BaseModel.read(base), limits=EngineLimits())
    assert report.errors == ()
    manifest = read_manifest(folder)
    assert (manifest.rank, manifest.alpha) == (4, 8.0)
    assert manifest.base == str(base)
    assert manifest.tensors == N_TENSORS
    assert {name.rpartition(".")[2] for name in manifest.target_modules} == set(PROJECTIONS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_peft_saves_registers(dtype: str, tiny_base_path: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(load(tiny_base_path, dtype), lora())
    train(model)
    model.save_pretrained(tmp_path / "out")
    folder = fetch(str(tmp_path / "out"), tmp_path / "scratch", allowed=ANY)
    assert folder == tmp_path / "out"
    check(folder, tiny_base_path)


def test_a_named_adapter_of_peft_registers(tiny_base_path: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(load(tiny_base_path, "float32"), lora(), adapter_name="support")
    train(model)
    model.save_pretrained(tmp_path / "out")
    folder = fetch(str(tmp_path / "out"), tmp_path / "scratch", allowed=ANY)
    assert folder == tmp_path / "out/support"
    check(folder, tiny_base_path)


def test_what_trl_saves_registers_and_so_do_its_checkpoints(tiny_base_path: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    lessons = Dataset.from_list([{"prompt": "What is 3 + 4?", "completion": " 7."}] * 4)
    out = tmp_path / "out"
    settings = SFTConfig(
        output_dir=str(out),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        max_length=64,
    )
    trainer = SFTTrainer(
        model=load(tiny_base_path, "float32"), args=settings, train_dataset=lessons, peft_config=lora()
    )
    trainer.train()
    trainer.save_model()
    assert fetch(str(out), tmp_path / "scratch", allowed=ANY) == out
    check(out, tiny_base_path)
    last = fetch(str(out / "checkpoint-2"), tmp_path / "scratch", allowed=ANY)
    # Nothing was trained in between: the last checkpoint and the final adapter are one version.
    assert read_manifest(last).digest == read_manifest(out).digest
    assert read_manifest(out / "checkpoint-1").digest != read_manifest(out).digest
