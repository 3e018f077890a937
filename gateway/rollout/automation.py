"""Decide what automation does at one look at a rollout: at most one event, from facts and the time.

A critical gate that fails rolls back at once, before the stage's least time and in a pause too, and also if it belongs
to an earlier stage, whose pairs may be judged late. Otherwise the plan applies: the rollout goes forward when all
gates pass and the stage has had enough time and samples; it pauses when time or samples are used up before that, or
when a gate fails that is not critical.
"""

from evaluators.judge.verdict import Verdict
from gateway.rollout.events import AUTOMATION, StepFailed, StepInconclusive, StepPassed
from gateway.rollout.gates.look import Facts, Look
from gateway.rollout.gates.reading import Reading, worst
from gateway.rollout.plan import Stage
from gateway.rollout.rollout import Phase, Rollout


def read_gates(rollout: Rollout, facts: Facts, now: float) -> tuple[Reading, ...]:
    """Return the present reading of each gate of the rollout's stage; empty if it is in no stage."""
    stage, plan = rollout.current, rollout.plan
    if stage is None:
        return ()
    look = Look(
        facts=facts,
        alpha=plan.alpha_per_gate,
        pass_alpha=plan.alpha,
        approved_by=rollout.approved_by,
        seconds=now - rollout.entered_at,
    )
    return tuple(gate.kind.judge(gate, look) for gate in stage.gates)


def decide(rollout: Rollout, facts: Facts, now: float) -> StepPassed | StepFailed | StepInconclusive | None:
    """Return the event that automation causes now, or None to wait.

    Args:
        rollout: The rollout in its present state.
        facts: Counts of its present stage; facts of another stage decide nothing.
        now: Unix seconds. A clock that was set back only makes the stage longer.
    """
    stage = rollout.current
    if stage is None or facts.stage != rollout.stage:
        return None
    readings = read_gates(rollout, facts, now)
    verdict = worst(readings)
    against = (*readings, *(reading for reading in facts.late if reading.rolls_back))
    if any(reading.rolls_back for reading in against):
        return StepFailed(at=now, by=AUTOMATION, stage=facts.stage, samples=facts.samples, readings=against)
    if rollout.phase is Phase.PAUSED:
        return None
    if verdict is Verdict.PASS and rollout.may_pass(now, facts.samples):
        return StepPassed(at=now, by=AUTOMATION, stage=facts.stage, samples=facts.samples, readings=readings)
    failing = ", ".join(f"`{reading.gate}`" for reading in readings if reading.fails)
    reason = (
        f"{failing} fails, which is not critical"
        if failing
        else _used_up(stage, now - rollout.entered_at, facts, verdict)
    )
    if reason is None:
        return None
    return StepInconclusive(
        at=now, by=AUTOMATION, reason=reason, stage=facts.stage, samples=facts.samples, readings=readings
    )


def _used_up(stage: Stage, seconds: float, facts: Facts, verdict: Verdict) -> str | None:
    """Return why the stage is out of time or samples, or None. A stage that passes only waits for its least time."""
    samples = facts.samples
    if seconds >= stage.max_seconds:
        few = f" with {samples:,} of {stage.min_samples:,} samples" if samples < stage.min_samples else ""
        return f"the gates did not pass within max_time ({seconds:.0f} s ≥ {stage.max_seconds} s){few}"
    if stage.max_samples is None or samples < stage.max_samples or not facts.is_settled:
        return None
    if verdict is not Verdict.PASS:
        return f"the gates did not pass within max_samples ({samples:,} ≥ {stage.max_samples:,})"
    return None
