"""Gates that compared pairs answer: what passes, fails, pauses and is only told; who reads them, and again."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from evaluators.compare.comparator import Direction, Shape
from evaluators.compare.registry import comparators
from evaluators.judge.verdict import Verdict
from evaluators.observation import Kind, Score, ScoredPair
from gateway.admin.rollouts.pair_reader import NOBODY_COMPARES
from gateway.admin.state import Conflict
from gateway.records.feedback import About, Feedback
from gateway.records.routes import JudgePolicy, MirrorPolicy, Shadow
from gateway.records.state import Desired
from gateway.rollout import explain, stage_evidence
from gateway.rollout.automation import decide
from gateway.rollout.events import StepFailed, StepPassed
from gateway.rollout.explain import plan_line
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.look import Facts
from gateway.rollout.gates.pairs import no_pairs
from gateway.rollout.gates.reading import Reading, worst
from gateway.rollout.machine import IllegalEvent, advance
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.record import UnreadableRollout
from gateway.rollout.replay import event_of, record_of
from gateway.rollout.rollout import Phase
from gateway.rollout.simulate import Outcome, not_replayed, simulate
from gateway.rollout.stage_evidence import StageEvidence, criterion_of
from gateway.store.errors import StoreUnavailable
from gateway.store.evaluators import Evaluators
from gateway.store.feedback import Feedbacks
from gateway.store.pairs import Pairs
from gateway.store.sql import Store
from tests.support.rollout_world import ORDER, World, run, store
from tests.support.route_values import ENTRIES, SUPPORT, A, B
from tests.support.scored_pairs import judged, many
from tests.support.stored_pairs import PLAN, SHADOW, STEP, begun, plant, shadow

__all__ = ["store"]  # a fixture


# What a reading is worth


def test_a_muted_gate_never_decides_and_one_that_is_not_critical_asks_a_person() -> None:
    failing = Reading(gate="kl", verdict=Verdict.FAIL, reason="kl 0.9 > 0.5")
    muted, mild = replace(failing, is_muted=True), replace(failing, is_critical=False)
    assert worst([muted]) is Verdict.PASS
    assert (failing.rolls_back, muted.rolls_back, muted.fails, mild.fails, mild.rolls_back) == (
        True,
        False,
        False,
        True,
        False,
    )
    finding = Reading(
        gate="kl", verdict=Verdict.FAIL, reason="kl 0.9 > 0.5", observed=0.9, limit=0.5, n=80, e_value=1e4
    )
    for gate, phase in (
        ({"kl": {}}, Phase.ROLLED_BACK),
        ({"kl": {"critical": False}}, Phase.PAUSED),
        ({"kl": {"muted": True}}, None),
    ):
        state = replace(_in_shadow(shadow(gate)), entered_at=0.0)
        event = decide(state, Facts(stage=1, samples=80, pair_readings={"kl": finding}), 1.0)
        assert phase is None if event is None else advance(state, event).after.phase is phase
    paused = replace(_in_shadow(shadow({"kl": {"critical": False}})), phase=Phase.PAUSED)
    assert decide(paused, Facts(stage=1, samples=80, pair_readings={"kl": finding}), 1.0) is None


def _in_shadow(plan: Any) -> Any:
    from tests.support.rollouts import started

    return started(plan)


def test_a_failure_that_is_not_critical_is_no_step_failed_and_no_pass() -> None:
    state = _in_shadow(shadow({"kl": {"critical": False}}))
    mild = Reading(gate="kl", verdict=Verdict.FAIL, reason="r", is_critical=False)
    with pytest.raises(IllegalEvent, match="no critical gate"):
        advance(state, StepFailed(at=1.0, by="automation", stage=1, samples=1, readings=(mild,)))
    with pytest.raises(IllegalEvent, match="does not pass"):
        advance(state, StepPassed(at=1.0, by="automation", stage=1, samples=100, readings=(mild,)))


def test_a_gate_whose_comparator_is_not_installed_is_inconclusive_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(name="score:tone", margin=0.1)
    state = _in_shadow(shadow("refusal"))
    monkeypatch.setattr(stage_evidence, "comparators", dict)
    evidence = StageEvidence(replace(state.plan.stages[0], gates=(gate,)), state)
    reading = evidence.readings()["score:tone"]
    assert reading.verdict is Verdict.INCONCLUSIVE
    assert reading.reason == "no comparator `score:tone` is installed on this gateway (n=0)"


def test_a_gate_of_a_plugin_reads_the_metric_that_the_plugins_comparator_describes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = _in_shadow(shadow("refusal"))
    monkeypatch.setattr(stage_evidence, "comparators", lambda: {"score:tone": comparators()["refusal"]})
    demand = criterion_of(Gate(name="score:tone", margin=0.1), state.plan)
    assert demand is not None
    assert (demand.shape, demand.direction) == (Shape.DIFFERENCE, Direction.LOWER_IS_BETTER)


def test_a_replay_whose_last_pair_passes_a_stage_before_the_last_is_undecided() -> None:
    gates: list[Any] = [{"refusal": {"margin": "90%"}}]
    step: dict[str, Any] = {**STEP, "gates": gates}
    wide: dict[str, Any] = {**SHADOW, "gates": gates}
    plan = parse_plan({"shadow": wide, "steps": [step, {"weight": "100%"}]})
    past = _in_shadow(shadow("refusal"))
    pairs = [
        structs.replace(each, number=number, rollout=past.id)
        for number, each in enumerate(many(200, past.control, past.candidate), start=1)
    ]
    first = parse_plan({"shadow": wide, "steps": [STEP]})
    assert simulate(first, past, pairs).outcome is Outcome.PASSED
    assert simulate(plan, past, pairs).outcome is Outcome.UNDECIDED


def test_a_gate_without_pairs_is_inconclusive() -> None:
    reading = no_pairs(Gate(name="kl", is_critical=False))
    assert (reading.verdict, reading.n, reading.is_critical) == (Verdict.INCONCLUSIVE, 0, False)
    assert reading.reason == "no pair has been compared yet (n=0)"


def test_what_a_gate_of_pairs_said_comes_back_from_the_journal_as_it_was() -> None:
    reading = Reading(
        gate="kl",
        verdict=Verdict.FAIL,
        reason="kl 0.9 > 0.5",
        observed=0.9,
        limit=0.5,
        n=80,
        e_value=1e4,
        first=7,
        last=99,
        against=("ab", "cd"),
        is_critical=True,
    )
    state = _in_shadow(PLAN)
    event = StepFailed(at=1.0, by="automation", stage=1, samples=80, readings=(reading,))
    record = json.loads(json.dumps(record_of(advance(state, event))))
    assert event_of(record["event"]) == event
    assert record["event"]["readings"][0]["against"] == ["ab", "cd"]
    old = {"type": "StepFailed", "at": 1.0, "by": "automation", "stage": 1, "samples": 9}
    old["readings"] = [{"gate": "error_rate", "verdict": "fail", "reason": "r", "observed": 1.0, "limit": 0.1, "n": 9}]
    read = event_of(old)
    assert isinstance(read, StepFailed)
    assert (read.readings[0].e_value, read.readings[0].rolls_back) == (None, True), "as earlier releases wrote it"


# What the leader does


def test_a_good_candidate_is_shadowed_then_served_and_copies_end_with_the_shadow(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world)
        (route,) = store.read_state().routes
        assert (route.shadow, route.weight) == (Shadow(candidate=B, share=10_000), 0)
        plant(store, many(99, A, B))
        await world.look()
        assert world.rollout().phase is Phase.SHADOW
        plant(store, many(201, A, B))
        await world.look(100)
        assert (world.rollout().phase, world.route()) == (Phase.CANARY, (A, B, 1_000))
        assert store.read_state().routes[0].shadow is None
        await world.look()
        assert (world.rollout().phase, world.route()) == (Phase.LIVE, (B, None, 0))
        assert world.replayed() == world.rollout()

    run(store, tmp_path, work)


def test_a_bad_candidate_is_taken_back_at_the_next_look_and_the_journal_says_by_which_pairs(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await begun(world)
        planted = plant(store, many(60, A, B, bad=0.5, kl=2.0))
        await world.look(60)
        assert (world.rollout().phase, world.route()) == (Phase.ROLLED_BACK, (A, None, 0))
        assert store.read_state().routes[0].shadow is None
        assert world.rollouts.counts.pages[("support", "refusal")] == 1
        record = store.journal()[-1].record
        refusal, kl = record["event"]["readings"]
        assert (refusal["verdict"], refusal["n"], record["n"]) == ("fail", 60, 60)
        assert refusal["e_value"] > 1 / world.rollout().plan.alpha_per_gate
        assert (kl["first"], kl["last"]) == (planted[0].number, planted[-1].number)
        against = [each.sample for each in planted if each.scores["refusal"].candidate][:5]  # type: ignore[union-attr]
        assert refusal["against"] == against, "the worst five, of equals the first"
        told = "\n".join(explain.sentences(record))
        for part in (
            "gate `refusal`: fail: refusal +0.500 >",
            f"on pairs {planted[0].number} to {planted[-1].number}, e-value",
            f"most against it: samples {against[0]}",
            "no requests are compared on both versions",
        ):
            assert part in told
        assert world.replayed() == world.rollout()

    run(store, tmp_path, work)


def test_what_cannot_be_decided_within_max_pairs_pauses_pages_and_never_promotes(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world, shadow({"kl": {"limit": 0.5}}))
        plant(store, many(400, A, B, kl=0.5))
        await world.look(60)
        assert (world.rollout().phase, world.route()) == (Phase.PAUSED, (A, None, 0))
        assert world.rollouts.counts.pages == {("support", "inconclusive"): 1}
        assert "did not pass within max_samples (400 ≥ 400)" in store.journal()[-1].record["why"]
        plant(store, many(300, A, B, kl=0.05))
        await world.look(60)
        assert world.rollout().phase is Phase.PAUSED, "no later pass leads on without a person"

    run(store, tmp_path, work)


def test_the_budget_of_pairs_is_used_up_when_their_sessions_have_ended_and_not_before(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await begun(world)
        plant(store, many(400, A, B, scored_at=world.now))
        await world.look(1)
        assert world.rollout().phase is Phase.SHADOW, "all sessions are open, so nothing has counted yet"
        await world.look(40)
        assert world.rollout().phase is Phase.CANARY

    run(store, tmp_path, work)


def test_a_failure_that_is_not_critical_pauses_and_a_muted_one_is_told_and_passes(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world, shadow("refusal", {"kl": {"critical": False}}))
        plant(store, many(60, A, B, kl=2.0))
        await world.look(60)
        assert world.rollout().phase is Phase.PAUSED
        assert world.rollouts.counts.pages == {("support", "kl"): 1}
        assert "`kl` fails, which is not critical" in store.journal()[-1].record["why"]
        await world.rollouts.abort("support", ORDER)
        await begun(world, shadow("refusal", {"kl": {"muted": True}}))
        plant(store, many(300, A, B, kl=2.0, rollout="ro-1"))
        await world.look(60)
        assert world.rollout("ro-1").phase is Phase.CANARY
        readings = store.journal()[-1].record["event"]["readings"]
        assert [(each["verdict"], each["is_muted"]) for each in readings] == [("pass", False), ("fail", True)]
        assert "(muted, decides nothing)" in "\n".join(explain.sentences(store.journal()[-1].record))

    run(store, tmp_path, work)


def test_pairs_of_an_earlier_stage_pass_nothing_later_and_may_still_fail(store: Store, tmp_path: Path) -> None:
    step = {**STEP, "gates": ["refusal"], "max_time": "9d"}

    async def work(world: World) -> None:
        await begun(world, {"shadow": SHADOW, "steps": [step, {"weight": "100%"}]})
        plant(store, many(300, A, B))
        await world.look(60)
        assert (world.rollout().phase, store.read_state().routes[0].shadow) == (
            Phase.CANARY,
            Shadow(candidate=B, share=10_000),
        )
        plant(store, many(500, A, B))
        await world.look(60)
        assert world.rollout().phase is Phase.CANARY, "late pairs of stage 1 say nothing for stage 2"
        plant(store, many(900, A, B, bad=0.9))
        await world.look(60)
        assert world.rollout().phase is Phase.ROLLED_BACK
        assert "in stage 1: refusal" in store.journal()[-1].record["why"]

    run(store, tmp_path, work)


def test_pairs_of_others_and_of_the_base_count_for_nothing(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world)
        plant(store, many(50, A, B, bad=1.0, rollout="ro-9"))
        plant(store, many(50, "base", B, bad=1.0, kind=Kind.BASE))
        plant(store, many(50, A, "support@000000000000", bad=1.0))
        plant(store, many(50, A, A, kind=Kind.NOISE))
        await world.look(60)
        rollout_record = await world.rollouts.find("support")
        assert world.rollout().phase is Phase.SHADOW
        assert world.rollouts.watch.read(rollout_record, world.now).n == 0

    run(store, tmp_path, work)


def test_a_new_leader_and_whoever_is_asked_come_to_the_same_evidence(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        rollout_record = await begun(world, shadow("refusal", "exact", {"kl": {"limit": 0.5}}, max_pairs=9_999))
        for number in range(12):  # three pairs a session, some of them noise
            exact = {"exact": Score(value=float(number % 3 > 0), version="1")}
            sessions = [f"{number}-{each}" for each in range(3)]
            for turn in range(3):
                plant(
                    store,
                    (
                        judged(
                            A,
                            A if turn == 2 else B,
                            kind=Kind.NOISE if turn == 2 else Kind.CANDIDATE,
                            kl=0.4,
                            session=session,
                            scored_at=world.now + turn,
                            scores=exact,
                        )
                        for session in sessions
                    ),
                )
            await world.look(20)
        seen = world.rollouts.watch.read(rollout_record, world.now)
        fresh = World(tmp_path, store)
        assert fresh.rollouts.watch.read(rollout_record, world.now) == seen
        assert (seen.n, seen.readings["refusal"].n > 20, seen.readings["exact"].n > 20) == (72, True, True)

    run(store, tmp_path, work)


def test_a_gateway_that_has_not_heard_of_a_stage_yet_loses_none_of_its_pairs(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        step = {**STEP, "gates": ["refusal"]}
        stale = await begun(world, {"shadow": SHADOW, "steps": [step]})
        plant(store, many(300, A, B))
        await world.look(60)
        plant(store, many(70, A, B, stage=2))
        follower = World(tmp_path, store).rollouts.watch
        assert follower.read(stale, world.now).n == 300
        current = await world.rollouts.find("support")
        assert follower.read(current, world.now).readings["refusal"].last == Pairs(store).head()
        assert follower.read(current, world.now).n == 70

    run(store, tmp_path, work)


def test_thumbs_are_read_by_their_gate_in_steps_with_live_traffic(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world, {"steps": [{**STEP, "gates": [{"feedback": {"margin": "20%"}}]}]})
        book = Feedbacks(store)
        for number in range(60):
            for arm, thumb in (("control", "up"), ("candidate", "down")):
                about = About(alias="support", version=B, arm=arm, rollout="ro-0", stage=1, unit=f"{arm}-{number}")
                given = Feedback(request_id=f"{arm}-{number}", account="k", thumb=thumb, about=about)  # type: ignore[arg-type]
                book.put(given)
        await world.look()
        assert world.rollout().phase is Phase.ROLLED_BACK
        assert "share of thumbs down 100.00% > control 0.00% + margin 20.00%" in store.journal()[-1].record["why"]

    run(store, tmp_path, work)


def test_while_the_store_gives_no_pairs_nothing_is_decided(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world)
        plant(store, many(60, A, B, bad=0.5))
        watch = world.rollouts.watch
        real, watch._pairs = watch._pairs, _Away()  # type: ignore[assignment]
        await world.look(60)
        assert (world.rollout().phase, world.conductor.is_leader) == (Phase.SHADOW, False)
        watch._pairs = real
        await world.look()
        assert world.rollout().phase is Phase.ROLLED_BACK

    run(store, tmp_path, work)


class _Away:
    def __getattr__(self, _: str) -> Any:
        raise StoreUnavailable("away")


def test_listeners_hear_each_pair_once_while_this_gateway_leads(store: Store, tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[int] = []

        def observe(self, judged: ScoredPair) -> None:
            self.heard.append(judged.number)

    async def work(world: World) -> None:
        listener = Listener()
        world.rollouts.watch.listeners.append(listener)
        plant(store, many(3, A, B, rollout=""))
        await world.look()
        planted = plant(store, many(4, A, B, rollout=""))
        await world.look()
        await world.look()
        assert listener.heard == [each.number for each in planted]

    run(store, tmp_path, work)


# What people are told


def test_who_waits_for_pairs_is_told_so_and_that_nobody_compares(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        rollout_record = await begun(world)
        found = await asyncio.to_thread(world.rollouts.watch.read, rollout_record, world.now)
        assert found.warnings == (NOBODY_COMPARES,)
        Evaluators(store).beat("e-1", {})
        assert world.rollouts.watch.read(rollout_record, world.now).warnings == ()
        aborted = await world.rollouts.abort("support", ORDER)
        assert world.rollouts.watch.read(aborted, world.now).warnings == ()

    run(store, tmp_path, work)


@pytest.mark.parametrize(
    ("policy", "gates", "expected"),
    [
        (MirrorPolicy(capture="off"), ["refusal"], "its route says `capture: off`"),
        (MirrorPolicy(), ["judge"], "needs a model that judges"),
        (MirrorPolicy(comparators=("exact",)), ["refusal", "kl"], "gate `refusal` needs the comparator of its name"),
        (None, ["score:nobody-has-it"], "no comparator of this name is installed"),
    ],
)
def test_a_plan_whose_pairs_nobody_could_make_is_refused(
    store: Store, tmp_path: Path, policy: MirrorPolicy | None, gates: list[str], expected: str
) -> None:
    route = structs.replace(SUPPORT, mirror=policy)
    store.write_state(Desired(adapters=ENTRIES, routes=(route,)), expected=1)

    async def work(world: World) -> None:
        with pytest.raises(Conflict, match=expected):
            await world.rollouts.start("support", B, shadow(*gates), ORDER)
        assert store.journal() == ()

    run(store, tmp_path, work)


def test_a_judges_share_is_noted_as_the_rollout_begins(store: Store, tmp_path: Path) -> None:
    policy = MirrorPolicy(judge=JudgePolicy(url="http://127.0.0.1:1/v1", model="m", share=2_500))
    store.write_state(Desired(adapters=ENTRIES, routes=(structs.replace(SUPPORT, mirror=policy),)), expected=1)

    async def work(world: World) -> None:
        assert (await begun(world, shadow("judge"))).judged_share == 0.25
        win = {"judge": Score(value=0.0, version="1:abc", control=1.0, candidate=0.0)}
        plant(store, many(300, A, B, scores=win, weight=4.0))
        await world.look(60)
        assert world.rollout().phase is Phase.ROLLED_BACK

    run(store, tmp_path, work)


def test_a_plan_without_a_shadow_in_one_line_for_people() -> None:
    assert plan_line(canonical(parse_plan({"steps": [STEP]}))) == "10 % ≥ 0 s, ≥ 0 samples"


def test_a_plan_with_a_shadow_in_one_line_for_people() -> None:
    line = plan_line(canonical(parse_plan(shadow("refusal", {"kl": {"muted": True}}))))
    assert line == "shadow 100 pairs of 100 % (refusal, kl muted) → 10 % ≥ 0 s, ≥ 0 samples"


# gates simulate


def test_a_replay_says_when_a_rollout_would_have_stopped(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world)
        bad = plant(store, many(200, A, B, bad=0.5, scored_at=world.now))
        past = world.rollout()
        stop = simulate(parse_plan(shadow("refusal")), past, bad)
        assert (stop.outcome, stop.gate) == (Outcome.ROLLED_BACK, "refusal")
        assert stop.pairs == 200, "as long as no session has ended, none has counted"
        spaced = [structs.replace(each, scored_at=world.now + 40 * place) for place, each in enumerate(bad)]
        stop = simulate(parse_plan(shadow("refusal")), past, spaced)
        assert (stop.outcome, stop.gate, stop.number) == (
            Outcome.ROLLED_BACK,
            "refusal",
            bad[0].number + stop.pairs - 1,
        )
        assert 10 < stop.pairs < 60
        assert stop.at == world.now + 40 * (stop.pairs - 1)
        stop = simulate(parse_plan(shadow({"refusal": {"critical": False}})), past, spaced)
        assert stop.outcome is Outcome.PAUSED
        wide = parse_plan(shadow({"refusal": {"margin": "90%"}}, "manual"))
        assert simulate(wide, past, spaced).outcome is Outcome.PASSED
        assert not_replayed(wide) == ("manual",)
        unsure = simulate(parse_plan(shadow({"refusal": {"margin": "50%"}}, max_pairs=150)), past, spaced)
        assert (unsure.outcome, unsure.pairs) == (Outcome.PAUSED, 151), "when the session of the 150th is over"
        assert "did not pass within max_pairs (151 ≥ 150)" in unsure.why
        few = simulate(parse_plan(shadow("refusal", pairs=1_000, max_pairs=5_000)), past, spaced[:5])
        assert (few.outcome, few.why) == (Outcome.UNDECIDED, "not decided by 5 pairs: `refusal`")
        assert simulate(wide, past, []).outcome is Outcome.UNDECIDED

    run(store, tmp_path, work)


def test_a_replay_goes_on_to_the_next_stage_that_reads_pairs_with_pairs_of_its_own(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await begun(world)
        pairs = plant(store, [*many(200, A, B), *many(150, A, B, bad=0.5)])
        spaced = [structs.replace(each, at=40.0 * place, scored_at=40.0 * place) for place, each in enumerate(pairs)]
        step, shadowing = {**STEP, "gates": ["refusal"]}, SHADOW | {"gates": ["refusal"]}
        plan = parse_plan({"shadow": shadowing, "steps": [step, {"weight": "100%"}]})
        stop = simulate(plan, world.rollout(), spaced)
        assert stop.outcome is Outcome.ROLLED_BACK
        assert 200 < stop.pairs < 350

    run(store, tmp_path, work)


def test_a_route_that_names_comparators_still_tells_who_failed_to_answer(store: Store, tmp_path: Path) -> None:
    route = structs.replace(SUPPORT, mirror=MirrorPolicy(comparators=("exact",)))
    store.write_state(Desired(adapters=ENTRIES, routes=(route,)), expected=1)

    async def work(world: World) -> None:
        await begun(world, shadow("failed"))
        assert world.rollout().phase is Phase.SHADOW

    run(store, tmp_path, work)


def test_a_replay_weighs_a_judges_opinions_as_the_rollout_did(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await begun(world, shadow("refusal"))
        # One pair in twenty is judged, and stands for forty or for ten: what lost is seldom, and weighs more.
        scores = {True: Score(value=0.0, version="1:abc"), False: Score(value=1.0, version="1:abc")}
        pairs = [
            each
            for lost, weight, count in ((True, 40.0, 100), (False, 10.0, 200))
            for each in plant(store, many(count, A, B, scores={"judge": scores[lost]}, weight=weight))
        ]
        spaced = [
            structs.replace(each, at=40.0 * at, scored_at=40.0 * at) for at, each in enumerate(pairs[::3] + pairs[1::3])
        ]
        plan, past = parse_plan(shadow({"judge": {"margin": "1%"}})), world.rollout()
        told = simulate(plan, past, spaced[:20], judged_share=0.05).readings[0]
        assert "weights cut" not in told.reason
        assert "weights cut" in simulate(plan, past, spaced[:20]).readings[0].reason

    run(store, tmp_path, work)


def test_a_rollout_that_cannot_be_read_holds_up_no_other(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        rollout_record = await begun(world)
        plant(store, many(60, A, B, bad=0.5))
        desired = world.state.desired
        other = structs.replace(SUPPORT, alias="sales")
        damaged = UnreadableRollout(
            id="damaged",
            alias="sales",
            is_open=True,
            body={"of": "a later release"},
            problem="it is of a later release",
        )
        sound = desired.rollouts
        await world.state.change(
            structs.replace(desired.with_route(other), rollouts=(damaged, *sound)), by="x", reason="damage"
        )
        await world.look(60)
        assert [each.id for each in store.read_state().rollouts] == ["damaged"]
        assert [each.is_open for each in store.rollouts("support") if each.id == rollout_record.rollout.id] == [False]

    run(store, tmp_path, work)
