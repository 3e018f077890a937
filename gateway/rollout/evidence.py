"""Turn the counts of a rollout's stage into the facts that its gates and the sample-ratio test read. Pure.

Counts come from all replicas. Counts of another stage are ignored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from evaluators.judge.verdict import Verdict
from gateway.observe.ledger import DURATION_BOUNDS
from gateway.observe.tally import Tally
from gateway.rollout.account_counts import (
    NO_COUNTS,
    AccountCounts,
    ArmCounts,
    accounts_of,
    arm_counts,
    callers_of,
)
from gateway.rollout.automation import decide, read_gates
from gateway.rollout.events import AUTOMATION, StepFailed, StepInconclusive, StepPassed
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.look import Facts
from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.sample_ratio import Exposures, Ratio, judge_ratio
from gateway.rollout.gates.streams import AccountStreams, Streams
from gateway.rollout.gates.traffic import latency_threshold, phrase_for
from gateway.rollout.gates.unit_shares import ArmUnits
from gateway.rollout.plan import Stage
from gateway.rollout.record import RolloutRecord
from gateway.rollout.rollout import Phase, Rollout
from gateway.rollout.rules import RULES, what_changed

# The least number of the control's requests that a latency threshold is computed from. With fewer, a 95th percentile
# is one of the five slowest, and may be off by buckets.
THRESHOLD_SAMPLES: Final = 100
SAMPLE_RATIO: Final = "sample_ratio"
ERROR_RATE: Final = "error_rate"
LATENCY: Final = "latency"
FEEDBACK: Final = "feedback"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePairs:
    """The state of a rollout's compared pairs and thumbs at one look.

    Attributes:
        stage: The number of the stage that the rollout was in when the pairs were read; in another stage this decides
            nothing.
        n: Pairs of the present stage that compare candidate with control.
        readings: Gate name → the reading from the present stage's pairs.
        is_settled: Whether all sessions of the pairs that max_pairs allows have had the time to end and count.
        late: Present readings of gates of earlier stages that fail.
        thumbs: Both arms' thumbs in the present stage; None if no gate reads them.
        warnings: Why there may be no pairs, as sentences.
    """

    stage: int = 0
    n: int = 0
    readings: Mapping[str, Reading] = field(default_factory=lambda: MappingProxyType({}))
    is_settled: bool = True
    late: tuple[Reading, ...] = ()
    thumbs: Streams | None = None
    warnings: tuple[str, ...] = ()


NO_PAIRS: Final = StagePairs()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """Both arms' requests in one stage of a rollout, in total and by account, and the state of its pairs.

    `multiplicity` is how often units were counted: see `Streams`.
    """

    stage: int
    control: ArmCounts = NO_COUNTS
    candidate: ArmCounts = NO_COUNTS
    accounts: tuple[AccountCounts, ...] = ()
    multiplicity: float = 1.0
    pairs: StagePairs = NO_PAIRS


def counts_of(tallies: Sequence[Tally], rollout: Rollout, pairs: StagePairs = NO_PAIRS) -> StageCounts:
    """Return the counts of the rollout's present stage; all zero if there is no tally of it yet."""
    if pairs.stage != rollout.stage:
        pairs = NO_PAIRS
    for tally in tallies:
        if (tally.rollout, tally.stage) == (rollout.id, rollout.stage):
            return StageCounts(
                stage=rollout.stage,
                control=arm_counts(tally.control, len(tally.units.control)),
                candidate=arm_counts(tally.candidate, len(tally.units.candidate)),
                accounts=accounts_of(tally),
                multiplicity=tally.multiplicity,
                pairs=pairs,
            )
    return StageCounts(stage=rollout.stage, pairs=pairs)


def facts_of(counts: StageCounts, record: RolloutRecord) -> Facts:
    """Return the facts that gates read, from a stage's counts and pairs."""
    weight, threshold = record.rollout.weight, record.threshold_seconds
    streams = {ERROR_RATE: _streams(counts, weight, lambda arm: arm.failing)}
    if threshold is not None:
        slow = _streams(counts, weight, lambda arm: arm.slow)
        streams[LATENCY] = replace(slow, threshold_seconds=threshold)
    pairs, stage = counts.pairs, record.rollout.current
    if pairs.thumbs is not None:
        # An account that gives no thumbs has not said that all is well, but it does count as a caller: otherwise the
        # thumbs of one account would pass for those of everybody.
        streams[FEEDBACK] = replace(pairs.thumbs, callers=max(pairs.thumbs.callers, callers_of(counts.accounts)))
    samples = pairs.n if stage is not None and stage.is_shadow else counts.candidate.requests
    return Facts(
        stage=counts.stage,
        samples=samples,
        streams=streams,
        pair_readings=pairs.readings,
        is_settled=pairs.is_settled,
        late=pairs.late,
    )


def _streams(counts: StageCounts, weight: int, read: Callable[[ArmCounts], ArmUnits]) -> Streams:
    """Return the units of both arms that one gate reads, in total and by account."""
    accounts = tuple(
        AccountStreams(account=each.account, control=read(each.control), candidate=read(each.candidate))
        for each in counts.accounts
    )
    return Streams(
        control=read(counts.control),
        candidate=read(counts.candidate),
        accounts=accounts,
        callers=callers_of(counts.accounts),
        weight=weight,
        multiplicity=counts.multiplicity,
    )


def period_of(counts: StageCounts, rollout: Rollout, before: Sequence[Exposures] = ()) -> Exposures | None:
    """Return both arms' units in the rollout's stage; None if only one arm serves callers, as in a shadow stage.

    Args:
        counts: What was counted in the stage.
        rollout: The rollout in its present state.
        before: Units of the earlier stages. If all units together do not fit the weights, but fit them without one
            account, that account's units are left out: a caller chooses its units, and must not be able to stop a
            rollout by that.
    """
    if not rollout.weight:
        return None
    return _split(counts, rollout.weight, before)[0]


def ratio_of(counts: StageCounts, record: RolloutRecord) -> Ratio:
    """Return whether the units of all stages fit their weights."""
    weight = record.rollout.weight
    if not weight:
        return judge_ratio(record.periods)
    period, left_out = _split(counts, weight, record.periods)
    ratio = judge_ratio((*record.periods, period))
    if not left_out:
        return ratio
    return replace(ratio, reason=f"{ratio.reason}; without {phrase_for(left_out)}, whose units are not split so")


def _split(counts: StageCounts, weight: int, before: Sequence[Exposures]) -> tuple[Exposures, str]:
    """Return the units of a stage, and the account that was left out of them; empty if none was."""
    control, candidate = counts.control.units, counts.candidate.units
    whole = Exposures(weight=weight, control=control, candidate=candidate)
    if callers_of(counts.accounts) < 2 or judge_ratio((*before, whole)).verdict is not Verdict.FAIL:
        return whole, ""
    for each in counts.accounts:
        rest = Exposures(
            weight=weight,
            control=max(0, control - each.control.units),
            candidate=max(0, candidate - each.candidate.units),
        )
        if judge_ratio((*before, rest)).verdict is not Verdict.FAIL:
            return rest, each.account
    return whole, ""


def latency_gate(stage: Stage | None) -> Gate | None:
    """Return the stage's `latency` gate, or None."""
    gates: Sequence[Gate] = stage.gates if stage is not None else ()
    return next((gate for gate in gates if gate.name == LATENCY), None)


def threshold_of(durations: Sequence[int], stage: Stage | None) -> float | None:
    """Return the duration above which a request of `stage` is slow, from the control's requests alone.

    Args:
        durations: (n_buckets + 1,) requests of the control, preferably from before the stage. If there were none, those
            of the stage itself will do: the candidate's requests, which are judged, are not among them.
        stage: The stage that is judged.

    Returns:
        Seconds; None without a latency gate, or with too few requests.
    """
    gate = latency_gate(stage)
    if gate is None or gate.quantile is None or sum(durations) < THRESHOLD_SAMPLES:
        return None
    return latency_threshold(DURATION_BOUNDS, durations, gate.quantile)


def next_stage(rollout: Rollout) -> Stage | None:
    """Return the plan's stage after the present one, or None."""
    following = rollout.plan.stages[rollout.index + 1 :]
    return following[0] if following else None


def judge_stage(
    record: RolloutRecord, counts: StageCounts, now: float
) -> StepPassed | StepFailed | StepInconclusive | None:
    """Return the event that automation causes now, or None to wait.

    A critical gate's failure comes first, since rolling a bad candidate back is right whatever the split. Next, a stage
    that began by other rules is paused (`rollout/rules.py`). Next, a mismatch of the sample ratio pauses the rollout:
    it makes comparisons worthless, so the rollout neither goes forward nor is rolled back.
    """
    rollout, stage = record.rollout, record.rollout.current
    if record.rules != RULES:  # the pairs so far were read by the old rules
        counts = replace(counts, pairs=NO_PAIRS)
    facts = facts_of(counts, record)
    event = decide(rollout, facts, now)
    if record.rules != RULES and stage is not None and not isinstance(event, StepFailed):
        if rollout.phase is Phase.PAUSED:
            return None
        return StepInconclusive(
            at=now,
            by=AUTOMATION,
            reason=what_changed(stage),
            stage=facts.stage,
            samples=facts.samples,
            readings=read_gates(rollout, facts, now),
        )
    if isinstance(event, StepFailed) or rollout.phase is not Phase.CANARY:
        return event
    ratio = ratio_of(counts, record)
    if ratio.verdict is not Verdict.FAIL:
        return event
    reading = Reading(
        gate=SAMPLE_RATIO,
        verdict=ratio.verdict,
        reason=ratio.reason,
        observed=ratio.observed,
        limit=ratio.expected,
        n=ratio.n,
    )
    return StepInconclusive(
        at=now,
        by=AUTOMATION,
        reason="traffic is not split as the weights say, so the arms cannot be compared",
        stage=facts.stage,
        samples=facts.samples,
        readings=(reading,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStanding:
    """The state of a rollout's stage as the API and the CLI show it."""

    samples: int
    readings: tuple[Reading, ...]
    ratio: Ratio
    waits_for: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def standing_of(record: RolloutRecord, counts: StageCounts, now: float) -> StageStanding:
    """Return how a rollout's stage stands now."""
    facts = facts_of(counts, record)
    readings = read_gates(record.rollout, facts, now)
    return StageStanding(
        samples=facts.samples,
        readings=readings,
        ratio=ratio_of(counts, record),
        waits_for=(*waits_for(record, facts, readings, now), *counts.pairs.warnings),
        warnings=counts.pairs.warnings,
    )


def waits_for(record: RolloutRecord, facts: Facts, readings: Sequence[Reading], now: float) -> list[str]:
    """Return what has to happen before the rollout goes on, as sentences."""
    rollout, stage = record.rollout, record.rollout.current
    if rollout.is_over:
        return []
    if rollout.is_complete:
        return ["a person: promote the candidate, or roll it back"]
    if rollout.phase is Phase.PAUSED:
        return ["a person: resume, promote, abort or roll back"]
    if stage is None:
        return ["a person: start it"]
    waits = []
    left = rollout.entered_at + stage.min_seconds - now
    if left > 0:
        waits.append(f"{left:.0f} s more of its least time")
    if facts.samples < stage.min_samples:
        waits.append(f"{stage.min_samples - facts.samples:,} more {'pairs' if stage.is_shadow else 'samples'}")
    unsure = [each for each in readings if each.verdict is not Verdict.PASS and not each.is_muted]
    waits += [f"gate `{each.gate}`, which is {each.verdict}" for each in unsure]
    return waits or ["the leader's next look"]
