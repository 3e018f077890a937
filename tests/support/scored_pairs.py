"""Compared pairs as evaluators store them, made up: as many as a test needs, good or bad by the share it names."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from evaluators.observation import Drift, Kind, Outcome, Score, ScoredPair

_NUMBERS = count(1)


def difference(control: float, candidate: float) -> Score:
    """A score of a comparator that looks at one answer at a time."""
    return Score(value=(1 + candidate - control) / 2, version="1", control=control, candidate=candidate)


def drift(kl: float) -> Drift:
    """What token scoring says of two versions that are `kl` nats a token apart."""
    return Drift(
        n_tokens=20, log_ratio=kl, kl=kl, kl_bound=kl, moved_share=min(1.0, kl / 5), top1_agreement=max(0.0, 1 - kl / 3)
    )


def judged(control: str, other: str, **fields: Any) -> ScoredPair:
    """One pair of a session of its own, without anything wrong."""
    scores: dict[str, Outcome] = {
        "refusal": difference(0.0, fields.pop("refusal", 0.0)),
        "repetition": difference(0.0, 0.0),
        "truncated": difference(0.0, 0.0),
    }
    number = next(_NUMBERS)
    given: dict[str, Any] = {
        "sample": f"{number:032x}",
        "alias": "support",
        "rollout": "ro-0",
        "stage": 1,
        "kind": Kind.CANDIDATE,
        "control": control,
        "other": other,
        "session": f"{number:016x}",
        "at": 1e9,
        "scored_at": 1e9,
        "scores": scores | fields.pop("scores", {}),
        "drift": drift(fields.pop("kl", 0.05)),
        "prompt_tokens": 20,
        "control_tokens": 20,
        "other_tokens": 20,
    }
    return ScoredPair(**given | fields)


def many(n: int, control: str, other: str, *, bad: float = 0.0, **fields: Any) -> Iterator[ScoredPair]:
    """Yield pairs of which a share `bad`, evenly spread, are ones where the other version alone refuses."""
    for number in range(n):
        is_bad = int((number + 1) * bad) > int(number * bad)
        yield judged(control, other, refusal=float(is_bad), **fields)
