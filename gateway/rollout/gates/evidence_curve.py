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
# JSON cannot hold infinity, and a logarithmic axis needs an end; no decision needs more evidence than this.
MAX_EVIDENCE: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How the evidence for one gate grew, session by session.

    Attributes:
        gate: The gate's name.
        bound, pass_bound: The e-values from which on the gate fails, or passes.
        sessions: (n_points,) the number of sessions counted at each point.
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
    """The gates' readings and evidence curves of the last stage of a rollout that has compared pairs."""

    stage: int
    readings: tuple[Reading, ...]
    curves: tuple[Curve, ...]


def trace_evidence(
    rollout: Rollout, pairs: Iterable[ScoredPair], now: float, judged_share: float = 1.0
) -> EvidenceCurve | None:
    """Return the gates' readings and evidence curves of the last stage that has pairs.

    Args:
        rollout: The rollout whose plan has the gates.
        pairs: Scored pairs in the order of their numbers; pairs of other rollouts are skipped.
        now: Unix seconds; sessions that are idle by then count as ended.
        judged_share: The share of pairs that a model judges.

    Returns:
        None if no stage that reads pairs has a pair.
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

    A stage that is resumed gets a new number, so the answer for an earlier stage is right only if no stage was resumed.
    """
    at = rollout.index - (rollout.stage - number)
    return rollout.plan.stages[at] if 0 <= at < len(rollout.plan.stages) else None


class _StageCurves:
    """The evidence for each gate of one stage, with the curve of how it grew."""

    def __init__(self, stage: Stage, rollout: Rollout, judged_share: float) -> None:
        self._gates = [gate for gate in stage.gates if gate.source is GateSource.PAIRS]
        self._curves: list[_RecordedEvidence] = []
        self.evidence = StageEvidence(stage, rollout, judged_share, self._make_curve)

    def _make_curve(self, demand: Criterion, idle_seconds: int) -> CriterionEvidence:
        curve = _RecordedEvidence(demand, idle_seconds)
        self._curves.append(curve)
        return curve

    def finish(self, number: int, now: float) -> EvidenceCurve:
        """Close the sessions that are idle at `now` and return the readings and curves of stage `number`."""
        self.evidence.close(now)
        found = self.evidence.readings()
        return EvidenceCurve(
            stage=number,
            readings=tuple(found.get(gate.name) or no_pairs(gate) for gate in self._gates),
            curves=tuple(curve.curve() for curve in self._curves),
        )


class _RecordedEvidence(CriterionEvidence):
    """A criterion's evidence that also records points of its growth."""

    def __init__(self, demand: Criterion, idle_seconds: int) -> None:
        super().__init__(demand, idle_seconds)
        self._points: list[tuple[int, float, float]] = [(0, 1.0, 1.0)]
        self._every = 1
        self._seen = 0

    def add(self, scored_pair: ScoredPair) -> None:
        """Count the sessions that had ended when the pair was compared, as the leader does, then add the pair."""
        super().close(scored_pair.scored_at)
        super().add(scored_pair)
        self._seen += 1
        if self._seen % self._every == 0:
            self._note()

    def close(self, now: float) -> None:
        """Count the sessions that have ended by `now`, Unix seconds, and record a point."""
        super().close(now)
        self._note()

    def _note(self) -> None:
        classification = self.classify()
        if classification.n == self._points[-1][0]:
            self._points.pop()
        self._points.append((classification.n, _clip(classification.e_fail), _clip(classification.e_pass)))
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._every *= 2

    def curve(self) -> Curve:
        """Return the curve of the recorded points."""
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
