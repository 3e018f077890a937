"""PEFT's own methods: what we write equals what `add_weighted_adapter` makes on a model."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.artifact import read_manifest
from adapters.fusion import CannotFuse, fuse
from adapters.fusion.methods import BY_FACTORS
from adapters.fusion.source import number_of
from adapters.recipe import Method, Parent, Recipe
from tests.support.lora_folders import SHAPES, dense, tensors_in, write_lora

pytestmark = pytest.mark.real

WEIGHTS = {"x": 0.7, "y": -0.4}


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # In the order of their names, in which fusion goes through them: DARE draws one after the other.
        for name in sorted(SHAPES):
            self.add_module(name, torch.nn.Linear(*SHAPES[name], bias=False))


class Tiny(torch.nn.Module):
    """As many modules as the folders have, under the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self) -> None:
        """Never called: PEFT only wants the modules."""


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, Path]:
    kinds: dict[str, dict[str, Any]] = {"x": {"alpha": 8}, "y": {"alpha": 3, "use_rslora": True}}
    return {
        name: write_lora(tmp_path / name, seed, task_type=None, **kinds[name]) for seed, name in enumerate(kinds, 1)
    }


def in_peft(parents: dict[str, Path]) -> Any:
    """Return a PEFT model with both parents loaded."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(Tiny(), parents["x"], adapter_name="x")
    model.load_adapter(parents["y"], adapter_name="y")
    return model


def by_peft(parents: dict[str, Path], method: Method, density: float | None) -> dict[str, torch.Tensor]:
    """Return the tensors that PEFT makes, under the names that it saves them with."""
    from peft import get_peft_model_state_dict

    model = in_peft(parents)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density")
        model.base_model.add_weighted_adapter(
            list(WEIGHTS), list(WEIGHTS.values()), "made", combination_type=method.value, density=density
        )
    return dict(get_peft_model_state_dict(model, adapter_name="made", save_embedding_layers=False))


@pytest.mark.parametrize(
    ("method", "density"),
    [
        (Method.LINEAR, None),
        (Method.TIES, 0.3),
        (Method.TIES, 1.0),
        (Method.MAGNITUDE_PRUNE, 0.4),
    ],
)
def test_a_method_of_pefts_writes_pefts_tensors(
    parents: dict[str, Path], tmp_path: Path, method: Method, density: float | None
) -> None:
    expected = by_peft(parents, method, density)
    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    fuse(Recipe(method=method, parents=both, density=density), parents, tmp_path / "out", max_rank=None)
    found = tensors_in(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [Method.DARE_TIES, Method.DARE_LINEAR])
def test_dare_draws_as_peft_does_from_the_same_seed(parents: dict[str, Path], tmp_path: Path, method: Method) -> None:
    # By the part of `add_weighted_adapter` that merges: the whole draws a start for its new adapter first.
    model = in_peft(parents)
    torch.manual_seed(11)
    expected = {}
    for name in sorted(dense(parents["x"])):
        target = model.base_model.model.get_submodule(name)
        expected[name] = model.base_model._generalized_task_arithmetic_weighted_adapter(
            method.value, list(WEIGHTS), list(WEIGHTS.values()), target, 0.6, "total"
        )
    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    fuse(Recipe(method=method, parents=both, density=0.6, seed=11), parents, tmp_path / "out", max_rank=None)
    found = tensors_in(tmp_path / "out")
    for name, halves in expected.items():
        for half, tensor in zip("AB", halves, strict=True):
            prefix = f"base_model.model.{name}.lora_{half}.weight"
            torch.testing.assert_close(found[prefix], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["model.layers.1.q_proj", "q_proj", "xq_proj", "model.layers.1.q_proj.x"])
def test_patterns_match_as_in_peft(name: str) -> None:
    from peft.utils.other import get_pattern_key

    patterns = {r"layers\.0\.q_proj": 2, "q_proj": 3, r"model\.layers\.\d\..*": 4}
    config = {"r": 1, "rank_pattern": patterns}
    expected = patterns.get(get_pattern_key(list(patterns), name), 1)
    assert number_of(config, "rank_pattern", name, "r") == expected


@pytest.mark.parametrize("method", [Method.CAT, Method.SVD])
def test_cat_and_svd_add_what_pefts_add(parents: dict[str, Path], tmp_path: Path, method: Method) -> None:
    expected = by_peft(parents, method, None)
    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    fuse(Recipe(method=method, parents=both), parents, tmp_path / "out", max_rank=None)
    for module, delta in dense(tmp_path / "out").items():
        a, b = (expected[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(torch.from_numpy(delta).float(), b @ a, rtol=1e-4, atol=1e-4)


def made(parents: dict[str, Path], method: Method, out: Path, **settings: Any) -> Path:
    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    fuse(Recipe(method=method, parents=both, **settings), parents, out, max_rank=None)
    return out


@pytest.mark.parametrize("method", sorted(BY_FACTORS))
def test_the_same_recipe_writes_the_same_bytes(parents: dict[str, Path], tmp_path: Path, method: Method) -> None:
    one = made(parents, method, tmp_path / "one")
    torch.rand(7)  # what others draw in between changes nothing
    other = made(parents, method, tmp_path / "other")
    assert read_manifest(one).digest == read_manifest(other).digest
    files = [(folder / "adapter_model.safetensors").read_bytes() for folder in (one, other)]
    assert files[0] == files[1]


def test_another_seed_is_another_version_and_the_callers_generator_is_left_alone(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    digests = {
        read_manifest(made(parents, Method.DARE_LINEAR, tmp_path / f"seed{seed}", seed=seed)).digest
        for seed in (0, 1, 2)
    }
    assert torch.equal(torch.rand(3), expected)
    assert len(digests) == 3


def test_a_density_that_leaves_nothing_is_refused(parents: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CannotFuse) as caught:
        made(parents, Method.MAGNITUDE_PRUNE, tmp_path / "out", density=0.001)
    assert caught.value.code == "nothing_left"
    assert not (tmp_path / "out").exists()


def test_peft_loads_what_we_write(parents: dict[str, Path], tmp_path: Path) -> None:
    from peft import PeftModel

    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    fuse(Recipe(method=Method.CAT, parents=both), parents, tmp_path / "out", max_rank=None)
    base = Tiny()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload()
    after = merged.state_dict()
    for module, delta in dense(tmp_path / "out").items():
        added = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(added.double(), torch.from_numpy(delta), rtol=1e-4, atol=1e-4)
