"""Rollouts on a real SQLite store: what is kept, judged, carried out by the leader, refused, and told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from adapters.lifecycle import Event as LifeEvent
from gateway.admin.rollouts.apply import desired_after, route_after
from gateway.admin.rollouts.operations import Actor, UnknownRollout
from gateway.admin.rollouts.rollback import roll_back
from gateway.admin.route_journal import route_record
from gateway.admin.state import Conflict
from gateway.decide.assign import Arm
from gateway.observe.ledger import DURATION_BOUNDS, Cell
from gateway.observe.tally import Tally
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired
from gateway.rollout import explain
from gateway.rollout.account_counts import ArmCounts
from gateway.rollout.events import Aborted, Paused, Resumed, StepFailed, StepInconclusive, StepPassed
from gateway.rollout.evidence import (
    THRESHOLD_SAMPLES,
    StageCounts,
    counts_of,
    facts_of,
    judge_stage,
    period_of,
    standing_of,
    threshold_of,
)
from gateway.rollout.gates.sample_ratio import Exposures
from gateway.rollout.gates.unit_shares import ArmUnits, Count, Shares, units_of
from gateway.rollout.machine import advance
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.record import Last, RolloutRecord, UnreadableRollout
from gateway.rollout.rollout import Phase, Rollout
from gateway.store.errors import Fenced, StoreUnavailable, StoreUnreadable
from gateway.store.rollouts import RolloutRow, from_row, readable, to_row
from gateway.store.sql import Store
from tests.support.examples import examples
from tests.support.rollout_world import ORDER, RAMP, World, make_record, run, store
from tests.support.route_values import ENTRIES, SUPPORT, A, B, C
from tests.support.unit_counts import by_unit

__all__ = ["store"]  # the fixture

LATENCY = {"steps": [{"weight": "50%", "gates": ["latency"]}]}
QUICK = tuple(1_000 if number == 2 else 0 for number in range(len(DURATION_BOUNDS) + 1))  # all within 0.1 s


# What is kept


@given(
    rollout=st.builds(
        Rollout,
        id=st.text(),
        alias=st.text(),
        control=st.text(),
        candidate=st.text(),
        home=st.text(),
        plan=st.sampled_from([parse_plan(RAMP), parse_plan("shadow 5 pairs → 1 %"), parse_plan("100 %")]),
        phase=st.sampled_from(Phase),
        index=st.integers(0, 9),
        stage=st.integers(0, 99),
        weight=st.integers(0, 10_000),
        entered_at=st.floats(0, 2e9),
        approved_by=st.none() | st.text(),
        is_complete=st.booleans(),
        sequence=st.integers(1, 99),
    ),
    last=st.builds(Last, at=st.floats(0, 2e9), by=st.text(), event=st.text(), why=st.text()),
    periods=st.lists(st.builds(Exposures, weight=st.integers(0, 10_000), control=st.integers(0, 9)), max_size=3),
    seconds=st.none() | st.sampled_from(DURATION_BOUNDS),
)
@settings(max_examples=examples(50), deadline=None)
def test_a_record_comes_back_from_json_as_it_was(
    rollout: Rollout, last: Last, periods: list[Exposures], seconds: float | None
) -> None:
    kept = RolloutRecord(
        rollout=rollout,
        by="k",
        reason="r",
        started_at=1.5,
        last=last,
        threshold_seconds=seconds,
        periods=tuple(periods),
        journal_after=7,
    )
    assert from_row(msgspec.json.decode(msgspec.json.encode(to_row(kept)), type=RolloutRow)) == kept


def test_a_record_names_the_stages_that_were_entered_and_that_its_plan_has() -> None:
    plan = parse_plan(RAMP)
    record = make_record()
    of_earlier_release = replace(record, entered=(), rollout=replace(record.rollout, plan=plan, stage=3, index=1))
    assert list(of_earlier_release.stages()) == [(3, plan.stages[1])]
    draft = replace(of_earlier_release, rollout=replace(of_earlier_release.rollout, stage=0))
    assert list(draft.stages()) == []
    past_the_plan = replace(draft, entered=(0, len(plan.stages)))
    assert list(past_the_plan.stages()) == [(1, plan.stages[0])]


@pytest.mark.parametrize(
    "spoil", [{"state": None}, {"state": {}}, {"last": 3}, {"periods": [{"weight": 10_001}]}, {"by": None}]
)
def test_a_body_that_is_no_record_is_unreadable_and_not_half_read(spoil: dict[str, Any]) -> None:
    row = to_row(make_record())
    found = from_row(msgspec.structs.replace(row, body=row.body | spoil))
    assert isinstance(found, UnreadableRollout)
    assert to_row(found).body == row.body | spoil
    with pytest.raises(StoreUnreadable, match="a rollout in the store cannot be read"):
        readable(found)


def test_a_route_takes_the_split_of_its_rollout_and_remembers_the_control_it_had() -> None:
    state = make_record().rollout
    ramping = route_after(SUPPORT, state, 9)
    assert (ramping.control, ramping.candidate, ramping.weight) == (A, B, 5_000)
    assert route_after(ramping, state, 10) == ramping, "twice is as once"
    promoted = route_after(ramping, replace(state, phase=Phase.LIVE, home=B, weight=0), 11)
    assert (promoted.control, promoted.candidate, promoted.weight) == (B, None, 0)
    assert promoted.previous[0].version == A
    gone = desired_after(Desired(), make_record(), 9)
    assert (gone.routes, gone.rollouts[0].is_open) == ((), True)


# What is judged


def test_counts_are_those_of_the_present_stage_alone() -> None:
    other, mine = Tally(rollout="ro-0", stage=2), Tally(rollout="ro-0", stage=1)
    other.candidate.requests = 99
    mine.candidate.requests, mine.candidate.errors = 5, 2
    mine.units.see(3, Arm.CANDIDATE)
    counts = counts_of([other, mine, Tally(rollout="ro-1", stage=1)], make_record().rollout)
    assert (counts.candidate.requests, counts.candidate.errors, counts.candidate.units) == (5, 2, 1)
    assert counts_of([other], make_record().rollout) == StageCounts(stage=1)


def test_slow_is_what_units_took_too_long_for_and_without_a_threshold_latency_is_not_measured() -> None:
    slow = ArmUnits(whole=Shares(first=Count(n=10, bad=5), over=((3, 8, 4),)))
    counts = StageCounts(stage=1, candidate=ArmCounts(requests=80, slow=slow))
    read = facts_of(counts, make_record(LATENCY, threshold_seconds=0.1)).streams["latency"]
    assert (read.candidate, read.threshold_seconds) == (slow, 0.1)
    assert "latency" not in facts_of(counts, make_record(LATENCY)).streams


def test_a_threshold_needs_enough_of_the_control_and_a_gate_that_asks_for_it() -> None:
    stage = parse_plan(LATENCY).stages[0]
    few = [0] * (len(DURATION_BOUNDS) + 1)
    few[2] = THRESHOLD_SAMPLES - 1
    assert threshold_of(few, stage) is None
    few[2] += 1
    assert threshold_of(few, stage) == 0.1
    assert threshold_of([], stage) is None
    assert threshold_of(few, parse_plan(RAMP).stages[0]) is None
    assert threshold_of(few, None) is None


def test_a_mismatch_of_the_ratio_pauses_what_would_pass_and_lets_what_fails_roll_back() -> None:
    arm = ArmCounts(requests=2_000, units=1_000, failing=units_of(Count(n=2_000)))
    even = StageCounts(stage=1, control=arm, candidate=arm)
    odd = replace(even, candidate=replace(arm, units=700))
    assert isinstance(judge_stage(make_record(), even, 200.0), StepPassed)
    event = judge_stage(make_record(), odd, 200.0)
    assert isinstance(event, StepInconclusive)
    assert event.readings[0].gate == "sample_ratio"
    assert "mismatch" in event.readings[0].reason
    failing = replace(odd, candidate=replace(odd.candidate, failing=units_of(Count(n=2_000, bad=2_000))))
    assert isinstance(judge_stage(make_record(), failing, 200.0), StepFailed)
    paused = make_record()
    paused = replace(paused, rollout=replace(paused.rollout, phase=Phase.PAUSED))
    assert judge_stage(paused, odd, 200.0) is None, "it is paused already"


def test_exposures_of_stages_that_are_over_count_until_somebody_resumes() -> None:
    first = make_record()
    event = StepPassed(at=1.0, by="automation", stage=1, samples=1)
    moved = replace(first.rollout, stage=2, index=1)
    passed = first.after(_transition(first, event, moved), period=Exposures(weight=5_000, control=10, candidate=9))
    assert passed.periods == (Exposures(weight=5_000, control=10, candidate=9),)
    paused = passed.after(advance(passed.rollout, Paused(at=2.0, by="k", reason="r")))
    assert paused.periods == passed.periods
    resumed = paused.after(advance(paused.rollout, Resumed(at=3.0, by="k", reason="seen to")), threshold_seconds=9.0)
    assert (resumed.periods, resumed.threshold_seconds) == ((), paused.threshold_seconds)
    assert period_of(StageCounts(stage=2), replace(moved, weight=0)) is None


def _transition(before: RolloutRecord, event: Any, after: Rollout) -> Any:
    from gateway.rollout.rollout import Transition

    return Transition(before=before.rollout, event=event, after=after)


def test_people_are_told_what_a_rollout_waits_for() -> None:
    started = make_record()
    waits = standing_of(started, StageCounts(stage=1), 101.0).waits_for
    assert waits == ("9 s more of its least time", "50 more samples", "gate `error_rate`, which is inconclusive")
    arm = ArmCounts(requests=2_000, failing=units_of(Count(n=2_000)))
    ready = standing_of(started, StageCounts(stage=1, control=arm, candidate=arm), 200.0)
    assert ready.waits_for == ("the leader's next look",)
    assert [reading.verdict for reading in ready.readings] == ["pass"]
    for fields, word in (
        ({"phase": Phase.PAUSED}, "resume"),
        ({"phase": Phase.PAUSED, "is_complete": True}, "promote the candidate"),
        ({"phase": Phase.DRAFT}, "start"),
    ):
        there = replace(started, rollout=replace(started.rollout, **fields))
        assert word in standing_of(there, StageCounts(stage=1), 200.0).waits_for[0]
    over = replace(started, rollout=replace(started.rollout, phase=Phase.LIVE))
    assert standing_of(over, StageCounts(stage=1), 200.0).waits_for == ()


# What the leader does


def test_the_leader_ramps_by_plan_and_each_step_is_one_change_with_its_record(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        started = await world.rollouts.start("support", B, RAMP, ORDER)
        assert (world.route(), started.rollout.sequence) == ((A, B, 1_000), 2)
        await world.look()
        assert world.route() == (A, B, 1_000), "nothing was counted"
        world.count(1)
        await world.look()
        assert (world.route(), world.rollout().stage) == ((A, B, 5_000), 2)
        await world.look()
        assert world.rollout().stage == 2, "counts of the stage before are no evidence"
        world.count(2)
        await world.look()
        assert (world.route(), world.rollout().phase) == ((B, None, 0), Phase.LIVE)
        assert world.replayed() == world.rollout()
        assert world.conductor.reading().rollouts == ()

    run(store, tmp_path, work)
    assert [each.by for each in store.history("support")] == ["automation", "automation", "key-1", ""]
    assert store.verify_journal() is None


def test_a_failing_candidate_is_taken_back_without_waiting_for_time_or_samples(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        world.count(1, n=40, errors=40)
        await world.look(0.5)
        assert (world.route(), world.rollout().phase) == ((A, None, 0), Phase.ROLLED_BACK)
        counts = world.conductor.reading().counts
        assert (counts.rollbacks, counts.pages) == ({("support", "error_rate"): 1}, {("support", "error_rate"): 1})

    run(store, tmp_path, work)


def test_a_mismatch_of_the_ratio_pauses_pages_and_begins_anew_when_somebody_resumes(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        world.count(1, units=(1_000, 400))
        await world.look()
        assert (world.route(), world.rollout().phase) == ((A, B, 1_000), Phase.PAUSED)
        assert world.rollouts.counts.pages == {("support", "sample_ratio"): 1}
        assert world.rollouts.counts.rollbacks == {}
        assert "mismatch: candidate's share 28.57% ≠ 10.00%" in store.journal()[-1].record["why"]
        await world.look()
        assert world.rollout().phase is Phase.PAUSED
        await world.rollouts.resume("support", ORDER)
        world.count(2, units=(900, 100))
        await world.look()
        assert world.rollout().stage == 3
        assert readable(store.rollouts()[0]).periods == (Exposures(weight=1_000, control=900, candidate=100),)

    run(store, tmp_path, work)


def test_a_candidate_that_engines_find_wrong_is_taken_back(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        condemned = world.state.find(B).after(LifeEvent.CONDEMN, "other weights")
        async with world.state.turn:
            await world.state.change(world.state.desired.with_catalog(world.state.catalog.with_entry(condemned)))
        await world.look()
        assert (world.route(), world.rollout().phase) == ((A, None, 0), Phase.ROLLED_BACK)
        assert "other weights" in store.journal()[-1].record["why"]
        assert world.rollouts.counts.rollbacks == {("support", "automation"): 1}

    run(store, tmp_path, work)


def test_a_rollout_of_an_alias_that_is_gone_is_aborted(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        async with world.state.turn:
            await world.state.change(msgspec.structs.replace(world.state.desired, routes=()))
        await world.look()
        assert (world.rollout().phase, store.read_state().rollouts) == (Phase.ABORTED, ())

    run(store, tmp_path, work)


def test_a_split_that_somebody_spoilt_is_set_right_and_journalled(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        async with world.state.turn:
            await world.state.change(world.state.desired.with_route(SUPPORT))
        await world.look()
        assert world.route() == (A, B, 1_000)
        record = store.journal()[-1].record
        assert (record["kind"], record["who"], record["after"]["weight"]) == ("route", "automation", 1_000)

    run(store, tmp_path, work)


def test_the_threshold_is_the_controls_from_before_and_else_from_within_the_stage(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        cell = Cell(alias="support", version=A)
        cell.duration.counts = list(QUICK)
        world.cells = [Cell(alias="support", version=B), cell]
        known = await world.rollouts.start("support", B, LATENCY, ORDER)
        assert known.threshold_seconds == 0.1
        await world.rollouts.abort("support", ORDER)
        world.cells = []
        unknown = await world.rollouts.start("support", B, LATENCY, ORDER)
        assert unknown.threshold_seconds is None
        tally = Tally(rollout="ro-1", stage=1)
        tally.control.duration.counts = list(QUICK)
        world.tallies = [tally]
        await world.look(1)
        rollout_record = await world.rollouts.find("support")
        assert (rollout_record.threshold_seconds, rollout_record.rollout.sequence) == (0.1, 2)
        assert store.journal()[-1].record["kind"] == "threshold"
        assert any("slower than 0.1 s" in line for line in explain.sentences(store.journal()[-1].record))

    run(store, tmp_path, work)


def test_a_later_stages_threshold_is_the_controls_from_the_stage_before(store: Store, tmp_path: Path) -> None:
    step = {"min_time": 0, "min_samples": 0, "gates": [{"latency": {"margin": "90%"}}]}

    async def work(world: World) -> None:
        cell = Cell(alias="support", version=A)
        cell.duration.counts = list(QUICK)
        world.cells = [cell]
        await world.rollouts.start("support", B, {"steps": [{"weight": "1%", **step}, {"weight": "2%", **step}]}, ORDER)
        tally = Tally(rollout="ro-0", stage=1)
        tally.control.duration.counts = [0, *QUICK[:-1]]  # a bucket slower than before
        for arm in (tally.control, tally.candidate):
            arm.by_unit.slow = by_unit(1_000, 0).failing
        world.tallies = [tally]
        await world.look()
        rollout_record = await world.rollouts.find("ro-0")
        assert (rollout_record.rollout.stage, rollout_record.threshold_seconds) == (2, 0.3)
        assert store.journal()[-1].record["threshold_seconds"] == 0.3

    run(store, tmp_path, work)


def test_who_was_replaced_as_leader_changes_nothing_and_stands_again(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        await world.look(0)
        assert world.conductor.is_leader
        world.count(1)
        before = store.version()
        with pytest.raises(Fenced):
            await world.state.change(world.state.desired, fence=0)
        real, world.leader.step = world.leader.step, lambda: 0  # type: ignore[method-assign]  # it does not know yet
        await world.look()
        assert (store.version(), world.conductor.is_leader) == (before, False)
        world.leader.step = real  # type: ignore[method-assign]
        await world.look()
        assert world.rollout().stage == 2

    run(store, tmp_path, work)


def test_while_the_store_is_away_nothing_is_decided_and_afterwards_it_goes_on(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        world.count(1)

        async def away() -> list[Tally]:
            raise StoreUnavailable("away")

        gather, world.rollouts.gather = world.rollouts.gather, away
        await world.look()
        assert world.rollout().stage == 1
        world.rollouts.gather = gather
        await world.look()
        assert world.rollout().stage == 2

    run(store, tmp_path, work)


def test_gates_are_exported_while_this_gateway_leads_and_the_figures_are_fresh(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        world.count(1, n=10, units=(90, 10))
        await world.look(1)
        reading = world.conductor.reading()
        assert reading.weights == {("support", "control", A): 9_000, ("support", "candidate", B): 1_000}
        (view,) = reading.rollouts
        assert view.readings is not None
        assert view.ratio is not None
        assert (view.phase, view.readings[0].n, view.ratio.n) == ("canary", 10, 100)
        assert (reading.is_leader, reading.journal_entries) == (True, 2)
        world.now += 60
        assert world.conductor.reading().rollouts[0].readings is None

    run(store, tmp_path, work)


# What people may do


def test_what_cannot_be_started_says_why_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        start = world.rollouts.start
        with pytest.raises(LookupError, match="no alias `sales`"):
            await start("sales", B, RAMP, ORDER)
        with pytest.raises(Conflict, match="is the control of `support` already"):
            await start("support", A, RAMP, ORDER)
        with pytest.raises(InvalidPlan, match="cannot read `fast`"):
            await start("support", B, "fast", ORDER)
        with pytest.raises(Conflict, match="asks for an audit"):
            await start("support", B, {**RAMP, "audit": True}, ORDER)
        with pytest.raises(Conflict, match="needs `reason`"):
            await start("support", B, RAMP, Actor(by="k", reason=" "))
        assert (store.version(), store.journal()) == (1, ())
        audited = await start("support", B, {**RAMP, "audit": True}, ORDER, override="an emergency")
        assert audited.rollout.phase is Phase.CANARY
        assert store.journal()[-1].record["why"] == "an emergency"

    run(store, tmp_path, work)


def test_without_a_plan_the_routes_own_is_taken_and_then_the_default(store: Store, tmp_path: Path) -> None:
    own = msgspec.structs.replace(SUPPORT, plan=RAMP)
    store.write_state(Desired(adapters=ENTRIES, routes=(own,)), expected=1)

    async def work(world: World) -> None:
        assert (await world.rollouts.start("support", B, None, ORDER)).rollout.plan == parse_plan(RAMP)
        await world.rollouts.abort("support", ORDER)
        async with world.state.turn:
            await world.state.change(world.state.desired.with_route(SUPPORT))
        default = (await world.rollouts.start("support", B, None, ORDER)).rollout.plan
        assert [stage.weight for stage in default.stages] == [500, 2_500, 5_000]
        assert default.promotes

    run(store, tmp_path, work)


def test_a_command_for_another_number_or_of_a_closed_rollout_is_a_conflict(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with pytest.raises(UnknownRollout, match="no rollout `support`"):
            await world.rollouts.pause("support", ORDER)
        await world.rollouts.start("support", B, RAMP, ORDER)
        await world.rollouts.pause("ro-0", replace(ORDER, sequence=2))
        with pytest.raises(
            Conflict, match=r"has moved on from number 2.*`Paused`, number 3, by `key-1`: a better tone"
        ):
            await world.rollouts.abort("support", replace(ORDER, by="key-2", sequence=2))
        with pytest.raises(Conflict, match="cannot take `Paused`"):
            await world.rollouts.pause("support", ORDER)
        await world.rollouts.promote("support", ORDER, is_early=True)
        with pytest.raises(Conflict, match=r"is over \(`live`\).*`Promoted`"):
            await world.rollouts.pause("ro-0", ORDER)
        assert world.replayed() == world.rollout()

    run(store, tmp_path, work)


def test_a_change_elsewhere_that_is_not_the_rollouts_does_not_get_in_its_way(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        desired = store.read_state()
        other = RouteRecord(alias="other", control=C, salt="x")
        store.write_state(desired.with_route(other), expected=desired.version)
        assert (await world.rollouts.pause("support", ORDER)).rollout.phase is Phase.PAUSED
        elsewhere = store.read_state()
        there = readable(elsewhere.rollouts[0])
        aborted = there.after(advance(there.rollout, Aborted(at=1.0, by="key-9", reason="mine")))
        store.write_state(desired_after(elsewhere, aborted, 1), expected=elsewhere.version)
        with pytest.raises(Conflict, match="by `key-9`: mine"):
            await world.rollouts.resume("support", ORDER)

    run(store, tmp_path, work)


def test_a_gateway_takes_back_a_rollout_that_another_has_just_begun(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        other = World(tmp_path, store)
        await world.rollouts.start("support", B, RAMP, ORDER)
        assert other.state.desired.rollouts == (), "it has not heard of it yet"
        assert (await roll_back(other.rollouts, "support", ORDER)).rollout == "ro-0"
        assert (other.route(), world.rollout().phase) == ((A, None, 0), Phase.ROLLED_BACK)

    run(store, tmp_path, work)


def test_a_rollback_holds_whatever_happens_to_the_rollout_at_the_same_time(store: Store, tmp_path: Path) -> None:
    """Another gateway moves the rollout after ours has read it and before it writes."""

    async def work(world: World) -> None:
        other = World(tmp_path, store)
        await world.rollouts.start("support", B, RAMP, ORDER)
        follow, moves = world.state.follow, [other.rollouts.pause, other.rollouts.resume]

        async def first_the_other(version: int) -> None:
            await follow(version)
            while moves:
                await moves.pop(0)("support", ORDER)

        world.state.follow = first_the_other  # type: ignore[method-assign]
        assert (await roll_back(world.rollouts, "support", ORDER)).rollout == "ro-0"
        assert (world.route(), world.rollout().phase) == ((A, None, 0), Phase.ROLLED_BACK)
        assert (world.replayed(), world.rollout().sequence) == (world.rollout(), 5)

    run(store, tmp_path, work)


@pytest.mark.parametrize(
    "spoilt", ['{"alias":"support","kind":"rollback"}', '{"after":5,"alias":"support","kind":"rollout"}']
)
def test_a_record_that_was_spoilt_keeps_nobody_from_going_back(store: Store, tmp_path: Path, spoilt: str) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        await world.rollouts.promote("support", ORDER, is_early=True)
        change = text("UPDATE journal SET record = :spoilt WHERE number = 3").bindparams(spoilt=spoilt)
        store.run_write(lambda connection: connection.execute(change))
        assert (await roll_back(world.rollouts, "support", ORDER)).after.control == A

    run(store, tmp_path, work)


def test_a_rollout_that_cannot_be_read_any_more_can_be_taken_back(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        desired = store.read_state()
        (record,) = desired.rollouts
        damaged = from_row(msgspec.structs.replace(to_row(record), body={"of": "a later release"}))
        store.write_state(desired.with_rollout(damaged), expected=desired.version)
        assert (await roll_back(world.rollouts, "support", ORDER)).rollout == "ro-0"
        assert (world.route(), store.read_state().rollouts) == ((A, None, 0), ())
        last = store.journal()[-1].record
        assert (last["kind"], last["rollout"], last["why"]) == ("rollback", "ro-0", "a better tone")

    run(store, tmp_path, work)


def test_rollback_takes_back_the_last_thing_an_alias_has_got(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with pytest.raises(Conflict, match="nothing to go back to"):
            await roll_back(world.rollouts, "support", ORDER)
        with pytest.raises(Conflict, match="needs a reason"):
            await roll_back(world.rollouts, "support", Actor(by="k", reason=""))
        await world.rollouts.start("support", B, RAMP, ORDER)
        taken = await roll_back(world.rollouts, "support", ORDER)
        assert (world.route(), taken.rollout, world.rollout().phase) == ((A, None, 0), "ro-0", Phase.ROLLED_BACK)
        with pytest.raises(Conflict, match=f"has been taken back to `{A}` just now.*by `key-1`: a better tone"):
            await roll_back(world.rollouts, "support", ORDER)
        await world.rollouts.start("support", B, "100 %", ORDER)
        assert (world.route(), world.rollout("ro-1").phase) == ((B, None, 0), Phase.LIVE)
        back = await roll_back(world.rollouts, "support", ORDER)
        assert (world.route(), back.rollout, back.before.control) == ((A, None, 0), "ro-1", B)
        assert world.state.desired.routes[0].previous == (), "what was taken back is nothing to go back to"
        with pytest.raises(Conflict, match=r"just now.*by `key-1`.*name a version with --to"):
            await roll_back(world.rollouts, "support", ORDER)
        world.now += 3600
        with pytest.raises(Conflict, match="it has had no other control"):
            await roll_back(world.rollouts, "support", ORDER)
        record = store.journal()[-1].record
        assert (record["kind"], record["rollout"], record["why"]) == ("rollback", "ro-1", "a better tone")
        split = msgspec.structs.replace(world.state.desired.routes[0], candidate=B, weight=100)
        async with world.state.turn:
            await world.state.change(world.state.desired.with_route(split))
        await roll_back(world.rollouts, "support", ORDER)
        assert world.route() == (A, None, 0), "the candidate of a split goes, the control stays"
        with pytest.raises(Conflict, match=f"serves `{A}` alone already"):
            await roll_back(world.rollouts, "support", ORDER, A)
        await roll_back(world.rollouts, "support", ORDER, B)
        assert world.route() == (B, None, 0)

    run(store, tmp_path, work)


# What is told


def test_every_kind_of_record_is_told_and_none_can_break_the_telling() -> None:
    changed = route_record(
        SUPPORT, msgspec.structs.replace(SUPPORT, weight=500, candidate=B), by="k", reason="why", at=0
    )
    assert "  weight: `5 %`; before `0 %`." in explain.sentences(changed)
    taken_back = changed | {"kind": "rollback", "rollout": "ro-1"}
    assert "  this takes back rollout `ro-1`." in explain.sentences(taken_back)
    assert "made `support`" in explain.sentences(route_record(None, SUPPORT, by="k", reason="", at=0))[0]
    assert "removed `support`" in explain.sentences(route_record(SUPPORT, None, by="k", reason="", at=0))[0]
    for record in ({}, {"kind": "rollout"}, {"kind": "route", "at": "x"}, {"kind": "threshold", "at": 1e300}):
        (line,) = explain.sentences(record)
        assert "cannot read" in line or "no reason was given" in line
    assert explain.sentences({"kind": "new", "at": 0, "who": "automation", "alias": "a", "why": "because"}) == [
        "1970-01-01 00:00:00 UTC, automation: `new` of `a`: because."
    ]
