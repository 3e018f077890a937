"""Fusion as real vLLM serves it: what was fused is what answers, measured in log-probabilities.

The independent peer is transformers: the base with the sum of the parents' full deltas added to
its weights by NumPy, from the parents' files alone. Both compute in float32.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
from safetensors.numpy import load_file

from adapters.fusion import FusionReport, fuse
from adapters.recipe import Method, Parent, Recipe
from tests.support.tiny_adapters import random_adapter

pytestmark = pytest.mark.real

WEIGHTS = {"left": 0.7, "right": -0.4}
# In nats, for each of 2 × 47 tokens. Measured here, worst token: vLLM against itself 0; against transformers, which
# sums in another order in float32, 1.3e-5 on the bare base, 3e-5 to 5e-5 under `cat`, and 1.6e-4 under the largest
# deltas (`dare_linear`). Each adapter moves a token by 2 in the median.
TOLERANCE = 5e-4
SCALED = {"nothing": 0.0, "half": 0.5, "itself": 1.0}

Deltas = dict[str, numpy.ndarray]


@pytest.fixture(scope="module")
def parents(tiny_base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parents")
    return {
        name: random_adapter(tiny_base_path, root / name, seed=seed, rank=8, scale=0.4)
        for seed, name in enumerate(WEIGHTS, 500)
    }


@pytest.fixture(scope="module")
def fused(parents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, FusionReport]]:
    """One version of each method, and some dimmed ones, by name."""
    root = tmp_path_factory.mktemp("fused")
    both = tuple(Parent(version=name, weight=weight) for name, weight in WEIGHTS.items())
    positive = tuple(Parent(version=name, weight=abs(weight)) for name, weight in WEIGHTS.items())
    recipes = {
        method.value: Recipe(method=method, parents=positive if method is Method.SLERP else both)
        for method in Method
        if method is not Method.SCALE
    }
    recipes |= {
        name: Recipe(method=Method.SCALE, parents=(Parent(version="left", weight=factor),))
        for name, factor in SCALED.items()
    }
    return {name: (root / name, fuse(recipe, parents, root / name, max_rank=16)) for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def served(
    engine: Path, parents: dict[str, Path], fused: dict[str, tuple[Path, FusionReport]]
) -> dict[str, numpy.ndarray]:
    """The log-probabilities that vLLM gives every token under the base, each parent and each fused version."""
    folders = {**parents, **{name: folder for name, (folder, _) in fused.items()}}
    transport = httpx.HTTPTransport(uds=str(engine))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=120) as http:
        base = http.get("/v1/models").json()["data"][0]["id"]
        scores = {"base": scored(http, base), "base again": scored(http, base)}
        for name, folder in folders.items():
            load(http, f"fusion-{name}", folder)
            scores[name] = scored(http, f"fusion-{name}")
            http.post("/v1/unload_lora_adapter", json={"lora_name": f"fusion-{name}"}).raise_for_status()
    return scores


def load(http: httpx.Client, name: str, folder: Path) -> None:
    reply = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
    assert reply.status_code == 200, reply.text


def texts() -> list[list[int]]:
    return numpy.random.default_rng(7).integers(100, 40_000, size=(2, 48)).tolist()  # type: ignore[no-any-return]


def scored(http: httpx.Client, model: str) -> numpy.ndarray:
    """Return the log-probability of every token but the first of each text, under `model` in vLLM."""
    found = []
    for ids in texts():
        body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        reply = http.post("/v1/completions", json=body)
        assert reply.status_code == 200, reply.text
        tokens = reply.json()["choices"][0]["prompt_logprobs"][1:]
        found += [token[str(token_id)]["logprob"] for token, token_id in zip(tokens, ids[1:], strict=True)]
    return numpy.array(found)


def deltas(folder: Path) -> Deltas:
    """Return what an adapter adds to each module, as full matrices in float64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (config["lora_alpha"] / config["r"])
        * tensors[name.replace("lora_A", "lora_B")].astype(numpy.float64)
        @ a.astype(numpy.float64)
        for name, a in tensors.items()
        if "lora_A" in name
    }


class Merged:
    """The base in transformers, with deltas added to its weights for one scoring at a time."""

    def __init__(self, base: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    def scored(self, added: Mapping[str, numpy.ndarray]) -> numpy.ndarray:
        """Return the same log-probabilities as `scored`, of the base plus `added`."""
        import torch

        weights = {name: self._model.get_submodule(name).weight for name in added}
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_((kept[name].double() + torch.from_numpy(added[name])).float())
            ids = torch.tensor(texts())
            all_of_them = self._model(ids).logits[:, :-1].double().log_softmax(-1)
            found = all_of_them.gather(-1, ids[:, 1:, None]).flatten().numpy()
            for name, weight in weights.items():
                weight.copy_(kept[name])
        return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def merged(tiny_base_path: Path) -> Merged:
    return Merged(tiny_base_path)


def farthest(one: numpy.ndarray, other: numpy.ndarray) -> float:
    return float(abs(one - other).max())


def typical(one: numpy.ndarray, other: numpy.ndarray) -> float:
    return float(numpy.median(abs(one - other)))


def test_the_measure_is_quiet_and_the_adapters_are_loud(served: dict[str, numpy.ndarray], merged: Merged) -> None:
    noise = farthest(served["base"], merged.scored({}))
    print(f"vLLM against itself: {farthest(served['base'], served['base again']):.1e} nats at most")
    print(f"vLLM against transformers, base: {noise:.1e} nats at most")
    assert farthest(served["base"], served["base again"]) < TOLERANCE
    assert noise < TOLERANCE
    for name in (*WEIGHTS, "cat"):
        print(f"`{name}` against the base: {typical(served[name], served['base']):.2f} nats in the median")
        assert typical(served[name], served["base"]) > 500 * TOLERANCE


def test_the_cat_fusion_equals_the_base_with_the_weighted_sum_merged_in(
    served: dict[str, numpy.ndarray], parents: dict[str, Path], merged: Merged
) -> None:
    of_parents = {name: deltas(folder) for name, folder in parents.items()}
    total = {
        module: numpy.sum([weight * of_parents[name][module] for name, weight in WEIGHTS.items()], axis=0)
        for module in of_parents["left"]
    }
    distance = farthest(served["cat"], merged.scored(total))
    print(f"cat: {distance:.1e} nats at most; tolerance {TOLERANCE:.0e}")
    assert distance < TOLERANCE
    # Had a weight, a sign or a scaling been lost, this would show it.
    half = {module: delta / 2 for module, delta in total.items()}
    assert farthest(served["cat"], merged.scored(half)) > 100 * TOLERANCE


def test_scale_0_is_the_base_and_scale_1_the_original(
    served: dict[str, numpy.ndarray], parents: dict[str, Path], merged: Merged
) -> None:
    print(f"scale 0 against the base: {farthest(served['nothing'], served['base']):.1e} nats at most")
    print(f"scale 1 against the original: {farthest(served['itself'], served['left']):.1e} nats at most")
    assert farthest(served["nothing"], served["base"]) < TOLERANCE
    assert farthest(served["itself"], served["left"]) < TOLERANCE
    half = {module: delta / 2 for module, delta in deltas(parents["left"]).items()}
    assert farthest(served["half"], merged.scored(half)) < TOLERANCE


@pytest.mark.parametrize("method", [method.value for method in Method if method is not Method.SCALE])
def test_a_version_of_each_method_serves_what_was_written(
    method: str, served: dict[str, numpy.ndarray], fused: dict[str, tuple[Path, FusionReport]], merged: Merged
) -> None:
    folder, report = fused[method]
    distance = farthest(served[method], merged.scored(deltas(folder)))
    print(f"{method}: rank {report.rank}, served within {distance:.1e} nats; delta's error: {report.errors}")
    assert distance < TOLERANCE
    assert typical(served[method], served["base"]) > 100 * TOLERANCE
