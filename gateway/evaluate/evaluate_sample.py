"""Evaluate one sample: from the check of its budget to the pair that is stored. Read `evaluate` first."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from msgspec import structs

from evaluators.drift.token_kl import remove_words
from evaluators.normalize import NotComparable, prompt_of
from evaluators.observation import Ended, Kind, NoDrift, Observation, Pair, ScoredPair
from gateway.evaluate.comparator_runner import ComparatorRunner
from gateway.evaluate.engines import Engine, EvaluatorEngines
from gateway.evaluate.failure_attribution import (
    FAILED,
    attribute_failure,
    both_answered,
    pair_of_failure,
    serving_version,
)
from gateway.evaluate.judge import JUDGE, Judge
from gateway.evaluate.pair_drift import PairDrift, measure_drift
from gateway.evaluate.policies import Policies
from gateway.evaluate.replay import ReplayBounds, caller_observation, is_passing, replay
from gateway.evaluate.scorer import Scorer
from gateway.records.sample import Sample

# When a sample is tried again: after an engine was busy, and after the alias's token budget was spent.
AGAIN_SECONDS: Final = 5.0
NEXT_BUDGET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A sample that was compared, and the tokens that this has cost."""

    scored_pair: ScoredPair
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A sample that was not compared.

    Attributes:
        reason: Why not, in one word.
        again_after_seconds: When it may be tried again; None for never.
        tokens: The tokens that it has cost so far.
    """

    reason: str
    again_after_seconds: float | None
    tokens: int = 0


class Judges(Protocol):
    """The judges of all aliases."""

    def of(self, alias: str) -> Judge | None:
        """Return an alias's judge; None where its route names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts and bounds that `evaluate` needs.

    Attributes:
        engines: The engines to replay on.
        scorer: Has versions score tokens, for drift.
        policies: The routes' mirror policies.
        judges: The routes' judges, for preferences.
        spent: Whether an alias's token budget is spent now.
        bounds: Time and bytes of one replay.
        give_up_seconds: The age at which a sample that could not be replayed is dropped.
        now: Unix seconds.
        comparators: Runs comparators, for scores.
    """

    engines: EvaluatorEngines
    scorer: Scorer
    policies: Policies
    judges: Judges
    spent: Callable[[str], bool]
    bounds: ReplayBounds
    give_up_seconds: float
    now: Callable[[], float]
    comparators: ComparatorRunner = field(default_factory=ComparatorRunner)


async def evaluate(sample: Sample, context: Context) -> Completed | Returned:
    """Replay a sample on the other version, compare both answers and measure drift."""
    if context.policies.is_over(sample.rollout, sample.at):
        return Returned(reason="rollout_over", again_after_seconds=None)
    if context.spent(sample.alias):
        return _later(sample, context, "budget", NEXT_BUDGET_SECONDS)
    engine, why = await context.engines.find(sample.control, sample.other)
    if engine is None:
        return _later(sample, context, why)
    async with engine.place():
        return await _on(engine, sample, context)


async def _on(engine: Engine, sample: Sample, context: Context) -> Completed | Returned:
    try:
        prompt = prompt_of(sample.endpoint, sample.body)
        served_answer = None if sample.redacted else caller_observation(sample)
    except NotComparable as error:
        return Returned(reason=error.reason, again_after_seconds=None)
    replayed_answer = await replay(engine, sample, sample.replayed, context.bounds)
    tokens = replayed_answer.tokens
    if replayed_answer.ended is Ended.FAILED:
        failed, more = await attribute_failure(engine, sample, replayed_answer.error, context.bounds)
        tokens += more
        if failed is not None:
            return Completed(scored_pair=pair_of_failure(sample, failed, context.now()), tokens=tokens)
        return _not_now(sample, context, replayed_answer.error, tokens)
    if served_answer is None:
        served_answer = await replay(engine, sample, serving_version(sample), context.bounds)
        tokens += served_answer.tokens
        if served_answer.ended is Ended.FAILED:
            return _not_now(sample, context, served_answer.error, tokens)
    control, other = (
        (served_answer, replayed_answer) if sample.served == "control" else (replayed_answer, served_answer)
    )
    pair = Pair(kind=Kind(sample.kind), prompt=prompt, control=control, candidate=other)
    drifts = await _drifts(engine, sample, context, pair, served_answer, replayed_answer)
    scored_pair = await _score_pair(sample, context, pair, drifts)
    return await _with_preference(context, pair, scored_pair, tokens + drifts.tokens)


async def _drifts(
    engine: Engine,
    sample: Sample,
    context: Context,
    pair: Pair,
    served_answer: Observation,
    replayed_answer: Observation,
) -> PairDrift:
    if not all(context.policies.is_scorable(version) for version in (sample.control, sample.other)):
        none = NoDrift(reason="lm_head", version="1")
        return PairDrift(drift=none, back=none)
    return await measure_drift(
        context.scorer, engine, sample, pair.prompt, served_answer=served_answer, replayed_answer=replayed_answer
    )


async def _score_pair(sample: Sample, context: Context, pair: Pair, drifts: PairDrift) -> ScoredPair:
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
        scored_at=context.now(),
        scores={
            **await context.comparators.scores(pair, context.policies.of(sample.alias).comparators),
            FAILED: both_answered(),
        },
        drift=drifts.drift if keeps_words else remove_words(drifts.drift),
        drift_back=drifts.back if keeps_words else remove_words(drifts.back),
        prompt_tokens=pair.control.prompt_tokens or pair.candidate.prompt_tokens,
        control_tokens=pair.control.completion_tokens,
        other_tokens=pair.candidate.completion_tokens,
    )


async def _with_preference(context: Context, pair: Pair, scored_pair: ScoredPair, tokens: int) -> Completed:
    judge = context.judges.of(scored_pair.alias)
    if judge is None:
        return Completed(scored_pair=scored_pair, tokens=tokens)
    opinion = await judge.opinion(scored_pair.sample, pair, scored_pair)
    scores = {**scored_pair.scores, JUDGE: opinion.outcome}
    return Completed(
        scored_pair=structs.replace(scored_pair, scores=scores, weight=opinion.weight), tokens=tokens + opinion.tokens
    )


def _later(sample: Sample, context: Context, reason: str, seconds: float = AGAIN_SECONDS) -> Returned:
    is_old = context.now() - sample.at > context.give_up_seconds
    return Returned(reason=reason, again_after_seconds=None if is_old else seconds)


def _not_now(sample: Sample, context: Context, reason: str, tokens: int) -> Returned:
    if is_passing(reason):
        return replace(_later(sample, context, reason), tokens=tokens)
    return Returned(reason=reason, again_after_seconds=None, tokens=tokens)
