"""Replay a rollout's pairs through its gates, to show how the evidence grew. No I/O, no clock.

Pairs are taken one at a time and none is kept, so a rollout of any length can be replayed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import Criterion
from evaluators.observation import ScoredPair
from gateway.rollout.gates.gate import GateSource
from gateway.rollout.gates.pairs import no_pairs
from gateway.rollout.gates.reading import Reading
from gateway.rollout.plan import Stage
from gateway.rollout.rollout import Rollout
from gateway.rollout.stage_evidence import StageEvidence

# Enough for a curve. A point costs up to a millisecond, so with more pairs they lie further apart.
MAX_POINTS: Final = 120
# JSON and logarithmic axes end somewhere; nobody needs more evidence than this.
MAX_EVIDENCE: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How the evidence for one gate grew, session by session.

    Attributes:
        gate: Its name.
        bound, pass_bound: From these e-values on it fails, or passes.
        sessions: (n_points,) sessions that count.
        e_fail, e_pass: (n_points,) evidence that the limit is exceeded, and that it is kept.
    """

    gate: str
    bound: float
    pass_bound: float
    sessions: list[int]
    e_fail: list[float]
    e_pass: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceCurve:
    """What the pairs of a rollout's last stage with pairs say to its gates."""

    stage: int
    readings: tuple[Reading, ...]
    curves: tuple[Curve, ...]


def trace_evidence(
    rollout: Rollout, pairs: Iterable[ScoredPair], now: float, judged_share: float = 1.0
) -> EvidenceCurve | None:
    """Return what the gates of the last stage that has pairs say, and how they came to it.

    Args:
        rollout: Whose plan.
        pairs: In order, those of others among them.
        now: Unix seconds; sessions that are idle by then are over.
        judged_share: The share of pairs that a model judges.

    Returns:
        None where no stage that reads pairs has any.
    """
    stages: dict[int, _StageCurves] = {}
    for each in pairs:
        if each.rollout != rollout.id:
            continue
        if each.stage not in stages:
            stage = stage_of(rollout, each.stage)
            if stage is None or not any(gate.source is GateSource.PAIRS for gate in stage.gates):
                continue
            stages[each.stage] = _StageCurves(stage, rollout, judged_share)
        stages[each.stage].evidence.add(each)
    if not stages:
        return None
    last = max(stages)
    return stages[last].finish(last, now)


def stage_of(rollout: Rollout, number: int) -> Stage | None:
    """Return the plan's stage that was entered as number `number`; None if the plan has none.

    A stage that was resumed has a number anew, so of an earlier stage this is right only where none was.
    """
    at = rollout.index - (rollout.stage - number)
    return rollout.plan.stages[at] if 0 <= at < len(rollout.plan.stages) else None


class _StageCurves:
    """One stage: its gates' evidence, and a curve of each."""

    def __init__(self, stage: Stage, rollout: Rollout, judged_share: float) -> None:
        self._gates = [gate for gate in stage.gates if gate.source is GateSource.PAIRS]
        self._curves: list[_RecordedEvidence] = []
        self.evidence = StageEvidence(stage, rollout, judged_share, self._make_curve)

    def _make_curve(self, demand: Criterion, idle_seconds: int) -> CriterionEvidence:
        curve = _RecordedEvidence(demand, idle_seconds)
        self._curves.append(curve)
        return curve

    def finish(self, number: int, now: float) -> EvidenceCurve:
        """Return what it all comes to; `number` is the stage's."""
        self.evidence.close(now)
        found = self.evidence.readings()
        return EvidenceCurve(
            stage=number,
            readings=tuple(found.get(gate.name) or no_pairs(gate) for gate in self._gates),
            curves=tuple(curve.curve() for curve in self._curves),
        )


class _RecordedEvidence(CriterionEvidence):
    """A criterion's evidence, and how it came to be."""

    def __init__(self, demand: Criterion, idle_seconds: int) -> None:
        super().__init__(demand, idle_seconds)
        self._points: list[tuple[int, float, float]] = [(0, 1.0, 1.0)]
        self._every = 1
        self._seen = 0

    def add(self, judged: ScoredPair) -> None:
        """Take in a pair, after the sessions that were over when it was compared, as the leader's looks count them."""
        super().close(judged.scored_at)
        super().add(judged)
        self._seen += 1
        if self._seen % self._every == 0:
            self._note()

    def close(self, now: float) -> None:
        """Count the sessions that are over by now."""
        super().close(now)
        self._note()

    def _note(self) -> None:
        said = self.classify()
        if said.n == self._points[-1][0]:
            self._points.pop()
        self._points.append((said.n, _clip(said.e_fail), _clip(said.e_pass)))
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._every *= 2

    def curve(self) -> Curve:
        """Return how it grew."""
        sessions, e_fail, e_pass = (list(values) for values in zip(*self._points, strict=True))
        return Curve(
            gate=self.criterion.metric,
            bound=1.0 / self.criterion.alpha,
            pass_bound=1.0 / self.criterion.alpha_to_pass,
            sessions=sessions,
            e_fail=e_fail,
            e_pass=e_pass,
        )


def _clip(e_value: float | None) -> float:
    return 1.0 if e_value is None else min(MAX_EVIDENCE, max(1 / MAX_EVIDENCE, float(e_value)))
