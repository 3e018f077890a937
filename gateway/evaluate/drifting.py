"""Drift of a pair: which tokens are scored, under which name, and when they cannot be.

The direction of the pair's control is measured on the control's tokens, the other on the other's, whichever of
them the caller got. One of the two is drawn by a coin: its mean over pairs is that of both, and costs half of it.
Tool calls and reasoning cannot be turned back into the tokens that were drawn, so such an answer of the
caller's has no direction; the replay's ids come from the engine and always have.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from evaluators.drift.token_kl import VERSION
from evaluators.observation import Drift, Kind, NoDrift, Observation, Prompt
from evaluators.preference.choosing import is_chosen
from gateway.evaluate.engines import Engine
from gateway.evaluate.scoring import Given, Scorer
from gateway.records.sample import Sample

_Measuring = Callable[[], Awaitable[tuple[Drift | NoDrift, int]]]
# The salt of the coin by which one answer is drawn: it depends on nothing that either answer says.
_COIN: Final = "drift"
# Where vLLM tells token ids.
_TELLING: Final = ("/v1/chat/completions", "/v1/completions")
# A quote in a text is escaped in JSON, so this is never a caller's word.
_REASONING: Final = re.compile(rb'"reasoning(?:_content)?":\s*"[^"]')
# What a chat template may make of a request and `/tokenize` does not take.
_NOT_TOKENISED: Final = ("documents", "reasoning_effort", "suffix", "truncate_prompt_tokens")
_TOKENISED: Final[tuple[str, ...]] = (
    "messages",
    "tools",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "mm_processor_kwargs",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifts:
    """Both directions of a pair, None where one was not measured, and the tokens that they have cost."""

    drift: Drift | NoDrift | None
    back: Drift | NoDrift | None
    tokens: int = 0


async def drifts_of(
    scorer: Scorer, engine: Engine, sample: Sample, prompt: Prompt, *, given: Observation, replayed: Observation
) -> Drifts:
    """Measure a pair.

    Args:
        scorer: Who asks.
        engine: Which has both versions.
        sample: What was asked.
        prompt: The same, read.
        given: What the caller got, or for a redacted sample the replay of that version.
        replayed: What the other version answered.
    """
    if sample.endpoint not in _TELLING:
        nothing = _no_drift("no_token_ids")
        return Drifts(drift=nothing, back=None if sample.kind == Kind.NOISE else nothing)
    asked = replayed.prompt_ids or given.prompt_ids or await _prompt_ids(scorer, engine, sample)
    if isinstance(asked, NoDrift):
        return Drifts(drift=asked, back=None if sample.kind == Kind.NOISE else asked)
    served = sample.control if sample.served == "control" else sample.other

    async def measured(
        ids: tuple[int, ...] | NoDrift, text: str, drawn_from: str, other: str
    ) -> tuple[Drift | NoDrift, int]:
        if isinstance(ids, NoDrift):
            return ids, 0
        scored = Given(prompt=asked, reply=ids, temperature=prompt.temperature, text=text)
        return await scorer.drift(engine, scored, drawn_from, other)

    async def of_given() -> tuple[Drift | NoDrift, int]:
        ids = await _ids_given(scorer, engine, sample, given)
        return await measured(ids, given.text, served, sample.replayed)

    async def of_replayed() -> tuple[Drift | NoDrift, int]:
        ids = _no_drift("no_token_ids") if replayed.token_ids is None else replayed.token_ids
        return await measured(ids, replayed.text, sample.replayed, served)

    if sample.kind == Kind.NOISE:
        noise, cost = await of_given()
        return Drifts(drift=noise, back=None, tokens=cost)
    ours, theirs, cost = await _by_coin(sample.id, of_given, of_replayed, both=scorer.both_answers)
    forth, back = (ours, theirs) if sample.served == "control" else (theirs, ours)
    return Drifts(drift=forth, back=back, tokens=cost)


async def _by_coin(
    sample_id: str, of_given: _Measuring, of_replayed: _Measuring, *, both: bool
) -> tuple[Drift | NoDrift | None, Drift | NoDrift | None, int]:
    """Measure on one of two answers, on the other where that cannot be, or on both; returns both and the cost."""
    found: list[Drift | NoDrift | None] = [None, None]
    cost = 0
    first = int(is_chosen(_COIN, sample_id, 0.5))
    for at in (first, 1 - first):
        found[at], more = await (of_given, of_replayed)[at]()
        cost += more
        if not both and isinstance(found[at], Drift):
            break
    return found[0], found[1], cost


async def _ids_given(scorer: Scorer, engine: Engine, sample: Sample, given: Observation) -> tuple[int, ...] | NoDrift:
    if given.token_ids is not None:  # the caller asked for them, or it was replayed
        return given.token_ids
    if given.tool_calls:
        return _no_drift("tool_calls")
    if _REASONING.search(sample.reply):
        return _no_drift("reasoning")
    if _body(sample).get("echo"):
        return _no_drift("echo")
    return await scorer.ids_of(engine, engine.base, given.text)


async def _prompt_ids(scorer: Scorer, engine: Engine, sample: Sample) -> tuple[int, ...] | NoDrift:
    body = _body(sample)
    if any(body.get(name) for name in _NOT_TOKENISED):
        return _no_drift("no_token_ids")
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        if prompt and all(type(each) is int for each in prompt):
            return tuple(prompt)
        prompt = prompt[0] if len(prompt) == 1 else None
    if isinstance(prompt, str):
        return await scorer.ids_of_prompt(engine, {"model": engine.base, "prompt": prompt})
    if not isinstance(body.get("messages"), list):
        return _no_drift("no_token_ids")
    asked = {name: body[name] for name in _TOKENISED if name in body}
    return await scorer.ids_of_prompt(engine, {"model": engine.base, **asked})


def _body(sample: Sample) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(sample.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _no_drift(reason: str) -> NoDrift:
    return NoDrift(reason=reason, version=VERSION)
