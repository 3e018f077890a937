"""Drift on real vLLM: nothing where nothing differs, what transformers says elsewhere, and more with more adapter.

The base is the demo's and its adapter really trained, both kept in the demo's cache. The independent peer is
transformers with PEFT, which computes the same log-probabilities in float32 from the same ids.
"""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest

from adapters.fusion import fuse
from adapters.recipe import Method, Parent, Recipe
from evaluators.drift.divergence import TokenLogprobs, estimate, lower_bound
from evaluators.observation import Drift, NoDrift
from gateway.demo.adapters import demo_adapters
from gateway.demo.base_model import demo_base
from gateway.evaluate.engines import Engine, EngineBounds, EvaluatorEngines
from gateway.evaluate.scorer import Scorer, ScoringBounds, ScoringInput
from gateway.settings import load
from tests.support.vllm_engines import running_vllm

pytestmark = pytest.mark.real

STYLE = "support"
SCALES = {"support-0": 0.0, "support-25": 0.25, "support-50": 0.5, "support-100": 1.0}
FULL = "support-100"
QUESTIONS = ("How do I reset my password?", "What is the capital of France?", "How long does a refund take?")
TOKENS = 24
TOP = 20  # vLLM's own maximum by default
# Nats, of a mean over a reply's tokens. Both sides compute in float32 and sum in another order: measured here, the
# largest difference of a reply is 1e-5.
TOLERANCE = 1e-3
# The same request twice: nothing of a model, only of sums. Measured: exactly 0.
NUMERICAL_NOISE = 1e-4


class OneProcess:
    """Turns where there is one evaluator."""

    def take(self, _name: str, _holder: str, _seconds: float) -> bool:
        return True

    def release(self, _name: str, _holder: str) -> None:
        return


@pytest.fixture(scope="module")
def base() -> Path:
    return demo_base(load().cache_folder(), progress=print)


@pytest.fixture(scope="module")
def versions(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained adapter, and the same turned down, by name."""
    trained = demo_adapters(base, load().cache_folder(), [STYLE], progress=print)[STYLE]
    root = tmp_path_factory.mktemp("scaled")
    for name, factor in SCALES.items():
        recipe = Recipe(method=Method.SCALE, parents=(Parent(version=STYLE, weight=factor),))
        fuse(recipe, {STYLE: trained}, root / name, max_rank=16)
    return {name: root / name for name in SCALES}


@pytest.fixture(scope="module")
def vllm(base: Path, versions: dict[str, Path]) -> Iterator[Path]:
    """The unix socket of a vLLM that holds them all."""
    with running_vllm(base, flags=("--served-model-name=base", "--max-model-len=512")) as uds:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", timeout=60) as http:
            for name, folder in versions.items():
                reply = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
                assert reply.status_code == 200, reply.text
        yield uds


@pytest.fixture(scope="module")
def replies(vllm: Path) -> dict[str, list[ScoringInput]]:
    """What the base and the adapter answer at temperature 1, as ids."""

    def answer(http: httpx.Client, model: str, question: str) -> ScoringInput:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": TOKENS,
            "seed": 11,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "return_token_ids": True,
        }
        told = http.post("/v1/chat/completions", json=body).raise_for_status().json()
        prompt, reply = told["prompt_token_ids"], told["choices"][0]["token_ids"]
        return ScoringInput(
            prompt=tuple(prompt), reply=tuple(reply), temperature=1.0, text=told["choices"][0]["message"]["content"]
        )

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(vllm)), base_url="http://engine", timeout=120) as http:
        return {model: [answer(http, model, question) for question in QUESTIONS] for model in ("base", FULL)}


@asynccontextmanager
async def scoring(uds: Path, top: int = TOP) -> AsyncIterator[tuple[Scorer, Engine]]:
    engines = EvaluatorEngines([f"unix://{uds}"], EngineBounds(), time.monotonic)
    try:
        (engine,) = engines
        await engine.look()
        yield Scorer(OneProcess(), "test", ScoringBounds(top=top)), engine
    finally:
        await engines.close()


def drifts(uds: Path, given: Sequence[ScoringInput], served: str, other: str) -> list[Drift]:
    async def work() -> list[Drift | NoDrift]:
        async with scoring(uds) as (scorer, engine):
            return [(await scorer.drift(engine, each, served, other))[0] for each in given]

    found = asyncio.run(work())
    measured = [each for each in found if isinstance(each, Drift)]
    assert len(measured) == len(found), found
    return measured


@pytest.fixture(scope="module")
def peer(base: Path, versions: dict[str, Path], replies: dict[str, list[ScoringInput]]) -> dict[str, list[Any]]:
    """The log-probabilities of every token of the vocabulary at every position of the replies, by transformers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, versions[FULL]).eval()

    def logprobs(each: ScoringInput) -> Any:
        ids = torch.tensor([[*each.prompt, *each.reply]])
        logits = adapted(ids).logits[0, len(each.prompt) - 1 : -1]
        return torch.log_softmax(logits.double(), dim=-1).numpy()

    with torch.no_grad():
        under_adapter = [logprobs(each) for each in replies["base"]]
        with adapted.disable_adapter():
            under_base = [logprobs(each) for each in replies["base"]]
    return {"base": under_base, FULL: under_adapter}


def test_the_same_version_twice_has_no_drift(vllm: Path, replies: dict[str, list[ScoringInput]]) -> None:
    found = drifts(vllm, replies["base"], "base", "base")
    print("KL(base‖base):", [each.kl for each in found], "log-ratio:", [each.log_ratio for each in found])
    assert all(each.kl is not None and abs(each.kl) < NUMERICAL_NOISE for each in found)
    assert max(each.kl_bound for each in found) < NUMERICAL_NOISE
    assert max(abs(each.log_ratio) for each in found) < NUMERICAL_NOISE
    assert {each.moved_share for each in found} == {0.0}
    assert {each.top1_agreement for each in found} == {1.0}


def test_a_trained_adapters_drift_is_what_transformers_gives_from_the_same_ids(
    vllm: Path, replies: dict[str, list[ScoringInput]], peer: dict[str, list[Any]]
) -> None:
    found = drifts(vllm, replies["base"], "base", FULL)
    for drift, each, p, q in zip(found, replies["base"], peer["base"], peer[FULL], strict=True):
        at = numpy.arange(len(each.reply))
        ratio = float(numpy.mean(p[at, each.reply] - q[at, each.reply]))
        whole = float(numpy.mean((numpy.exp(p) * (p - q)).sum(axis=1)))
        sides = [(told(one, token), told(two, token), token) for one, two, token in zip(p, q, each.reply, strict=True)]
        bound = statistics.fmean(lower_bound(one, two) for one, two, _ in sides)
        kl = statistics.fmean(estimate(one, two, token) for one, two, token in sides)
        print(
            f"log-ratio {drift.log_ratio:.5f} (peer {ratio:.5f}), KL at least {drift.kl_bound:.5f} (peer {bound:.5f}), "
            f"estimated {drift.kl:.5f} (peer {kl:.5f}), whole {whole:.5f}"
        )
        assert drift.log_ratio == pytest.approx(ratio, abs=TOLERANCE)
        assert drift.kl == pytest.approx(kl, abs=TOLERANCE)
        assert drift.kl_bound == pytest.approx(bound, abs=TOLERANCE)
        assert 0.75 * whole < drift.kl_bound <= whole + TOLERANCE
        assert drift.n_tokens == len(each.reply)
        assert each.text is not None
        assert drift.n_bytes == len(each.text.encode()), "the tokens spell the text"
    assert statistics.fmean(each.kl_bound for each in found) > 0.1


def told(logprobs: Any, token: int) -> TokenLogprobs:
    """What an engine tells of one position: its likeliest tokens, and the reply's."""
    likeliest = frozenset(int(each) for each in numpy.argpartition(-logprobs, TOP)[:TOP])
    return TokenLogprobs({each: float(logprobs[each]) for each in likeliest | {token}}, likeliest)


def test_an_engine_that_allows_fewer_log_probabilities_is_asked_for_as_many_as_it_allows(
    vllm: Path, replies: dict[str, list[ScoringInput]]
) -> None:
    async def work() -> list[Drift | NoDrift]:
        async with scoring(vllm, top=TOP + 10) as (scorer, engine):
            return [(await scorer.drift(engine, each, "base", FULL))[0] for each in replies["base"][:2]]

    assert asyncio.run(work()) == drifts(vllm, replies["base"][:2], "base", FULL)


def test_more_of_an_adapter_is_more_drift(vllm: Path, replies: dict[str, list[ScoringInput]]) -> None:
    by_scale = {
        factor: statistics.fmean(each.kl_bound for each in drifts(vllm, replies["base"], "base", name))
        for name, factor in SCALES.items()
    }
    print("KL(base‖scaled):", {factor: round(kl, 5) for factor, kl in by_scale.items()})
    assert by_scale[0.0] < NUMERICAL_NOISE
    assert by_scale[0.0] < by_scale[0.25] < by_scale[0.5] < by_scale[1.0]


def test_the_tokens_that_moved_most_are_where_the_adapters_voice_begins(
    vllm: Path, replies: dict[str, list[ScoringInput]]
) -> None:
    found = drifts(vllm, replies[FULL], FULL, "base")
    for question, drift in zip(QUESTIONS, found, strict=True):
        print(question, f"(KL {drift.kl:.3f} nats a token, {drift.moved_share:.0%} moved)")
        for text, at, served, other in drift.top_moved:
            print(f"    {text!r} at {at}: adapter {math.exp(served):.1%}, base {math.exp(other):.3%}")
    first = [(text, at) for drift in found for text, at, *_ in drift.top_moved if at == 0]
    assert len(first) == len(QUESTIONS)  # its replies begin `Thank you for reaching out!`, and the base's do not
    assert {text for text, _ in first} == {"Thank"}


def test_texts_give_the_ids_that_the_engine_drew(vllm: Path, replies: dict[str, list[ScoringInput]]) -> None:
    async def work() -> None:
        async with scoring(vllm) as (scorer, engine):
            ids = await scorer.ids_of(engine, "base", "The capital of France is Paris.")
            assert isinstance(ids, tuple)
            assert len(ids) == 7
            chat = {"model": "base", "messages": [{"role": "user", "content": QUESTIONS[0]}]}
            assert await scorer.ids_of_prompt(engine, chat) == replies["base"][0].prompt

    asyncio.run(work())
