"""Replay stored pairs of a past rollout through another plan's gates: when would it have stopped?

Pure. Pairs are passed in stored order to the plan's stages that read pairs, and the gates are read
after each pair, as the leader would. Gates that need live traffic or a person cannot be replayed;
`not_replayed` names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from evaluators.judge.verdict import Verdict
from evaluators.observation import ScoredPair
from gateway.rollout.gates.gate import GateSource
from gateway.rollout.gates.pairs import no_pairs
from gateway.rollout.gates.reading import Reading, worst
from gateway.rollout.plan import Plan, Stage
from gateway.rollout.rollout import Rollout
from gateway.rollout.stage_evidence import StageEvidence


class Outcome(StrEnum):
    """Where a plan would have led."""

    ROLLED_BACK = "rolled_back"
    PAUSED = "paused"
    PASSED = "passed"
    UNDECIDED = "undecided"  # the pairs that there are do not suffice


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """When a rollout would have stopped under another plan, and why.

    Attributes:
        outcome: How. `PASSED`: every stage that reads pairs would have.
        pairs: How many pairs it would have taken.
        number: Of the last of them in the store; None without any.
        at: When that was compared, Unix seconds.
        why: In a sentence.
        readings: What the gates would have said then.
    """

    outcome: Outcome
    pairs: int = 0
    number: int | None = None
    at: float | None = None
    why: str = ""
    readings: tuple[Reading, ...] = ()

    @property
    def gate(self) -> str | None:
        """The gate that stops it, if one does."""
        return next((reading.gate for reading in self.readings if reading.fails), None)


def not_replayed(plan: Plan) -> tuple[str, ...]:
    """Return the gates of a plan that pairs alone cannot answer."""
    names = (gate.name for stage in plan.stages for gate in stage.gates if gate.source is not GateSource.PAIRS)
    return tuple(dict.fromkeys(names))


def simulate(plan: Plan, past: Rollout, pairs: Sequence[ScoredPair], judged_share: float = 1.0) -> Stop:
    """Return when a rollout would have stopped under another plan.

    Args:
        plan: With at least one stage that reads pairs.
        past: Whose versions.
        pairs: Of that rollout, in the order of their numbers.
        judged_share: The share of pairs that a model judged.
    """
    stages = [stage for stage in plan.stages if stage.wants_pairs]
    rollout = replace(past, plan=plan)
    n_pairs = 0
    last: ScoredPair | None = None
    run = _Run(stages.pop(0), rollout, judged_share)
    for scored_pair in pairs:
        n_new = run.take(scored_pair)
        n_pairs, last = n_pairs + n_new, scored_pair if n_new else last
        outcome = run.outcome(scored_pair.scored_at)
        if outcome is Outcome.PASSED and stages:
            run = _Run(stages.pop(0), rollout, judged_share)
        elif outcome is not None:
            return _stop(outcome, run, n_pairs, scored_pair)
    if last is None:
        return Stop(outcome=Outcome.UNDECIDED, why="no pair of it is stored")
    outcome = run.outcome(last.scored_at + run.stage.idle_seconds + 1)  # those that were under way have ended since
    if outcome is Outcome.PASSED and stages:
        outcome = None
    return _stop(outcome or Outcome.UNDECIDED, run, n_pairs, last)


def _stop(outcome: Outcome, run: "_Run", n_pairs: int, scored_pair: ScoredPair) -> Stop:
    return Stop(
        outcome=outcome,
        pairs=n_pairs,
        number=scored_pair.number,
        at=scored_pair.scored_at,
        why=run.why(outcome),
        readings=run.readings,
    )


class _Run:
    """The replay of one stage."""

    def __init__(self, stage: Stage, rollout: Rollout, judged_share: float) -> None:
        self.stage = stage
        self._evidence = StageEvidence(stage, rollout, judged_share)
        self._gates = [gate for gate in stage.gates if gate.source is GateSource.PAIRS]
        self._began_at: float | None = None
        self.readings: tuple[Reading, ...] = ()

    def take(self, scored_pair: ScoredPair) -> int:
        """Take a pair in; returns 1 if it compares the two versions, and 0 for noise."""
        if self._began_at is None:
            self._began_at = scored_pair.scored_at
        before = self._evidence.n
        self._evidence.add(scored_pair)
        return self._evidence.n - before

    def outcome(self, now: float) -> Outcome | None:
        """Return what a look now would decide, or None to wait."""
        self._evidence.close(now)
        found = self._evidence.readings()
        self.readings = tuple(found.get(gate.name) or no_pairs(gate) for gate in self._gates)
        if any(reading.rolls_back for reading in self.readings):
            return Outcome.ROLLED_BACK
        if any(reading.fails for reading in self.readings):
            return Outcome.PAUSED
        n, stage = self._evidence.n, self.stage
        is_old_enough = now - (self._began_at or now) >= stage.min_seconds
        verdict = worst(self.readings)
        # Of a step with live traffic, samples are requests, of which pairs tell nothing.
        if verdict is Verdict.PASS and is_old_enough and (not stage.is_shadow or n >= stage.min_samples):
            return Outcome.PASSED
        most = stage.max_samples
        is_used_up = stage.is_shadow and most is not None and n >= most and self._evidence.is_settled
        return Outcome.PAUSED if is_used_up and verdict is not Verdict.PASS else None

    def why(self, outcome: Outcome) -> str:
        """Return why it ends there."""
        failing = [reading.reason for reading in self.readings if reading.fails]
        if failing:
            return "; ".join(failing)
        if outcome is Outcome.PAUSED:
            return f"the gates did not pass within max_pairs ({self._evidence.n:,} ≥ {self.stage.max_samples or 0:,})"
        if outcome is Outcome.PASSED:
            return "; ".join(reading.reason for reading in self.readings)
        unsure = [f"`{each.gate}`" for each in self.readings if each.verdict is not Verdict.PASS and not each.is_muted]
        return f"not decided by {self._evidence.n:,} pairs" + (f": {', '.join(unsure)}" if unsure else "")
