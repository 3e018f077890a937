"""Samples and judged pairs for tests: made of a number, small, each another."""

from typing import Any

import msgspec

from evaluators.observation import Drift, Kind, NoDrift, Score, ScoredPair, Unscored
from gateway.records.sample import Sample


def sample(number: int, alias: str = "support", **more: Any) -> Sample:
    """A sample that was answered `number` seconds after the epoch."""
    plain = Sample(
        id=f"{number:032x}",
        request_id=f"req-{number}",
        alias=alias,
        kind="candidate",
        control=f"{alias}@1",
        other=f"{alias}@2",
        served="control",
        rollout="ro-1",
        stage=1,
        capture="full",
        endpoint="/v1/completions",
        body=b'{"prompt":"question %d"}' % number,
        reply=b'{"choices":[{"text":"answer %d"}]}' % number,
        session=f"{number:016x}",
        at=float(number),
        duration_seconds=0.5,
    )
    return msgspec.structs.replace(plain, **more)


def judged(of: Sample, **more: Any) -> ScoredPair:
    """What an evaluator makes of a sample."""
    drift = Drift(
        n_tokens=9,
        log_ratio=0.25,
        kl=0.5,
        kl_bound=0.4,
        moved_share=1 / 9,
        top1_agreement=8 / 9,
        histogram=(8, 0, 1),
        top_moved=((" moved", 3, -0.5, -2.5),),
        n_bytes=40,
    )
    plain = ScoredPair(
        sample=of.id,
        alias=of.alias,
        rollout=of.rollout,
        stage=of.stage,
        kind=Kind(of.kind),
        control=of.control,
        other=of.other,
        served=of.served,
        session=of.session,
        task=of.task,
        at=of.at,
        scored_at=of.at + 1,
        drift=drift,
        scores={
            "chrf": Score(value=0.75, version="1"),
            "refusal": Score(value=0.5, version="2", control=0.0, candidate=0.0),
            "json_valid": Unscored(reason="no_schema", version="1"),
        },
        drift_back=NoDrift(reason="engine", version="1"),
        control_tokens=9,
    )
    return msgspec.structs.replace(plain, **more)
