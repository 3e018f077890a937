"""Attribute a replay's failure to the version or to the engine.

The caller was answered, so both versions are asked once more on the same engine. If one answers and the other fails,
the version is at fault. That is a pair of its own kind: it has no answers to compare, and the metric `failed` counts it
against the version that failed.
"""

from typing import Final

from evaluators.observation import Ended, Kind, Outcome, Score, ScoredPair
from gateway.evaluate.engines import Engine
from gateway.evaluate.replay import ReplayBounds, replay
from gateway.records.sample import Sample

FAILED: Final = "failed"
_VERSION: Final = "1"
# Reasons after which the version is not asked again: one that hangs has held an engine's place for minutes already.
_SLOW: Final = ("late",)
# Failures of the engine, not of the version: it does not have the version (after a restart, until all are loaded
# again), it is full, or it is away.
_ENGINES: Final = ("status_404", "status_408", "status_429", "status_503", "unreachable")


def serving_version(sample: Sample) -> str:
    """Return the version that served the caller."""
    return sample.control if sample.served == "control" else sample.other


async def attribute_failure(
    engine: Engine, sample: Sample, reason: str, bounds: ReplayBounds
) -> tuple[str | None, int]:
    """Return the version that is at fault, None for neither, and the tokens that finding out has cost.

    Both versions are asked once more. An engine that fails at random fails both versions equally often, so the counts
    against the two cancel out.

    Args:
        engine: The engine on which the replay failed.
        sample: The caller's request.
        reason: Why the replay failed.
        bounds: Time and bytes of one replay.
    """
    if sample.kind == Kind.NOISE or reason in _ENGINES:
        return None, 0  # noise pairs have the same version on both sides
    served = await replay(engine, sample, serving_version(sample), bounds)
    has_failed = served.ended is Ended.FAILED
    if reason in _SLOW or (has_failed and served.error in (*_ENGINES, *_SLOW)):
        return (None if has_failed else sample.replayed), served.tokens
    again = await replay(engine, sample, sample.replayed, bounds)
    tokens = served.tokens + again.tokens
    if (again.ended is Ended.FAILED) is has_failed or again.error in _ENGINES:
        return None, tokens
    return (serving_version(sample) if has_failed else sample.replayed), tokens


def both_answered() -> Score:
    """Return the `failed` score of a pair in which both versions answered."""
    return Score(value=0.5, version=_VERSION, control=0.0, candidate=0.0)


def pair_of_failure(sample: Sample, version: str, now: float) -> ScoredPair:
    """Return the pair of a sample on which only one version failed.

    Args:
        sample: The caller's request.
        version: The version that failed.
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
