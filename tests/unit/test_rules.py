"""An upgrade that judges otherwise: old journals replay as they did, open rollouts pause and begin anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.judge.verdict import Verdict
from gateway.rollout.events import StepFailed, StepInconclusive
from gateway.rollout.evidence import NO_PAIRS, StageCounts, StagePairs, counts_of, judge_stage
from gateway.rollout.explain import sentences
from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.unit_shares import Count, units_of
from gateway.rollout.plan import Stage
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.replay import replay
from gateway.rollout.rollout import Phase
from gateway.rollout.rules import RULES, what_changed
from gateway.store.rollouts import from_row, readable, to_row
from gateway.store.sql import Store
from tests.support.rollout_world import ORDER, RAMP, World, make_record, run, store
from tests.support.route_values import B

__all__ = ["store"]  # the fixture

OLD = Path(__file__).parents[1] / "journals" / "rules-1.jsonl"
PAIRS_AND_COUNTS = {
    "steps": [{"weight": "50%", "gates": ["error_rate", "ttft", "refusal", {"kl": {"limit": 0.5}}]}, {"weight": "100%"}]
}
FAILING = Reading(
    gate="refusal", verdict=Verdict.FAIL, reason="refusal +0.500 > +0.050 (n=50, e=1e+09)", n=50, e_value=1e9
)


def counts(*, failing: bool = False, pairs: StagePairs = NO_PAIRS) -> StageCounts:
    found = counts_of([], make_record().rollout)
    bad = units_of(Count(n=200, bad=200 if failing else 0))
    candidate = replace(found.candidate, requests=200, failing=bad)
    return replace(found, candidate=candidate, control=replace(candidate, failing=units_of(Count(n=200))), pairs=pairs)


def test_a_journal_of_the_rules_before_replays_to_what_it_says_and_is_told_in_sentences() -> None:
    records = [json.loads(line) for line in OLD.read_text().splitlines()]
    state = replay(records)
    assert (state.phase, state.stage, state.sequence) == (Phase.ROLLED_BACK, 4, 8)
    assert state.plan.config_hash == records[0]["config_hash"], "plans keep their hash"
    story = "\n".join(line for record in records for line in sentences(record))
    assert "gate `error_rate`: fail: error rate 55.56%" in story
    assert "candidate between" in story, "readings are told as they were made"


def test_a_rollout_that_is_open_at_the_upgrade_is_paused_and_told_what_is_judged_otherwise() -> None:
    open_before = make_record(PAIRS_AND_COUNTS, rules=1)
    late = StagePairs(stage=1, readings={"refusal": FAILING})
    event = judge_stage(open_before, counts(pairs=late), 200.0)
    assert isinstance(event, StepInconclusive)
    for words in (
        "`error_rate` counts each unit once, in place of each request",
        "`ttft` counts sessions in the order",
        "reads only pairs whose caller was served by control",
        "and fails by a tighter lower bound",
        "every gate passes at the whole alpha",
        "`resume` begins the stage anew",
    ):
        assert words in event.reason
    assert {each.gate for each in event.readings} == {"error_rate", "ttft", "refusal", "kl"}
    assert isinstance(judge_stage(replace(open_before, rules=RULES), counts(pairs=late), 200.0), StepFailed)


def test_what_fails_by_units_counted_since_is_taken_back_even_so() -> None:
    for phase in (Phase.CANARY, Phase.PAUSED):
        before = make_record(rules=1)
        before = replace(before, rollout=replace(before.rollout, phase=phase))
        assert isinstance(judge_stage(before, counts(failing=True), 200.0), StepFailed)
    assert judge_stage(before, counts(), 200.0) is None, "it waits for a person"


def test_what_an_earlier_release_has_stored_is_of_its_rules() -> None:
    row = to_row(make_record())
    del row.body["rules"]
    assert readable(from_row(row)).rules == 1


@pytest.mark.parametrize("gates", [["manual"], ["error_rate"], ["refusal"]])
def test_only_gates_that_answer_otherwise_are_named(gates: list[str]) -> None:
    stage: Stage = parse_plan({"steps": [{"weight": "5%", "gates": gates}, {"weight": "100%"}]}).stages[0]
    said = what_changed(stage)
    assert [name for name in ("error_rate", "refusal", "manual") if f"`{name}`" in said] == [
        name for name in gates if name != "manual"
    ]


def test_resume_judges_by_the_new_rules(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.rollouts.start("support", B, RAMP, ORDER)
        desired = world.state.desired
        (record,) = desired.rollouts
        async with world.state.turn:
            await world.state.change(desired.with_rollout(replace(readable(record), rules=1)))
        world.count(1)
        await world.look()
        assert world.rollout().phase is Phase.PAUSED
        assert world.rollouts.counts.pages == {("support", "inconclusive"): 1}
        assert "this release judges otherwise" in store.journal()[-1].record["why"]
        await world.look()
        assert world.rollout().phase is Phase.PAUSED
        await world.rollouts.resume("support", ORDER)
        assert readable(world.state.desired.rollouts[0]).rules == RULES
        world.count(2)
        await world.look()
        assert world.rollout().stage == 3
        assert world.replayed() == world.rollout()

    run(store, tmp_path, work)
