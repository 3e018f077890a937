"""The rollout machine: its table, its conditions, its effects; the tick; and the way back from records."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Split
from gateway.rollout.automation import decide, read_gates
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
from gateway.rollout.gates.look import Facts
from gateway.rollout.gates.reading import Reading, worst
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.unit_shares import Count, units_of
from gateway.rollout.machine import TRANSITIONS, IllegalEvent, advance, create
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.replay import EVENTS, ReplayError, event_of, record_of, replay
from gateway.rollout.rollout import FlipControl, Notify, NotifyPage, Phase, Rollout, SetMirror, SetWeight, Transition
from tests.support.rollouts import FULL, SAID, V0, V1, V2, WHO, drafted, started

PAIRS_ALONE = {"shadow": {"pairs": 100, "gates": []}, "steps": [{"weight": "1%"}]}


def readings(state: Rollout, verdict: Verdict = Verdict.PASS) -> tuple[Reading, ...]:
    stage = state.plan.stages[state.index]
    return tuple(Reading(gate=gate.name, verdict=verdict, reason=f"{gate.name} {verdict}", n=9) for gate in stage.gates)


def passed(state: Rollout, at: float = 1e6, samples: int = 10_000) -> StepPassed:
    return StepPassed(at=at, by=AUTOMATION, stage=state.stage, samples=samples, readings=readings(state))


def failed(state: Rollout) -> StepFailed:
    return StepFailed(
        at=1.0,
        by=AUTOMATION,
        stage=state.stage,
        samples=9,
        readings=(Reading(gate="error_rate", verdict=Verdict.FAIL, reason="error rate 9 % > 1 % (n=9)", n=9),),
    )


def inconclusive(state: Rollout) -> StepInconclusive:
    return StepInconclusive(**SAID, stage=state.stage, samples=9, readings=readings(state, Verdict.INCONCLUSIVE))


def in_canary(plan: object = "1 % 10 min → 50 % → 100 %") -> Rollout:
    state = started(plan)
    assert state.phase is Phase.CANARY
    return state


def complete() -> Rollout:
    state = in_canary("1 % 10 min")
    return advance(state, passed(state)).after


STATES: dict[Phase, Callable[[], Rollout]] = {
    Phase.DRAFT: drafted,
    Phase.AUDITED: lambda: advance(drafted(), AuditPassed(**SAID)).after,
    Phase.SHADOW: started,
    Phase.CANARY: in_canary,
    Phase.PAUSED: lambda: advance(in_canary(), Paused(**SAID)).after,
    Phase.LIVE: lambda: advance(in_canary(), Promoted(**WHO, override="sure")).after,
    Phase.ROLLED_BACK: lambda: advance(in_canary(), RolledBack(**SAID)).after,
    Phase.ABORTED: lambda: advance(in_canary(), Aborted(**SAID)).after,
}


def legal_event(kind: type[Event], state: Rollout) -> Event:
    """An event of this kind that holds for `state`, if the table has a row for it."""
    made: dict[type[Event], Event] = {
        AuditPassed: AuditPassed(**SAID),
        AuditMissing: AuditMissing(**SAID),
        Started: Started(**WHO),
        Approved: Approved(**SAID, stage=state.stage),
        StepPassed: passed(state),
        StepFailed: failed(state),
        StepInconclusive: inconclusive(state),
        Paused: Paused(**SAID),
        Resumed: Resumed(**SAID),
        Promoted: Promoted(**WHO, override="sure"),
        Aborted: Aborted(**SAID),
        RolledBack: RolledBack(**SAID),
    }
    return made[kind]


# The table


@pytest.mark.parametrize("kind", get_args(Event))
@pytest.mark.parametrize("phase", Phase)
def test_every_pair_of_phase_and_event_does_what_the_table_says_or_is_illegal(phase: Phase, kind: type[Event]) -> None:
    state = STATES[phase]()
    copy = replace(state)
    event = legal_event(kind, state)
    move = TRANSITIONS.get((phase, kind))
    if move is None:
        with pytest.raises(IllegalEvent, match=f"is `{phase}` and cannot take `{kind.__name__}`"):
            advance(state, event)
    else:
        transition = advance(state, event)
        assert transition.after.phase in move.targets
        assert (transition.before, transition.event) == (state, event)
        assert transition.after.sequence == state.sequence + 1
    assert state == copy


def test_nothing_leads_on_from_rolled_back_or_aborted() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.ROLLED_BACK, Phase.ABORTED}
    assert [phase for phase in Phase if STATES[phase]().is_over] == [Phase.LIVE, Phase.ROLLED_BACK, Phase.ABORTED]


def test_only_a_pass_or_a_person_leads_to_live() -> None:
    to_live = {kind for (_, kind), move in TRANSITIONS.items() if Phase.LIVE in move.targets}
    assert to_live == {StepPassed, Promoted, Started}  # started: a plan of 100 % alone, which a person has written


def test_the_illegal_events_message_says_what_is_possible() -> None:
    with pytest.raises(IllegalEvent, match="rollout `r1` is `live` and cannot take `Resumed`; it takes RolledBack"):
        advance(STATES[Phase.LIVE](), Resumed(**SAID))
    with pytest.raises(IllegalEvent, match="it takes nothing"):
        advance(STATES[Phase.ABORTED](), Resumed(**SAID))


@pytest.mark.parametrize("event", [Paused(at=0, by=" ", reason="x"), Paused(at=0, by="x", reason="")])
def test_nothing_happens_without_who_and_why(event: Paused) -> None:
    with pytest.raises(IllegalEvent, match=r"`Paused` needs `(by|reason)`"):
        advance(in_canary(), event)


# Forward


def test_a_rollout_goes_through_its_plan_to_live() -> None:
    state = drafted()
    assert (state.phase, state.current, state.split()) == (Phase.DRAFT, None, Split(V1))
    transition = advance(state, Started(**WHO))
    assert transition.effects == (SetMirror(alias="support", candidate=V2, is_on=True, share=1_000),)
    assert (transition.after.phase, transition.after.is_mirrored, transition.after.split()) == (
        "shadow",
        True,
        Split(V1),
    )
    transition = advance(transition.after, passed(transition.after, at=700.0))
    assert transition.effects == (
        SetMirror(alias="support", candidate=V2, is_on=False, share=0),
        SetWeight(alias="support", candidate=V2, weight=100),
    )
    assert (transition.after.phase, transition.after.split()) == (Phase.CANARY, Split(V1, V2, 100))
    assert (transition.after.stage, transition.after.index, transition.after.entered_at) == (2, 1, 700.0)
    transition = advance(transition.after, passed(transition.after, at=1300.0))
    assert transition.effects == (SetWeight(alias="support", candidate=V2, weight=5000),)
    transition = advance(transition.after, passed(transition.after, at=2000.0))
    assert transition.effects == (
        SetWeight(alias="support", candidate=V2, weight=0),
        FlipControl(alias="support", before=V1, after=V2),
    )
    assert (transition.after.phase, transition.after.split()) == (Phase.LIVE, Split(V2))
    assert transition.why == "error_rate pass; latency pass"
    assert (transition.n, len(transition.readings)) == (10_000, 2)


def test_a_draft_is_not_made_of_the_control_itself() -> None:
    with pytest.raises(IllegalEvent, match="nothing to roll out"):
        create(Created(**SAID, id="r", alias="support", control=V1, candidate=V1, plan=parse_plan(FULL)))


def test_a_plan_that_asks_for_an_audit_starts_after_it_or_with_an_override() -> None:
    state = drafted({"audit": True, "steps": [{"weight": "1%"}]})
    for override in (None, "", "  "):
        with pytest.raises(IllegalEvent, match="audit"):
            advance(state, Started(**WHO, override=override))
    overridden = advance(state, Started(**WHO, override="known defect in the suite"))
    assert (overridden.after.phase, overridden.why) == (Phase.CANARY, "known defect in the suite")
    audited = advance(state, AuditPassed(**SAID)).after
    assert advance(audited, Started(**WHO)).after.phase is Phase.CANARY
    expired = advance(audited, AuditMissing(at=0, by="x", reason="expired"))
    assert (expired.after.phase, expired.effects) == (Phase.DRAFT, (Notify(alias="support", message="audit: expired"),))


def test_a_plan_of_100_per_cent_alone_is_live_at_once() -> None:
    transition = advance(drafted("100 %"), Started(**WHO))
    assert (transition.after.phase, transition.after.current) == (Phase.LIVE, None)
    assert transition.effects == (FlipControl(alias="support", before=V1, after=V2),)


def test_a_plan_without_100_per_cent_ends_in_a_pause_and_is_promoted_by_a_person() -> None:
    state = complete()
    assert (state.phase, state.weight, state.is_complete) == (Phase.PAUSED, 100, True)
    with pytest.raises(IllegalEvent, match="complete"):
        advance(state, Resumed(**SAID))
    assert advance(state, Promoted(**WHO)).after.split() == Split(V2)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.PAUSED])
def test_promoting_before_the_plan_is_complete_needs_a_reason(phase: Phase) -> None:
    state = STATES[phase]()
    for override in (None, " "):
        with pytest.raises(IllegalEvent, match="override"):
            advance(state, Promoted(**WHO, override=override))
    promoted = advance(state, Promoted(**WHO, override="the fix is urgent"))
    assert (promoted.after.phase, promoted.after.split(), promoted.why) == (Phase.LIVE, Split(V2), "the fix is urgent")
    assert not promoted.after.is_mirrored


def test_a_pass_must_be_of_this_stage_of_all_gates_and_after_least_time_and_samples() -> None:
    state = in_canary()
    good = passed(state, at=600.0, samples=200)
    assert advance(state, good).after.weight == 5000
    one, two = good.readings
    for change, message in (
        ({"stage": 7}, "stage 1; what was decided is of stage 7"),
        ({"readings": ()}, "each of its gates once"),
        ({"readings": (one, one)}, "each of its gates once"),
        ({"readings": (one, replace(two, verdict=Verdict.INCONCLUSIVE))}, "does not pass"),
        ({"readings": (one, replace(two, verdict=Verdict.FAIL))}, "does not pass"),
        ({"at": 599.9}, "at least 600 s"),
        ({"samples": 199}, "and 199"),
    ):
        with pytest.raises(IllegalEvent, match=message):
            advance(state, replace(good, **change))


def test_no_stage_may_pass_where_none_is_under_way() -> None:
    assert not drafted().may_pass(1e9, 10**9)
    assert in_canary().may_pass(600, 200)


def test_an_approval_is_of_one_stage() -> None:
    state = in_canary({"steps": [{"weight": "1%", "gates": ["manual"]}, {"weight": "2%", "gates": ["manual"]}]})
    with pytest.raises(IllegalEvent, match="stage 9"):
        advance(state, Approved(**SAID, stage=9))
    state = advance(state, Approved(**SAID, stage=1)).after
    assert state.approved_by == "key-1"
    assert advance(state, passed(state)).after.approved_by is None


# Backward


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.PAUSED])
def test_a_failure_rolls_back_at_once_and_pages(phase: Phase) -> None:
    state = STATES[phase]()
    transition = advance(state, failed(state))
    assert (transition.after.phase, transition.after.split()) == (Phase.ROLLED_BACK, Split(V1))
    assert not transition.after.is_mirrored
    message = f"`{V2}` was rolled back to `{V1}`: error rate 9 % > 1 % (n=9)"
    assert transition.effects[-1] == NotifyPage(alias="support", message=message)
    assert transition.effects[:-1] == (
        (SetMirror(alias="support", candidate=V2, is_on=False, share=0),)
        if phase is Phase.SHADOW
        else (SetWeight(alias="support", candidate=V2, weight=0),)
    )


def test_a_failure_without_a_reading_that_fails_is_no_failure() -> None:
    state = in_canary()
    with pytest.raises(IllegalEvent, match="no critical gate"):
        advance(state, replace(failed(state), readings=readings(state)))


def test_a_rollback_from_live_flips_the_control_back_or_to_another_version() -> None:
    live = STATES[Phase.LIVE]()
    assert advance(live, RolledBack(**SAID)).effects == (
        FlipControl(alias="support", before=V2, after=V1),
        Notify(alias="support", message=f"`{V2}` was rolled back to `{V1}`: because"),
    )
    assert advance(live, RolledBack(**SAID, to_version=V0)).after.split() == Split(V0)
    with pytest.raises(IllegalEvent, match="is the candidate"):
        advance(live, RolledBack(**SAID, to_version=V2))


def test_a_rollback_in_a_ramp_takes_the_weight_and_may_go_further_back() -> None:
    transition = advance(in_canary(), RolledBack(at=0, by=AUTOMATION, reason="a fingerprint is wrong", to_version=V0))
    assert transition.effects == (
        SetWeight(alias="support", candidate=V2, weight=0),
        FlipControl(alias="support", before=V1, after=V0),
        NotifyPage(alias="support", message=f"`{V2}` was rolled back to `{V0}`: a fingerprint is wrong"),
    )


def test_an_abort_takes_the_weight_and_tells_nobody() -> None:
    transition = advance(in_canary(), Aborted(**SAID))
    assert transition.effects == (SetWeight(alias="support", candidate=V2, weight=0),)
    mirror = SetMirror(alias="support", candidate=V2, is_on=False, share=0)
    assert advance(started(), Aborted(**SAID)).effects == (mirror,)


# Pause


def test_a_pause_keeps_the_weight_and_resuming_begins_the_stage_anew() -> None:
    state = in_canary()
    paused = advance(state, Paused(**SAID))
    assert (paused.effects, paused.after.split()) == ((), Split(V1, V2, 100))
    resumed = advance(paused.after, Resumed(at=5_000.0, by="key-1", reason="looked at it"))
    assert (resumed.effects, resumed.after.phase, resumed.after.index) == ((), Phase.CANARY, 0)
    assert (resumed.after.stage, resumed.after.entered_at) == (2, 5_000.0)
    with pytest.raises(IllegalEvent, match="of stage 1"):  # what was counted before decides no more
        advance(resumed.after, passed(state))


def test_a_paused_shadow_keeps_its_mirror() -> None:
    paused = advance(started(), Paused(**SAID)).after
    assert paused.is_mirrored
    resumed = advance(paused, Resumed(**SAID))
    assert (resumed.after.phase, resumed.effects) == (Phase.SHADOW, ())


def test_an_inconclusive_stage_pauses_and_pages() -> None:
    state = in_canary()
    transition = advance(state, inconclusive(state))
    assert (transition.after.phase, transition.after.weight) == (Phase.PAUSED, 100)
    assert [type(effect) for effect in transition.effects] == [NotifyPage]
    with pytest.raises(IllegalEvent, match="of stage 1"):
        advance(replace(state, stage=2), inconclusive(state))


# The tick


GOOD = Streams(control=units_of(Count(n=100_000, bad=100)), candidate=units_of(Count(n=5_000, bad=5)))
BAD = Streams(control=units_of(Count(n=100_000, bad=100)), candidate=units_of(Count(n=100, bad=50)))
FEW = Streams(control=units_of(Count(n=100, bad=0)), candidate=units_of(Count(n=1, bad=0)))


def facts(streams: Streams, samples: int = 5_000, stage: int = 1, latency: Streams | None = None) -> Facts:
    return Facts(stage=stage, samples=samples, streams={"error_rate": streams, "latency": latency or GOOD})


def test_automation_goes_on_when_gates_time_and_samples_agree() -> None:
    state = in_canary()
    event = decide(state, facts(GOOD), 600.0)
    assert isinstance(event, StepPassed)
    assert (event.by, event.samples, worst(event.readings)) == (AUTOMATION, 5_000, Verdict.PASS)
    assert advance(state, event).after.weight == 5000
    assert decide(state, facts(GOOD), 599.0) is None
    assert decide(state, facts(GOOD, samples=199), 600.0) is None
    assert decide(state, facts(GOOD), -1e6) is None  # the clock was set back


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.PAUSED])
def test_automation_rolls_back_at_once_whatever_the_least_time_and_in_a_pause(phase: Phase) -> None:
    state = STATES[phase]()
    event = decide(state, facts(BAD, samples=100), 0.0)
    assert isinstance(event, StepFailed)
    transition = advance(state, event)
    assert transition.after.phase is Phase.ROLLED_BACK
    assert "error rate 50.00% > control 0.10% + margin 1.00% (n=100 units, control n=100,000" in transition.why


def test_one_gate_that_fails_is_enough_and_one_that_is_not_measured_holds() -> None:
    state = in_canary()
    assert isinstance(decide(state, facts(GOOD, latency=BAD), 600.0), StepFailed)
    assert decide(state, Facts(stage=1, samples=5_000, streams={"error_rate": GOOD}), 600.0) is None


def test_automation_in_a_pause_never_goes_on_and_elsewhere_does_nothing() -> None:
    assert decide(STATES[Phase.PAUSED](), facts(GOOD), 1e6) is None
    assert decide(STATES[Phase.PAUSED](), facts(FEW), 1e9) is None
    for phase in (Phase.DRAFT, Phase.AUDITED, Phase.LIVE, Phase.ROLLED_BACK, Phase.ABORTED):
        state = STATES[phase]()
        assert decide(state, facts(BAD, stage=state.stage), 1e9) is None
        assert read_gates(state, facts(BAD), 1e9) == ()


def test_facts_of_another_stage_decide_nothing() -> None:
    assert decide(in_canary(), facts(BAD, stage=2), 1e9) is None


def test_time_that_is_used_up_pauses_and_says_what_was_missing() -> None:
    state = in_canary({"steps": [{"weight": "1%", "min_time": "10m", "max_time": "1h"}]})
    assert decide(state, facts(FEW, samples=1), 3_599.0) is None
    event = decide(state, facts(FEW, samples=1), 3_600.0)
    assert isinstance(event, StepInconclusive)
    assert event.reason == "the gates did not pass within max_time (3600 s ≥ 3600 s) with 1 of 200 samples"
    enough = decide(state, facts(FEW, samples=300), 4_000.0)
    assert isinstance(enough, StepInconclusive)
    assert enough.reason.endswith("(4000 s ≥ 3600 s)")
    assert advance(state, event).after.phase is Phase.PAUSED


def test_samples_that_are_used_up_pause_unless_only_the_least_time_is_missing() -> None:
    state = in_canary({"steps": [{"weight": "1%", "min_time": "10m", "max_samples": 1000}]})
    event = decide(state, facts(FEW, samples=1_000), 10.0)
    assert isinstance(event, StepInconclusive)
    assert event.reason == "the gates did not pass within max_samples (1,000 ≥ 1,000)"
    assert decide(state, facts(GOOD, samples=1_000), 10.0) is None
    assert decide(state, facts(FEW, samples=999), 10.0) is None


def test_a_manual_gate_waits_for_approval() -> None:
    state = in_canary({"steps": [{"weight": "1%", "min_time": 0, "min_samples": 0, "gates": ["manual"]}]})
    assert decide(state, Facts(stage=1), 1.0) is None
    approved = advance(state, Approved(**SAID, stage=1)).after
    event = decide(approved, Facts(stage=1), 1.0)
    assert isinstance(event, StepPassed)
    assert event.readings[0].reason == "approved by `key-1`"


def test_shadow_passes_by_pairs() -> None:
    state = started(PAIRS_ALONE)
    assert decide(state, Facts(stage=1, samples=99), 0.0) is None
    assert isinstance(decide(state, Facts(stage=1, samples=100), 0.0), StepPassed)


# Records


def story() -> list[Transition]:
    """A rollout with every kind of field in its events."""
    first = create(Created(**SAID, id="r1", alias="support", control=V1, candidate=V2, plan=parse_plan(FULL)))
    told = [first]
    for make in (
        lambda _: AuditMissing(**SAID),
        lambda _: AuditPassed(**SAID),
        lambda _: Started(**WHO, override="why not"),
        lambda state: Approved(**SAID, stage=state.stage),
        passed,
        inconclusive,
        lambda _: Resumed(at=1e6, by="key-2", reason="go on"),
        lambda _: Paused(**SAID),
        lambda _: Promoted(**WHO, override="enough"),
        lambda _: RolledBack(**SAID, to_version=V0),
    ):
        told.append(advance(told[-1].after, make(told[-1].after)))
    return told


def as_stored(transition: Transition) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(json.dumps(record_of(transition)))
    return stored


def test_a_record_says_who_why_before_and_after_with_versions_weights_and_gates() -> None:
    record = as_stored(story()[5])
    assert {key: record[key] for key in ("kind", "rollout", "alias", "sequence", "at", "who", "why", "n")} == {
        "kind": "rollout",
        "rollout": "r1",
        "alias": "support",
        "sequence": 6,
        "at": 1e6,
        "who": AUTOMATION,
        "why": "failed pass; refusal pass; repetition pass; truncated pass; kl pass",
        "n": 10_000,
    }
    assert (record["before"]["phase"], record["after"]["phase"]) == ("shadow", "canary")
    assert (record["before"]["weight"], record["after"]["weight"]) == (0, 100)
    assert (record["control"], record["candidate"]) == (V1, V2)
    assert record["config_hash"] == parse_plan(FULL).config_hash
    assert record["effects"][1] == {"type": "SetWeight", "alias": "support", "candidate": V2, "weight": 100}
    inconclusive_record = as_stored(story()[6])
    assert inconclusive_record["event"]["readings"][0]["verdict"] == "inconclusive"
    assert inconclusive_record["why"] == "because; error_rate inconclusive; latency inconclusive"


def test_records_replay_to_the_state_they_came_from_at_every_point_and_twice_over() -> None:
    told = story()
    records = [as_stored(transition) for transition in told]
    for at, transition in enumerate(told, 1):
        assert replay(records[:at]) == transition.after
    assert replay([*records, *records[-3:], records[0]]) == told[-1].after


def test_replay_keeps_every_attribute_of_the_state() -> None:
    standing = set(as_stored(story()[-1])["after"])
    fixed = {"id", "alias", "control", "candidate", "plan", "sequence"}
    assert standing | fixed == {field.name for field in fields(Rollout)}


def test_every_event_can_be_read_back() -> None:
    assert set(EVENTS.values()) == {*get_args(Event), Created}
    for transition in story():
        assert event_of(as_stored(transition)["event"]) == transition.event


def test_records_that_do_not_tell_one_story_are_refused() -> None:
    records = [as_stored(transition) for transition in story()]
    changed = records[3] | {"after": records[3]["after"] | {"weight": 9_999}}
    again = records[0] | {"sequence": 2}
    illegal = records[3] | {"event": {"type": "Resumed", **SAID}}
    same_number = records[2] | {"why": "another"}
    for given, message in (
        ([], "no records"),
        (records[1:], "record `2` comes where record 1 was expected"),
        ([*records[:3], *records[4:]], "record `5` comes where record 4 was expected"),
        ([*records[:3], same_number], "record `3` comes where record 4 was expected"),
        ([{}], "record `None`"),
        ([*records[:3], changed], "says something else"),
        ([records[0], again], "a second time"),
        ([*records[:3], illegal], "cannot follow"),
        ([records[1] | {"sequence": 1}], "begins with `Created`"),
        ([{"sequence": 1}], "`None` is no event"),
    ):
        with pytest.raises(ReplayError, match=message):
            replay(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "Exploded"}, "`Exploded` is no event"),
        ({"type": "Paused", "at": 0}, "`Paused` does not hold"),
        ({"type": "StepFailed", "readings": [{"verdict": "maybe"}]}, "`StepFailed` does not hold"),
        ({"type": "StepFailed", "readings": [{}]}, "`StepFailed` does not hold"),
        ({"type": "Created", "plan": {"steps": 1}}, "plan in `Created` cannot be read"),
    ],
)
def test_an_event_that_cannot_be_read_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        event_of(values)


# Verdicts


def test_the_worst_verdict_counts_and_none_at_all_is_a_pass() -> None:
    def reading(verdict: Verdict) -> Reading:
        return Reading(gate="g", verdict=verdict, reason="")

    good, unsure, bad = (reading(verdict) for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL))
    assert worst([]) is Verdict.PASS
    assert worst([good, unsure]) is Verdict.INCONCLUSIVE
    assert worst([unsure, bad, good]) is Verdict.FAIL
