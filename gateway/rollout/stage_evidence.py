"""The evidence of one stage's pairs for the stage's gates, added up pair by pair. No I/O, no clock.

The same pairs in the same order give the same evidence on every gateway and for every page size: a
session ends by the times stored in the pairs, and by the reader's clock only after the last pair.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from evaluators.compare.comparator import Direction, Shape
from evaluators.compare.registry import comparators
from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import METRICS, Criterion, criterion, plugin_metric
from evaluators.judge.outcomes import outcome_against
from evaluators.judge.verdict import Verdict
from evaluators.observation import Kind, Score, ScoredPair
from gateway.rollout.gates.gate import Gate, GateSource
from gateway.rollout.gates.pairs import no_pairs
from gateway.rollout.gates.reading import Reading
from gateway.rollout.plan import Plan, Stage
from gateway.rollout.rollout import Rollout

# Of the samples that spoke most against a candidate, so many are named: enough to read, and few to keep for good.
MAX_NAMED: Final = 5


def criterion_of(gate: Gate, plan: Plan, judged_share: float = 1.0) -> Criterion | None:
    """Return the criterion of a gate; None if it names a comparator that is not installed here.

    Args:
        gate: One that reads pairs.
        plan: Whose alpha: shared out to fail, whole to pass.
        judged_share: The share of pairs that a model judges.
    """
    kind = None
    if gate.name not in METRICS:
        comparator = comparators().get(gate.name)
        if comparator is None:
            return None
        kind = plugin_metric(comparator.shape, comparator.direction)
    is_preference = (kind or METRICS[gate.name]).shape is Shape.PREFERENCE
    return criterion(
        gate.name,
        alpha=plan.alpha_per_gate,
        pass_alpha=plan.alpha,
        margin=gate.margin,
        limit=gate.limit,
        min_samples=gate.min_samples,
        critical=gate.is_critical,
        muted=gate.is_muted,
        kind=kind,
        judged_share=judged_share if is_preference else 1.0,
    )


def needs_noise(rollout: Rollout) -> bool:
    """Whether a gate of the stage that a rollout stands in, muted or not, is held against noise pairs."""
    gates = () if rollout.current is None else rollout.current.gates
    demands = [criterion_of(gate, rollout.plan) for gate in gates if gate.source is GateSource.PAIRS]
    return any(demand is not None and demand.needs_noise for demand in demands)


def badness_of(demand: Criterion, scored_pair: ScoredPair) -> float | None:
    """Return how much a pair speaks against the candidate, above 0 if it does; None if it says nothing."""
    outcome = outcome_against(scored_pair, demand.metric)
    if not isinstance(outcome, Score):
        return None
    goodness = outcome.value if demand.direction is Direction.HIGHER_IS_BETTER else 1 - outcome.value
    return (0.5 if demand.shape in (Shape.DIFFERENCE, Shape.PREFERENCE) else 1.0) - goodness


class StageEvidence:
    """The evidence of one stage.

    Args:
        stage: Whose gates.
        rollout: Whose versions; pairs of others are left out.
        judged_share: The share of pairs that a model judges.
        make: Makes a gate's evidence of its criterion and the seconds of silence after which a session is over.

    Attributes:
        n: Pairs that compare the candidate with the control.
    """

    def __init__(
        self,
        stage: Stage,
        rollout: Rollout,
        judged_share: float = 1.0,
        make: Callable[[Criterion, int], CriterionEvidence] = CriterionEvidence,
    ) -> None:
        self._control, self._candidate = rollout.control, rollout.candidate
        self._gates: dict[str, _GateEvidence] = {}
        self._missing: dict[str, Reading] = {}
        for gate in stage.gates:
            if gate.source is not GateSource.PAIRS:
                continue
            demand = criterion_of(gate, rollout.plan, judged_share)
            if demand is None:
                why = f"no comparator `{gate.name}` is installed on this gateway (n=0)"
                self._missing[gate.name] = no_pairs(gate, why)
            else:
                self._gates[gate.name] = _GateEvidence(gate, demand, make(demand, stage.idle_seconds))
        self._most, self._idle_seconds = stage.max_samples, stage.idle_seconds
        self._enough_at: float | None = None
        self._now = 0.0
        self.n = 0

    @property
    def is_settled(self) -> bool:
        """Whether all sessions of the stage's `max_samples` pairs have counted; True before there are so many pairs."""
        enough_at = self._enough_at
        if enough_at is None:
            return True
        is_idle = self._now >= enough_at + self._idle_seconds
        return is_idle and all(gate.evidence.has_counted(enough_at) for gate in self._gates.values())

    def add(self, scored_pair: ScoredPair) -> None:
        """Take in the next pair."""
        is_noise = scored_pair.kind is Kind.NOISE and scored_pair.control == self._control
        is_pair = scored_pair.kind is Kind.CANDIDATE and (scored_pair.control, scored_pair.other) == (
            self._control,
            self._candidate,
        )
        if not (is_noise or is_pair):
            return
        self.n += is_pair
        if is_pair and self.n == self._most:
            self._enough_at = max(scored_pair.at, scored_pair.scored_at)
        for gate in self._gates.values():
            gate.add(scored_pair, is_pair=is_pair)

    def close(self, now: float) -> None:
        """Count the sessions that are over by now, Unix seconds."""
        self._now = max(self._now, now)
        for gate in self._gates.values():
            gate.evidence.close(now)

    def readings(self) -> Mapping[str, Reading]:
        """Return the readings by gate."""
        return self._missing | {name: gate.reading() for name, gate in self._gates.items()}

    def failures(self, number: int) -> tuple[Reading, ...]:
        """Return the critical gates that fail, as readings that name their stage."""
        read = (gate.reading() for gate in self._gates.values())
        return tuple(replace(each, reason=f"in stage {number}: {each.reason}") for each in read if each.rolls_back)


class _GateEvidence:
    def __init__(self, gate: Gate, demand: Criterion, evidence: CriterionEvidence) -> None:
        self.gate = gate
        self.evidence = evidence
        self._demand = demand
        self._first: int | None = None
        self._last: int | None = None
        self._worst: list[tuple[float, int, str]] = []  # a heap, the least bad first

    def add(self, scored_pair: ScoredPair, *, is_pair: bool) -> None:
        """Add the next pair, or a pair of the control with itself, which measures noise."""
        self.evidence.add(scored_pair)
        bad = badness_of(self._demand, scored_pair) if is_pair else None
        if bad is None:
            return
        self._first = self._first or scored_pair.number
        self._last = scored_pair.number
        if bad > 0:
            entry = (bad, -scored_pair.number, scored_pair.sample)  # of equals the earlier ones
            (heapq.heappush if len(self._worst) < MAX_NAMED else heapq.heappushpop)(self._worst, entry)

    def reading(self) -> Reading:
        """Return the gate's reading from its pairs so far."""
        classification = self.evidence.classify()
        verdict = classification.label
        e_value = classification.e_pass if verdict is Verdict.PASS else classification.e_fail
        return Reading(
            gate=self.gate.name,
            is_muted=self.gate.is_muted,
            is_critical=self.gate.is_critical,
            verdict=verdict,
            reason=classification.reason,
            observed=classification.observed,
            limit=classification.limit,
            n=classification.n,
            e_value=e_value,
            first=self._first,
            last=self._last,
            against=tuple(sample for _, _, sample in sorted(self._worst, reverse=True)),
        )
