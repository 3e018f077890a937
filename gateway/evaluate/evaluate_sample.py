"""One sample, from its claim to what is kept of it. Reads as the story of a shadow evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from msgspec import structs

from evaluators.drift.token_kl import without_words
from evaluators.normalize import NotComparable, prompt_of
from evaluators.observation import Ended, Kind, NoDrift, Observation, Pair, ScoredPair
from gateway.evaluate.comparing import Comparing
from gateway.evaluate.drifting import Drifts, drifts_of
from gateway.evaluate.engines import Engine, EvaluatorEngines
from gateway.evaluate.failure_attribution import FAILED, attribute_failure, both_answered, pair_of_failure, served_by
from gateway.evaluate.judging import JUDGE, Judge
from gateway.evaluate.policies import Policies
from gateway.evaluate.replay import ReplayBounds, heard, is_passing, replay
from gateway.evaluate.scoring import Scorer
from gateway.records.sample import Sample

# How soon a sample is tried again that an engine had no time for, and one whose budget is spent.
AGAIN_SECONDS: Final = 5.0
NEXT_BUDGET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A sample that was compared, and the tokens that this has cost."""

    judged: ScoredPair
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A sample that was not compared.

    Attributes:
        reason: In a word.
        again_after_seconds: When it may be tried again; None for never.
        tokens: What it has cost so far.
    """

    reason: str
    again_after_seconds: float | None
    tokens: int = 0


class Judges(Protocol):
    """Who judges an alias's pairs."""

    def of(self, alias: str) -> Judge | None:
        """Return an alias's judge; None where its route names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an evaluator works with.

    Attributes:
        engines: The engines.
        scorer: For drift.
        policies: What routes say.
        judges: For preferences.
        spent: Aliases whose budget is spent just now.
        bounds: Of a replay.
        give_up_seconds: The age at which a sample that could not be replayed is dropped.
        now: Unix seconds.
        comparing: For scores.
    """

    engines: EvaluatorEngines
    scorer: Scorer
    policies: Policies
    judges: Judges
    spent: Callable[[str], bool]
    bounds: ReplayBounds
    give_up_seconds: float
    now: Callable[[], float]
    comparing: Comparing = field(default_factory=Comparing)


async def evaluate(sample: Sample, tools: Context) -> Completed | Returned:
    """Replay a sample on the other version, measure and compare; returns what came of it."""
    if tools.policies.is_over(sample.rollout, sample.at):
        return Returned(reason="rollout_over", again_after_seconds=None)
    if tools.spent(sample.alias):
        return _later(sample, tools, "budget", NEXT_BUDGET_SECONDS)
    engine, why = await tools.engines.find(sample.control, sample.other)
    if engine is None:
        return _later(sample, tools, why)
    async with engine.place():
        return await _on(engine, sample, tools)


async def _on(engine: Engine, sample: Sample, tools: Context) -> Completed | Returned:
    try:
        prompt = prompt_of(sample.endpoint, sample.body)
        given = None if sample.redacted else heard(sample)
    except NotComparable as error:
        return Returned(reason=error.reason, again_after_seconds=None)
    replayed = await replay(engine, sample, sample.replayed, tools.bounds)
    tokens = replayed.tokens
    if replayed.ended is Ended.FAILED:
        failed, more = await attribute_failure(engine, sample, replayed.error, tools.bounds)
        tokens += more
        if failed is not None:
            return Completed(judged=pair_of_failure(sample, failed, tools.now()), tokens=tokens)
        return _not_now(sample, tools, replayed.error, tokens)
    if given is None:
        given = await replay(engine, sample, served_by(sample), tools.bounds)
        tokens += given.tokens
        if given.ended is Ended.FAILED:
            return _not_now(sample, tools, given.error, tokens)
    control, other = (given, replayed) if sample.served == "control" else (replayed, given)
    pair = Pair(kind=Kind(sample.kind), prompt=prompt, control=control, candidate=other)
    drifts = await _drifts(engine, sample, tools, pair, given, replayed)
    judged = await _judged(sample, tools, pair, drifts)
    return await _with_preference(tools, pair, judged, tokens + drifts.tokens)


async def _drifts(
    engine: Engine, sample: Sample, tools: Context, pair: Pair, given: Observation, replayed: Observation
) -> Drifts:
    if not all(tools.policies.is_scorable(version) for version in (sample.control, sample.other)):
        none = NoDrift(reason="lm_head", version="1")
        return Drifts(drift=none, back=none)
    return await drifts_of(tools.scorer, engine, sample, pair.prompt, given=given, replayed=replayed)


async def _judged(sample: Sample, tools: Context, pair: Pair, drifts: Drifts) -> ScoredPair:
    keeps_words = sample.capture == "full"
    return ScoredPair(
        sample=sample.id,
        alias=sample.alias,
        rollout=sample.rollout,
        stage=sample.stage,
        kind=pair.kind,
        control=sample.control,
        other=sample.other,
        served=sample.served,
        session=sample.session,
        task=sample.task,
        at=sample.at,
        scored_at=tools.now(),
        scores={
            **await tools.comparing.scores(pair, tools.policies.of(sample.alias).comparators),
            FAILED: both_answered(),
        },
        drift=drifts.drift if keeps_words else without_words(drifts.drift),
        drift_back=drifts.back if keeps_words else without_words(drifts.back),
        prompt_tokens=pair.control.prompt_tokens or pair.candidate.prompt_tokens,
        control_tokens=pair.control.completion_tokens,
        other_tokens=pair.candidate.completion_tokens,
    )


async def _with_preference(tools: Context, pair: Pair, judged: ScoredPair, tokens: int) -> Completed:
    judge = tools.judges.of(judged.alias)
    if judge is None:
        return Completed(judged=judged, tokens=tokens)
    opinion = await judge.opinion(judged.sample, pair, judged)
    scores = {**judged.scores, JUDGE: opinion.outcome}
    return Completed(
        judged=structs.replace(judged, scores=scores, weight=opinion.weight), tokens=tokens + opinion.tokens
    )


def _later(sample: Sample, tools: Context, reason: str, seconds: float = AGAIN_SECONDS) -> Returned:
    is_old = tools.now() - sample.at > tools.give_up_seconds
    return Returned(reason=reason, again_after_seconds=None if is_old else seconds)


def _not_now(sample: Sample, tools: Context, reason: str, tokens: int) -> Returned:
    if is_passing(reason):
        return replace(_later(sample, tools, reason), tokens=tokens)
    return Returned(reason=reason, again_after_seconds=None, tokens=tokens)
