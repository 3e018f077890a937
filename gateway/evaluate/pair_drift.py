"""The drift of a pair: which tokens both versions score, and why they cannot be scored where that is so.

Drift from the control is measured on tokens that the control drew, drift from the other version on tokens that the
other version drew, whichever of the two the caller got. By default a coin draws one of the two answers: the mean over
pairs estimates the mean of both directions at half the cost. Tool calls and reasoning cannot be turned back into the
tokens that were drawn, so a caller's answer that has them gives no drift; the engine reports the token ids of a replay,
so a replay always does.
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
from gateway.evaluate.scorer import Scorer, ScoringInput
from gateway.records.sample import Sample

_Measurement = Callable[[], Awaitable[tuple[Drift | NoDrift, int]]]
# The salt of the coin that draws one of the two answers. The draw must not depend on the answers' text.
_COIN: Final = "drift"
# Endpoints on which vLLM returns token ids.
_WITH_TOKEN_IDS: Final = ("/v1/chat/completions", "/v1/completions")
# In JSON, quotes inside a text are escaped, so this matches a field's name and never the text itself.
_REASONING: Final = re.compile(rb'"reasoning(?:_content)?":\s*"[^"]')
# Fields that a chat template may use and that `/tokenize` does not accept.
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
class PairDrift:
    """Both directions of a pair's drift, None where one was not measured, and the tokens that measuring has cost."""

    drift: Drift | NoDrift | None
    back: Drift | NoDrift | None
    tokens: int = 0


async def measure_drift(
    scorer: Scorer,
    engine: Engine,
    sample: Sample,
    prompt: Prompt,
    *,
    served_answer: Observation,
    replayed_answer: Observation,
) -> PairDrift:
    """Measure the drift of a pair.

    Args:
        scorer: Has both versions score tokens.
        engine: Has both versions.
        sample: The caller's request and reply.
        prompt: The request, parsed.
        served_answer: The caller's answer, or, for a redacted sample, a replay on the version that served it.
        replayed_answer: The other version's answer.
    """
    if sample.endpoint not in _WITH_TOKEN_IDS:
        nothing = _no_drift("no_token_ids")
        return PairDrift(drift=nothing, back=None if sample.kind == Kind.NOISE else nothing)
    prompt_ids = replayed_answer.prompt_ids or served_answer.prompt_ids or await _prompt_ids(scorer, engine, sample)
    if isinstance(prompt_ids, NoDrift):
        return PairDrift(drift=prompt_ids, back=None if sample.kind == Kind.NOISE else prompt_ids)
    served = sample.control if sample.served == "control" else sample.other

    async def measure(
        ids: tuple[int, ...] | NoDrift, text: str, drawn_from: str, other: str
    ) -> tuple[Drift | NoDrift, int]:
        if isinstance(ids, NoDrift):
            return ids, 0
        scored = ScoringInput(prompt=prompt_ids, reply=ids, temperature=prompt.temperature, text=text)
        return await scorer.drift(engine, scored, drawn_from, other)

    async def of_served() -> tuple[Drift | NoDrift, int]:
        ids = await _answer_ids(scorer, engine, sample, served_answer)
        return await measure(ids, served_answer.text, served, sample.replayed)

    async def of_replayed() -> tuple[Drift | NoDrift, int]:
        ids = _no_drift("no_token_ids") if replayed_answer.token_ids is None else replayed_answer.token_ids
        return await measure(ids, replayed_answer.text, sample.replayed, served)

    if sample.kind == Kind.NOISE:
        noise, cost = await of_served()
        return PairDrift(drift=noise, back=None, tokens=cost)
    ours, theirs, cost = await _by_coin(sample.id, of_served, of_replayed, both=scorer.both_answers)
    forth, back = (ours, theirs) if sample.served == "control" else (theirs, ours)
    return PairDrift(drift=forth, back=back, tokens=cost)


async def _by_coin(
    sample_id: str, of_served: _Measurement, of_replayed: _Measurement, *, both: bool
) -> tuple[Drift | NoDrift | None, Drift | NoDrift | None, int]:
    """Measure on the answer that a coin draws, and on the other one if that fails or `both` is set.

    Returns:
        Both directions, and the tokens that measuring has cost.
    """
    found: list[Drift | NoDrift | None] = [None, None]
    cost = 0
    first = int(is_chosen(_COIN, sample_id, 0.5))
    for at in (first, 1 - first):
        found[at], more = await (of_served, of_replayed)[at]()
        cost += more
        if not both and isinstance(found[at], Drift):
            break
    return found[0], found[1], cost


async def _answer_ids(
    scorer: Scorer, engine: Engine, sample: Sample, served_answer: Observation
) -> tuple[int, ...] | NoDrift:
    if served_answer.token_ids is not None:  # the caller asked the engine for them, or `served_answer` is a replay
        return served_answer.token_ids
    if served_answer.tool_calls:
        return _no_drift("tool_calls")
    if _REASONING.search(sample.reply):
        return _no_drift("reasoning")
    if _body(sample).get("echo"):
        return _no_drift("echo")
    return await scorer.ids_of(engine, engine.base, served_answer.text)


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
    fields = {name: body[name] for name in _TOKENISED if name in body}
    return await scorer.ids_of_prompt(engine, {"model": engine.base, **fields})


def _body(sample: Sample) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(sample.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _no_drift(reason: str) -> NoDrift:
    return NoDrift(reason=reason, version=VERSION)
