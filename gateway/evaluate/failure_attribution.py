"""A shadow that does not answer: is it the version, or the engine?

The caller was answered, so the other version's failure is told apart from the engine's by asking
both once more, on the same engine. If one answers and the other fails, that is a pair of its own
kind: it has no answer to compare, and the metric `failed` counts it against the one that failed.
"""

from typing import Final

from evaluators.observation import Ended, Kind, Outcome, Score, ScoredPair
from gateway.evaluate.engines import Engine
from gateway.evaluate.replay import ReplayBounds, replay
from gateway.records.sample import Sample

FAILED: Final = "failed"
_VERSION: Final = "1"
# A version that hangs has held an engine's place for minutes already; once is enough.
_SLOW: Final = ("late",)
# The engine's word of itself: it has lost the version (after a restart, until all are loaded again), or is full.
_ENGINES: Final = ("status_404", "status_408", "status_429", "status_503", "unreachable")


def served_by(sample: Sample) -> str:
    """Return the version that the caller's answer came from."""
    return sample.control if sample.served == "control" else sample.other


async def attribute_failure(
    engine: Engine, sample: Sample, reason: str, bounds: ReplayBounds
) -> tuple[str | None, int]:
    """Return which version has failed by itself, None for neither, and the tokens that finding out has cost.

    Both are asked once more. An engine that fails now and then so fails the one as often as the other, and what is
    counted against the two cancels out.

    Args:
        engine: Which was asked.
        sample: What was asked.
        reason: Of the replayed version's failure.
        bounds: Of a replay.
    """
    if sample.kind == Kind.NOISE or reason in _ENGINES:
        return None, 0  # of one version on both sides nothing can be told apart
    served = await replay(engine, sample, served_by(sample), bounds)
    has_failed = served.ended is Ended.FAILED
    if reason in _SLOW or (has_failed and served.error in (*_ENGINES, *_SLOW)):
        return (None if has_failed else sample.replayed), served.tokens
    again = await replay(engine, sample, sample.replayed, bounds)
    tokens = served.tokens + again.tokens
    if (again.ended is Ended.FAILED) is has_failed or again.error in _ENGINES:
        return None, tokens
    return (served_by(sample) if has_failed else sample.replayed), tokens


def both_answered() -> Score:
    """Return the score of a pair in which nobody failed."""
    return Score(value=0.5, version=_VERSION, control=0.0, candidate=0.0)


def pair_of_failure(sample: Sample, version: str, now: float) -> ScoredPair:
    """Return the pair of a sample of which one version has failed by itself.

    Args:
        sample: What was asked.
        version: Which of them failed.
        now: Unix seconds.
    """
    is_control = version == sample.control
    score: Outcome = Score(
        value=0.0 if is_control else 1.0, version=_VERSION, control=float(is_control), candidate=float(not is_control)
    )
    return ScoredPair(
        sample=sample.id,
        alias=sample.alias,
        rollout=sample.rollout,
        stage=sample.stage,
        kind=Kind(sample.kind),
        control=sample.control,
        other=sample.other,
        served=sample.served,
        session=sample.session,
        task=sample.task,
        at=sample.at,
        scored_at=now,
        scores={FAILED: score},
    )
