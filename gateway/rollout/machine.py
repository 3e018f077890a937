"""The rollout's state machine: one table of transitions, and the function behind each of them.

`advance(state, event)` returns the new state and its effects as values; the caller journals
the transition with the change that carries the effects out. An illegal event raises and changes nothing.

Invariants: forward only when every gate of the stage passes and its least time and samples
are reached, or a person overrides with a reason; backward always and at once; once rolled back or
aborted, the candidate's weight is 0 and no event leads forward again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from evaluators.judge.verdict import Verdict
from gateway.rollout.events import (
    AUTOMATION,
    Aborted,
    Approved,
    AuditMissing,
    AuditPassed,
    Created,
    Event,
    Paused,
    Promoted,
    Resumed,
    RolledBack,
    Started,
    StepFailed,
    StepInconclusive,
    StepPassed,
)
from gateway.rollout.gates.reading import worst
from gateway.rollout.rollout import (
    Effect,
    FlipControl,
    Notify,
    NotifyPage,
    Phase,
    Rollout,
    SetMirror,
    SetWeight,
    Transition,
)


class IllegalEvent(ValueError):
    """The event cannot happen to a rollout that stands where this one does."""


Outcome = tuple[Rollout, tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table: the phases it may lead to, and the function that makes the new state."""

    targets: frozenset[Phase]
    make: Callable[[Rollout, Any], Outcome]


def create(event: Created) -> Transition:
    """Return the transition that makes a rollout, in draft: no traffic changes.

    Raises:
        IllegalEvent: The candidate is the control already.
    """
    if event.candidate == event.control:
        raise IllegalEvent(
            f"`{event.candidate}` is the control of `{event.alias}` already; there is nothing to roll out"
        )
    _check_words(event)
    after = Rollout(
        id=event.id,
        alias=event.alias,
        control=event.control,
        candidate=event.candidate,
        plan=event.plan,
        home=event.control,
        entered_at=event.at,
    )
    return Transition(before=None, event=event, after=after)


def advance(state: Rollout, event: Event) -> Transition:
    """Return the transition that `event` causes in `state`.

    Raises:
        IllegalEvent: The table has no such row, or its condition does not hold; the
            message says what can happen instead.
    """
    move = TRANSITIONS.get((state.phase, type(event)))
    if move is None:
        takes = ", ".join(sorted(kind.__name__ for phase, kind in TRANSITIONS if phase is state.phase)) or "nothing"
        raise IllegalEvent(
            f"rollout `{state.id}` is `{state.phase}` and cannot take `{type(event).__name__}`; it takes {takes}"
        )
    _check_words(event)
    after, effects = move.make(state, event)
    return Transition(before=state, event=event, after=replace(after, sequence=state.sequence + 1), effects=effects)


def _check_words(event: Event | Created) -> None:
    for name in ("by", "reason"):
        if not getattr(event, name, "given").strip():
            raise IllegalEvent(f"`{type(event).__name__}` needs `{name}`: the journal says who did what, and why")


# The functions of the table's rows


def _accept_audit(state: Rollout, _: AuditPassed) -> Outcome:
    return replace(state, phase=Phase.AUDITED), ()


def _reject_audit(state: Rollout, event: AuditMissing) -> Outcome:
    return replace(state, phase=Phase.DRAFT), (Notify(alias=state.alias, message=f"audit: {event.reason}"),)


def _start(state: Rollout, event: Started) -> Outcome:
    is_audited = state.phase is Phase.AUDITED or not state.plan.needs_audit
    if not is_audited and not _is_given(event.override):
        raise IllegalEvent(f"the plan of rollout `{state.id}` asks for an audit that passed; give one, or an override")
    return _enter(state, 0, event.at)


def _enter(state: Rollout, index: int, at: float) -> Outcome:
    """Go into a stage, or past the plan's last one."""
    if index == len(state.plan.stages):
        if state.plan.promotes:
            return _make_live(state)
        message = "the plan is complete; promote the candidate, or roll it back"
        return replace(state, phase=Phase.PAUSED, is_complete=True), (Notify(alias=state.alias, message=message),)
    stage = state.plan.stages[index]
    after = replace(
        state,
        phase=Phase.SHADOW if stage.is_shadow else Phase.CANARY,
        index=index,
        stage=state.stage + 1,
        entered_at=at,
        weight=stage.weight,
        approved_by=None,
    )
    return after, _traffic_effects(state, after)


def _traffic_effects(before: Rollout, after: Rollout) -> tuple[Effect, ...]:
    """Return the effects that change traffic from that of `before` to that of `after`."""
    effects: list[Effect] = []
    if before.is_mirrored and not after.is_mirrored:
        effects.append(SetMirror(alias=after.alias, candidate=after.candidate, is_on=False, share=0))
    if after.weight != before.weight:
        effects.append(SetWeight(alias=after.alias, candidate=after.candidate, weight=after.weight))
    if after.home != before.home:
        effects.append(FlipControl(alias=after.alias, before=before.home, after=after.home))
    if after.is_mirrored and after.mirrored_share != before.mirrored_share:
        share = after.mirrored_share
        effects.append(SetMirror(alias=after.alias, candidate=after.candidate, is_on=True, share=share))
    return tuple(effects)


def _make_live(state: Rollout) -> Outcome:
    after = replace(state, phase=Phase.LIVE, home=state.candidate, weight=0, is_complete=True)
    return after, _traffic_effects(state, after)


def _approve(state: Rollout, event: Approved) -> Outcome:
    _check_stage(state, event.stage)
    return replace(state, approved_by=event.by), ()


def _pass_stage(state: Rollout, event: StepPassed) -> Outcome:
    _check_stage(state, event.stage)
    stage = state.plan.stages[state.index]
    if sorted(reading.gate for reading in event.readings) != sorted(gate.name for gate in stage.gates):
        raise IllegalEvent(f"stage {state.stage} of rollout `{state.id}` has not been read by each of its gates once")
    if worst(event.readings) is not Verdict.PASS:
        raise IllegalEvent(f"stage {state.stage} of rollout `{state.id}` does not pass: its gates say otherwise")
    if not state.may_pass(event.at, event.samples):
        raise IllegalEvent(
            f"stage {state.stage} of rollout `{state.id}` takes at least {stage.min_seconds} s and "
            f"{stage.min_samples:,} samples; it has {event.at - state.entered_at:.0f} s and {event.samples:,}"
        )
    return _enter(state, state.index + 1, event.at)


def _fail(state: Rollout, event: StepFailed) -> Outcome:
    # The stage is not checked: evidence against a candidate does not expire with a step.
    failed = [reading.reason for reading in event.readings if reading.rolls_back]
    if not failed:
        raise IllegalEvent(f"no critical gate of rollout `{state.id}` fails in the readings given")
    return _take_back(state, state.control, "; ".join(failed))


def _roll_back(state: Rollout, event: RolledBack) -> Outcome:
    to_version = event.to_version or state.control
    if to_version == state.candidate:
        raise IllegalEvent(f"`{to_version}` is the candidate that is rolled back; name another version")
    return _take_back(state, to_version, event.reason, is_asked_for=event.by != AUTOMATION)


def _take_back(state: Rollout, to_version: str, why: str, *, is_asked_for: bool = False) -> Outcome:
    after = replace(state, phase=Phase.ROLLED_BACK, weight=0, home=to_version)
    message = f"`{state.candidate}` was rolled back to `{to_version}`: {why}"
    tell = Notify if is_asked_for else NotifyPage  # a person who rolls back need not be paged
    return after, (*_traffic_effects(state, after), tell(alias=state.alias, message=message))


def _pause_undecided(state: Rollout, event: StepInconclusive) -> Outcome:
    _check_stage(state, event.stage)
    message = f"the rollout of `{state.candidate}` is paused and needs a decision: {event.reason}"
    return replace(state, phase=Phase.PAUSED), (NotifyPage(alias=state.alias, message=message),)


def _pause(state: Rollout, _: Paused) -> Outcome:
    return replace(state, phase=Phase.PAUSED), ()


def _resume(state: Rollout, event: Resumed) -> Outcome:
    if state.is_complete:
        raise IllegalEvent(f"the plan of rollout `{state.id}` is complete; promote the candidate, or roll it back")
    return _enter(state, state.index, event.at)


def _promote(state: Rollout, event: Promoted) -> Outcome:
    if not state.is_complete and not _is_given(event.override):
        raise IllegalEvent(
            f"the plan of rollout `{state.id}` is not complete; promoting now is an override and needs `early`"
        )
    return _make_live(state)


def _abort(state: Rollout, _: Aborted) -> Outcome:
    after = replace(state, phase=Phase.ABORTED, weight=0)
    return after, _traffic_effects(state, after)


def _is_given(reason: str | None) -> bool:
    return reason is not None and bool(reason.strip())


def _check_stage(state: Rollout, stage: int) -> None:
    if stage != state.stage:
        raise IllegalEvent(f"rollout `{state.id}` is in stage {state.stage}; what was decided is of stage {stage}")


def _rows() -> dict[tuple[Phase, type[Event]], Move]:
    draft, audited, shadow, canary, paused = Phase.DRAFT, Phase.AUDITED, Phase.SHADOW, Phase.CANARY, Phase.PAUSED
    live, back, aborted = Phase.LIVE, Phase.ROLLED_BACK, Phase.ABORTED

    def to(make: Callable[[Rollout, Any], Outcome], *targets: Phase) -> Move:
        return Move(frozenset(targets), make)

    return {
        (draft, AuditPassed): to(_accept_audit, audited),
        (draft, AuditMissing): to(_reject_audit, draft),
        (draft, Started): to(_start, shadow, canary, live),  # live: a plan of 100 % alone
        (draft, Aborted): to(_abort, aborted),
        (audited, AuditMissing): to(_reject_audit, draft),
        (audited, Started): to(_start, shadow, canary, live),
        (audited, Aborted): to(_abort, aborted),
        (shadow, Approved): to(_approve, shadow),
        (shadow, StepPassed): to(_pass_stage, canary, live, paused),
        (shadow, StepFailed): to(_fail, back),
        (shadow, StepInconclusive): to(_pause_undecided, paused),
        (shadow, Paused): to(_pause, paused),
        (shadow, Promoted): to(_promote, live),
        (shadow, Aborted): to(_abort, aborted),
        (shadow, RolledBack): to(_roll_back, back),
        (canary, Approved): to(_approve, canary),
        (canary, StepPassed): to(_pass_stage, canary, live, paused),
        (canary, StepFailed): to(_fail, back),
        (canary, StepInconclusive): to(_pause_undecided, paused),
        (canary, Paused): to(_pause, paused),
        (canary, Promoted): to(_promote, live),
        (canary, Aborted): to(_abort, aborted),
        (canary, RolledBack): to(_roll_back, back),
        (paused, StepFailed): to(_fail, back),
        (paused, Resumed): to(_resume, shadow, canary),
        (paused, Promoted): to(_promote, live),
        (paused, Aborted): to(_abort, aborted),
        (paused, RolledBack): to(_roll_back, back),
        (live, RolledBack): to(_roll_back, back),
    }


TRANSITIONS: Final[Mapping[tuple[Phase, type[Event]], Move]] = MappingProxyType(_rows())
