"""Fusion against a dense NumPy oracle: every method, parents of every kind, every refusal."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest

from adapters.artifact import read_manifest
from adapters.fusion import CannotFuse, FusionReport, fuse
from adapters.fusion.methods import BY_FACTORS
from adapters.recipe import Method, Parent, Recipe
from tests.support.lora_folders import config_in, dense, module_names, tensors_in, write_lora, write_tensors

if TYPE_CHECKING:
    import torch

Weights = dict[str, float]
# Of float32: 2⁻²⁴, with room for a sum of some products.
CLOSE: dict[str, Any] = {"rtol": 2e-6, "atol": 2e-6}


@pytest.fixture(autouse=True, scope="module")
def _torch() -> None:
    """Import torch, which takes seconds, only where these tests run: every process imports every module of tests."""
    global torch
    import torch


def recipe_of(method: Method | str, weights: Weights, **settings: Any) -> Recipe:
    parents = tuple(Parent(version=version, weight=weight) for version, weight in weights.items())
    return Recipe(method=Method(method), parents=parents, **settings)


def made(
    method: Method | str, root: Path, weights: Weights, out: str = "out", max_rank: int | None = None, **settings: Any
) -> tuple[Path, FusionReport]:
    """Fuse the folders of `root` that `weights` names; return the new one and the report."""
    folders = {version: root / version for version in weights}
    report = fuse(recipe_of(method, weights, **settings), folders, root / out, max_rank=max_rank)
    return root / out, report


def refused(
    method: Method | str, root: Path, weights: Weights, max_rank: int | None = None, **settings: Any
) -> CannotFuse:
    with pytest.raises(CannotFuse) as caught:
        made(method, root, weights, max_rank=max_rank, **settings)
    assert caught.value.remedy
    assert not (root / "out").exists()
    return caught.value


def weighted(root: Path, weights: Weights) -> dict[str, numpy.ndarray]:
    """The oracle of `cat`: the sum of full deltas, a module that a parent lacks counting as zero."""
    total: dict[str, numpy.ndarray] = {}
    for version, weight in weights.items():
        for module, delta in dense(root / version).items():
            total[module] = total.get(module, 0) + weight * delta
    return total


def assert_close(found: dict[str, numpy.ndarray], expected: dict[str, numpy.ndarray], **tolerance: Any) -> None:
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        numpy.testing.assert_allclose(found[module], delta, **(CLOSE | tolerance), err_msg=module)


def relative(found: numpy.ndarray, expected: numpy.ndarray) -> float:
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with two like adapters, `x` and `y`."""
    write_lora(tmp_path / "x", 1)
    write_lora(tmp_path / "y", 2)
    return tmp_path


BOTH = {"x": 0.7, "y": 0.3}


# cat


@pytest.mark.parametrize("weights", [BOTH, {"x": 1.5, "y": -0.5}, {"x": 0.0, "y": 2.0}, {"x": 0.25}])
def test_cat_is_the_exact_weighted_sum(pair: Path, weights: Weights) -> None:
    folder, report = made("cat", pair, weights)
    assert_close(dense(folder), weighted(pair, weights))
    assert report.rank == 4 * len(weights)
    assert report.errors is not None
    assert report.errors.worst < 1e-7
    assert report.errors.modules == report.modules == 6


def test_cat_of_eight_parents_is_exact(tmp_path: Path) -> None:
    weights = {f"v{number}": (-1) ** number / (number + 1) for number in range(8)}
    for number, version in enumerate(weights):
        write_lora(tmp_path / version, number, rank=number + 1)
    folder, report = made("cat", tmp_path, weights)
    assert report.rank == 36
    assert_close(dense(folder), weighted(tmp_path, weights), rtol=1e-5, atol=1e-5)


def test_cat_leaves_the_bits_of_every_a(pair: Path) -> None:
    folder, _ = made("cat", pair, BOTH)
    for name, tensor in tensors_in(folder).items():
        if "lora_A" in name:
            assert torch.equal(tensor, torch.cat([tensors_in(pair / version)[name] for version in BOTH]))


@pytest.mark.parametrize(
    ("of_x", "of_y"),
    [
        ({"rank": 2, "alpha": 3}, {"rank": 5, "alpha": 20}),
        ({"use_rslora": True}, {}),
        ({"use_rslora": True, "rank": 3}, {"use_rslora": True, "alpha": 1}),
        ({"ranks": {"q_proj": 2, "down_proj": 6}}, {"alpha_pattern": {"v_proj": 32}}),
        ({"ranks": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True}, {"rank": 1}),
        ({"targets": ("q_proj",)}, {"targets": ("v_proj", "down_proj")}),
        ({"targets": ("q_proj", "v_proj")}, {"targets": ("v_proj",), "rank": 2}),
        ({"dtype": "float64"}, {"dtype": "float16"}),
    ],
    ids=[
        "rank and alpha",
        "one rslora",
        "two rslora",
        "patterns",
        "patterns and rslora",
        "disjoint",
        "partly",
        "dtypes",
    ],
)
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_parents_of_different_make_sum_exactly(
    tmp_path: Path, of_x: dict[str, Any], of_y: dict[str, Any], method: str
) -> None:
    write_lora(tmp_path / "x", 1, **of_x)
    write_lora(tmp_path / "y", 2, **of_y)
    settings: dict[str, Any] = {"rank": 64} if method == "svd" else {}
    folder, report = made(method, tmp_path, BOTH, **settings)
    assert_close(dense(folder), weighted(tmp_path, BOTH), rtol=1e-5, atol=1e-5)
    ranks = {tensor.shape[0] for name, tensor in tensors_in(folder).items() if "lora_A" in name}
    assert ranks == {report.rank}, "engines and PEFT take every module at the rank of the config"


def test_a_parents_missing_modules_are_told_of(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1, targets=("q_proj", "v_proj"))
    write_lora(tmp_path / "y", 2, targets=("v_proj",))
    folder, report = made("cat", tmp_path, BOTH)
    assert any("`y` changes 2 of the 4 modules" in warning for warning in report.warnings)
    assert config_in(folder)["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("float16", "float16", "float16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "float32"),
        ("float16", "float32", "float32"),
        ("bfloat16", "float64", "float64"),
    ],
)
def test_the_result_has_the_widest_dtype(tmp_path: Path, one: str, other: str, expected: str) -> None:
    write_lora(tmp_path / "x", 1, dtype=one)
    write_lora(tmp_path / "y", 2, dtype=other)
    folder, report = made("cat", tmp_path, BOTH)
    assert {str(tensor.dtype) for tensor in tensors_in(folder).values()} == {f"torch.{expected}"}
    assert report.dtype == expected
    assert report.errors is not None
    assert report.errors.worst < 4 * torch.finfo(getattr(torch, expected)).eps


# svd


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_svd_is_the_best_of_its_rank_and_says_how_good(pair: Path, rank: int) -> None:
    folder, report = made("svd", pair, BOTH, rank=rank)
    errors = {}
    for module, delta in weighted(pair, BOTH).items():
        u, s, vh = numpy.linalg.svd(delta)
        best = (u[:, : len(s)][:, :rank] * s[:rank]) @ vh[: len(s)][:rank]
        numpy.testing.assert_allclose(dense(folder)[module], best, rtol=1e-4, atol=1e-5)
        errors[module] = relative(best, delta)
    assert report.rank == rank
    assert report.errors is not None
    assert report.errors.worst == pytest.approx(max(errors.values()), abs=1e-6)
    assert report.errors.median == pytest.approx(numpy.median(list(errors.values())), abs=1e-6)
    assert errors[report.errors.worst_module] == max(errors.values())


def test_svd_without_a_rank_takes_the_largest_of_the_parents(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1, rank=2)
    write_lora(tmp_path / "y", 2, rank=5)
    assert made("svd", tmp_path, BOTH)[1].rank == 5


def test_svd_at_more_than_the_ranks_together_is_no_larger_than_cat(pair: Path) -> None:
    assert made("svd", pair, BOTH, rank=100)[1].rank == 8


# slerp


def test_slerp_goes_along_the_great_circle_of_each_module(pair: Path) -> None:
    folder, report = made("slerp", pair, {"x": 1.0, "y": 3.0})
    first, second, found = dense(pair / "x"), dense(pair / "y"), dense(folder)
    t = 0.75
    for module, one in first.items():
        other = second[module]
        angle = math.acos((one * other).sum() / (numpy.linalg.norm(one) * numpy.linalg.norm(other)))
        expected = (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)
        numpy.testing.assert_allclose(found[module], expected, rtol=1e-5, atol=1e-5)
    assert report.rank == 8


def test_slerp_of_equal_lengths_keeps_the_length_where_a_sum_shrinks(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1)
    tensors = tensors_in(tmp_path / "x")
    for name, tensor in tensors.items():
        if "lora_B" in name:  # turned, not longer: another order of the rows
            tensors[name] = tensor.flip(0).contiguous()
    write_tensors(tmp_path / "y", tensors, config_in(tmp_path / "x"))
    round_way = dense(made("slerp", tmp_path, {"x": 0.5, "y": 0.5}, out="slerp")[0])
    straight = dense(made("cat", tmp_path, {"x": 0.5, "y": 0.5}, out="cat")[0])
    for module, delta in dense(tmp_path / "x").items():
        assert numpy.linalg.norm(round_way[module]) == pytest.approx(numpy.linalg.norm(delta), rel=1e-5)
        assert numpy.linalg.norm(straight[module]) < 0.95 * numpy.linalg.norm(delta)


@pytest.mark.parametrize(("weights", "same"), [({"x": 2.0, "y": 0.0}, "x"), ({"x": 0.0, "y": 1.0}, "y")])
def test_slerp_ends_at_its_parents(pair: Path, weights: Weights, same: str) -> None:
    folder, _ = made("slerp", pair, weights)
    assert_close(dense(folder), dense(pair / same))


@pytest.mark.parametrize("factor", [3.0, -2.0, 0.0])
def test_slerp_of_parents_on_a_line_is_the_plain_mean(tmp_path: Path, factor: float) -> None:
    write_lora(tmp_path / "x", 1)
    made("scale", tmp_path, {"x": factor}, out="y")
    folder, _ = made("slerp", tmp_path, {"x": 0.75, "y": 0.25})
    expected = {module: (0.75 + 0.25 * factor) * delta for module, delta in dense(tmp_path / "x").items()}
    assert_close(dense(folder), expected)


def test_slerp_with_a_rank_is_cut_to_it(pair: Path) -> None:
    whole = dense(made("slerp", pair, BOTH, out="whole")[0])
    folder, report = made("slerp", pair, BOTH, rank=3)
    for module, delta in whole.items():
        u, s, vh = numpy.linalg.svd(delta)
        numpy.testing.assert_allclose(dense(folder)[module], (u[:, :3] * s[:3]) @ vh[:3], rtol=1e-4, atol=1e-5)
    assert report.rank == 3


# scale


def test_scale_by_1_is_the_same_version(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1, dtype="bfloat16", use_rslora=True, ranks={"q_proj": 2})
    folder, report = made("scale", tmp_path, {"x": 1.0})
    before, after = tensors_in(tmp_path / "x"), tensors_in(folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_manifest(folder).digest == read_manifest(tmp_path / "x").digest
    assert report.errors is not None
    assert report.errors.worst < 1e-14


def test_scale_by_0_adds_nothing_and_keeps_alpha(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1)
    folder, report = made("scale", tmp_path, {"x": 0.0})
    for name, tensor in tensors_in(folder).items():
        if "lora_B" in name:
            assert not tensor.any()
            assert not torch.signbit(tensor).any()
    assert config_in(folder)["lora_alpha"] == 8
    assert report.errors is None


@pytest.mark.parametrize("factor", [0.5, 1.7, -1.0])
def test_scale_multiplies_the_delta(tmp_path: Path, factor: float) -> None:
    write_lora(tmp_path / "x", 1, ranks={"q_proj": 2}, alpha_pattern={"v_proj": 3})
    folder, report = made("scale", tmp_path, {"x": factor})
    assert_close(dense(folder), {module: factor * delta for module, delta in dense(tmp_path / "x").items()})
    assert any("subtracted" in warning for warning in report.warnings) == (factor < 0)


# what comes out


@pytest.mark.parametrize("method", [method for method in Method if method not in BY_FACTORS])
def test_the_same_recipe_writes_the_same_bytes(pair: Path, method: Method) -> None:
    weights = {"x": 0.7} if method is Method.SCALE else BOTH
    state = torch.random.get_rng_state()
    one, _ = made(method, pair, weights, out="one")
    torch.manual_seed(99)  # what others draw in between changes nothing
    other, _ = made(method, pair, weights, out="other")
    torch.random.set_rng_state(state)
    assert read_manifest(one).digest == read_manifest(other).digest
    assert (one / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()


def test_the_order_of_parents_does_not_change_a_sum(pair: Path) -> None:
    one = dense(made("cat", pair, BOTH, out="one")[0])
    assert_close(dense(made("cat", pair, {"y": 0.3, "x": 0.7}, out="other")[0]), one)


def test_the_result_is_a_plain_lora_as_peft_saves_it(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1, use_rslora=True, ranks={"q_proj": 2}, alpha_pattern={"q_proj": 3})
    folder, report = made("cat", tmp_path, {"x": 0.5})
    config = config_in(folder)
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (report.rank, report.rank, False)
    assert "rank_pattern" not in config
    assert "alpha_pattern" not in config
    assert config["base_model_name_or_path"] == "base"
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert report.size_bytes == (folder / "adapter_model.safetensors").stat().st_size
    expected = {
        f"base_model.model.{module}.lora_{half}.weight"
        for module in module_names(("q_proj", "v_proj", "down_proj"))
        for half in "AB"
    }
    assert tensors_in(folder).keys() == expected


@pytest.mark.parametrize("given", [{"layers_to_transform": [0, 1]}, {"target_modules": r".*\.(q|v|down)_proj"}])
def test_targets_that_a_list_cannot_say_are_written_in_full(tmp_path: Path, given: dict[str, Any]) -> None:
    write_lora(tmp_path / "x", 1, **given)
    folder, _ = made("cat", tmp_path, {"x": 0.5})
    assert config_in(folder)["target_modules"] == sorted(module_names(("q_proj", "v_proj", "down_proj")))


def test_names_with_pefts_own_adapter_name_are_understood(tmp_path: Path) -> None:
    write_lora(tmp_path / "plain", 1)
    tensors = {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): tensor
        for name, tensor in tensors_in(tmp_path / "plain").items()
    }
    write_tensors(tmp_path / "x", tensors, config_in(tmp_path / "plain"))
    folder, _ = made("cat", tmp_path, {"x": 1.0})
    assert_close(dense(folder), dense(tmp_path / "plain"))


def test_progress_counts_every_module(pair: Path) -> None:
    steps: list[tuple[int, int]] = []
    folders = {"x": pair / "x", "y": pair / "y"}
    fuse(recipe_of("cat", BOTH), folders, pair / "out", max_rank=None, progress=lambda *step: steps.append(step))
    assert steps == [(number, 6) for number in range(1, 7)]


# refusals


def test_a_rank_past_the_engines_is_refused_with_the_price_of_what_fits(pair: Path) -> None:
    found = refused("cat", pair, BOTH, max_rank=6)
    assert found.code == "max_rank"
    assert "rank 8" in str(found)
    assert "6 at most" in str(found)
    report = made("svd", pair, BOTH, rank=6, max_rank=6)[1]
    assert f"`svd` with rank 6; its relative error would be {report.errors}" in found.remedy


def test_a_slerp_past_the_engines_rank_is_offered_at_a_rank_that_fits(pair: Path) -> None:
    found = refused("slerp", pair, BOTH, max_rank=6)
    assert found.code == "max_rank"
    assert "`slerp` with rank 6" in found.remedy


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "dare_linear", "magnitude_prune"])
def test_methods_on_factors_refuse_unequal_ranks(tmp_path: Path, method: str) -> None:
    write_lora(tmp_path / "x", 1, rank=4)
    write_lora(tmp_path / "y", 2, rank=6)
    found = refused(method, tmp_path, BOTH)
    assert found.code == "ranks"
    assert "`x` 4, `y` 6" in str(found)
    assert "`cat`" in found.remedy


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"use_dora": True}, "dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "tokens"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora"),
        ({"use_qalora": True}, "qalora"),
        ({"init_lora_weights": "pissa"}, "changed_base"),
        ({"init_lora_weights": "loftq"}, "changed_base"),
    ],
)
@pytest.mark.parametrize("method", ["cat", "scale"])
def test_what_is_no_plain_lora_is_refused(tmp_path: Path, config: dict[str, Any], code: str, method: str) -> None:
    write_lora(tmp_path / "x", 1, **config)
    found = refused(method, tmp_path, {"x": 0.5})
    assert found.code == code
    assert "`x`" in str(found)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva"])
def test_ways_to_begin_that_leave_the_base_alone_are_taken(tmp_path: Path, start: bool | str) -> None:
    write_lora(tmp_path / "x", 1, init_lora_weights=start)
    assert made("cat", tmp_path, {"x": 0.5})[1].modules == 6


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("base_model.model.model.layers.0.q_proj.lora_magnitude_vector", "dora"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embedding"),
        ("base_model.model.lm_head.weight", "whole_tensor"),
        ("base_model.model.model.embed_tokens.weight", "whole_tensor"),
        ("base_model.model.model.layers.0.q_proj.bias", "whole_tensor"),
        ("base_model.model.model.layers.0.o_proj.lora_A.weight", "pair"),
        ("base_model.model.model.layers.0.q_proj.lora_A.default.weight", "twice"),
    ],
)
def test_a_tensor_that_a_fusion_would_lose_is_refused_by_name(tmp_path: Path, name: str, code: str) -> None:
    write_lora(tmp_path / "x", 1, more={name: torch.ones(4, 12)})
    found = refused("cat", tmp_path, {"x": 0.5})
    assert found.code == code


def test_an_lm_head_pair_is_fused_like_any_other(tmp_path: Path) -> None:
    name = "base_model.model.lm_head.lora_{}.weight"
    write_lora(tmp_path / "x", 1, more={name.format("A"): torch.rand(4, 12), name.format("B"): torch.rand(30, 4)})
    write_lora(tmp_path / "y", 2)
    assert_close(dense(made("cat", tmp_path, BOTH)[0]), weighted(tmp_path, BOTH))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(pair: Path, value: float) -> None:
    tensors = tensors_in(pair / "y")
    name = "base_model.model.model.layers.1.v_proj.lora_B.weight"
    tensors[name][3, 2] = value
    write_tensors(pair / "y", tensors, config_in(pair / "y"))
    found = refused("cat", pair, BOTH)
    assert found.code == "not_finite"
    assert name in str(found)


def test_a_dtype_that_is_no_float_is_refused(pair: Path) -> None:
    tensors = {name: tensor.to(torch.int8) for name, tensor in tensors_in(pair / "y").items()}
    write_tensors(pair / "y", tensors, config_in(pair / "y"))
    assert refused("cat", pair, BOTH).code == "dtype"


def test_a_rank_that_the_config_does_not_know_is_refused(pair: Path) -> None:
    write_tensors(pair / "y", tensors_in(pair / "y"), {**config_in(pair / "y"), "r": 8})
    assert refused("cat", pair, BOTH).code == "rank"


@pytest.mark.parametrize("patterns", [{"q_proj(": 4}, {"q_proj": "four"}, ["q_proj"]])
def test_patterns_that_cannot_be_read_are_refused(pair: Path, patterns: Any) -> None:
    write_tensors(pair / "y", tensors_in(pair / "y"), {**config_in(pair / "y"), "alpha_pattern": patterns})
    assert refused("cat", pair, BOTH).code == "pattern"


def test_parents_of_different_bases_are_refused_by_shape(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1)
    write_lora(tmp_path / "y", 2)
    tensors = tensors_in(tmp_path / "y")
    name = "base_model.model.model.layers.1.v_proj.lora_B.weight"
    tensors[name] = torch.rand(9, 4)
    write_tensors(tmp_path / "y", tensors, config_in(tmp_path / "y"))
    found = refused("cat", tmp_path, BOTH)
    assert found.code == "shapes"
    assert "12→6 in `x` and 12→9 in `y`" in str(found)


def test_bases_of_other_names_are_a_warning(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1)
    write_lora(tmp_path / "y", 2, base_model_name_or_path="elsewhere/base")
    _, report = made("cat", tmp_path, BOTH)
    assert any("`base` (`x`), `elsewhere/base` (`y`)" in warning for warning in report.warnings)


def test_values_past_a_short_floats_range_are_refused(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1, dtype="float16")
    assert refused("cat", tmp_path, {"x": 1e6}).code == "overflow"
    assert refused("scale", tmp_path, {"x": 1e6}).code == "overflow"


def test_a_result_that_adds_nothing_by_accident_is_refused(tmp_path: Path) -> None:
    write_lora(tmp_path / "x", 1)
    made("scale", tmp_path, {"x": 0.0}, out="empty")
    assert refused("cat", tmp_path, {"empty": 1.0}).code == "nothing_left"
    made("scale", tmp_path, {"x": 3.0}, out="threefold")
    assert refused("cat", tmp_path, {"x": 0.3, "threefold": -0.1}).code == "nothing_left"


def test_a_parent_without_a_folder_or_with_none_of_an_adapter_is_refused(pair: Path) -> None:
    with pytest.raises(CannotFuse, match="`y` has no folder"):
        fuse(recipe_of("cat", BOTH), {"x": pair / "x"}, pair / "out", max_rank=None)
    (pair / "y" / "adapter_model.safetensors").unlink()
    assert refused("cat", pair, BOTH).code == "unreadable"


def test_nothing_that_exists_is_written_over(pair: Path) -> None:
    folders = {"x": pair / "x", "y": pair / "y"}
    before = tensors_in(pair / "x")
    for taken in (pair / "x", pair, pair / "x" / "adapter_config.json"):
        with pytest.raises(CannotFuse) as caught:
            fuse(recipe_of("cat", BOTH), folders, taken, max_rank=None)
        assert caught.value.code == "out"
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_in(pair / "x").items())
