"""No account alone decides a rollout: what is counted by account, and what gates on it make of that."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Arm, bucket
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.observe.tally import MAX_ACCOUNTS, Tally, sum_tallies
from gateway.rollout.account_counts import FEWEST_REQUESTS, accounts_of, callers_of
from gateway.rollout.events import Created, Started, StepFailed, StepPassed
from gateway.rollout.evidence import StageCounts, counts_of, facts_of, judge_stage, period_of, ratio_of
from gateway.rollout.explain import sentences
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.sample_ratio import Exposures
from gateway.rollout.gates.streams import AccountStreams, Streams
from gateway.rollout.gates.traffic import OTHERS, judge_by_account
from gateway.rollout.gates.unit_shares import Count, units_of
from gateway.rollout.machine import advance, create
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.record import Last, RolloutRecord
from gateway.rollout.replay import record_of, replay
from gateway.rollout.rollout import Transition
from gateway.rollout.rules import RULES
from tests.support.unit_counts import Worker

TAG = RolloutTag(id="ro-1", stage=1)
WEIGHT = 5_000
PLAN = {"steps": [{"weight": "50%", "min_time": "1s", "min_samples": 10, "gates": ["error_rate"]}, {"weight": "100%"}]}
GATE = Gate(name="error_rate", margin=0.01)


def streams(*accounts: tuple[str, tuple[int, int], tuple[int, int]], callers: int | None = None) -> Streams:
    """Counts by account: (control n, bad) and (candidate n, bad)."""
    read = tuple(
        AccountStreams(account=name, control=units_of(Count(n=n, bad=bad)), candidate=units_of(Count(n=m, bad=worse)))
        for name, (n, bad), (m, worse) in accounts
    )
    control = units_of(Count(n=sum(c[0] for _, c, _ in accounts), bad=sum(c[1] for _, c, _ in accounts)))
    candidate = units_of(Count(n=sum(c[0] for _, _, c in accounts), bad=sum(c[1] for _, _, c in accounts)))
    many = len(read) if callers is None else callers
    return Streams(control=control, candidate=candidate, accounts=read, callers=many)


LOUD = ("loud", (500, 0), (500, 400))  # says of the candidate alone that it fails
HONEST = ("honest", (3_000, 3), (3_000, 3))


def test_one_account_alone_cannot_fail_a_gate_where_several_call() -> None:
    reading = judge_by_account(GATE, streams(LOUD, HONEST), 0.01)
    assert reading.verdict is Verdict.INCONCLUSIVE
    assert reading.reason.startswith("fails only because of account `loud`; without it: error rate 0.10%")


def test_what_fails_for_several_accounts_fails() -> None:
    reading = judge_by_account(GATE, streams(LOUD, ("another", (500, 0), (500, 300)), HONEST), 0.01)
    assert reading.verdict is Verdict.FAIL
    assert [share.account for share in reading.accounts] == ["loud", "another", "honest"]
    assert (reading.accounts[0].n, reading.accounts[0].bad, reading.accounts[0].control_n) == (500, 400, 500)


def test_one_account_that_fails_on_the_control_alone_does_not_hide_a_bad_candidate() -> None:
    hiding = ("hiding", (400, 300), (400, 0))  # the control fails 15 % in all, the candidate 8 %
    several = (("a", (800, 1), (800, 80)), ("b", (800, 1), (800, 80)))
    reading = judge_by_account(GATE, streams(hiding, *several), 0.01)
    assert reading.verdict is Verdict.FAIL
    assert "error rate 10.00% > control 0.12% + margin 1.00% (n=1,600 units" in reading.reason
    assert reading.reason.endswith("; without account `hiding`, beside which it looks well")
    alone = judge_by_account(GATE, streams(hiding, several[0]), 0.01)
    assert alone.verdict is Verdict.INCONCLUSIVE, "what one account says beside it is one account's word"


def test_one_account_alone_cannot_pass_a_gate_where_several_call() -> None:
    reading = judge_by_account(GATE, streams(("loud", (50_000, 0), (50_000, 0)), ("few", (20, 0), (20, 0))), 0.01)
    assert reading.verdict is Verdict.INCONCLUSIVE
    assert "passes only because of account `loud`" in reading.reason


def test_where_one_account_is_all_the_traffic_it_decides_and_the_reason_says_so() -> None:
    alone = judge_by_account(GATE, streams(LOUD), 0.01)
    assert alone.verdict is Verdict.FAIL
    assert "100% of it is account `loud`" in alone.reason
    stray = judge_by_account(GATE, streams(LOUD, ("curl", (1, 0), (0, 0)), callers=1), 0.01)
    assert stray.verdict is Verdict.FAIL


def test_a_plan_may_let_one_account_decide() -> None:
    step = {"weight": "50%", "gates": [{"error_rate": {"single_account": True}}]}
    plan = parse_plan({"steps": [step, {"weight": "100%"}]})
    (gate,) = plan.stages[0].gates
    assert gate.may_rest_on_one
    assert gate.parameters()["single_account"] is True
    assert judge_by_account(gate, streams(LOUD, HONEST), 0.01).verdict is Verdict.FAIL
    with pytest.raises(InvalidPlan, match="single_account"):
        parse_plan({"steps": [{"weight": "5%", "gates": [{"kl": {"single_account": True}}]}]})


def test_without_counts_by_account_a_gate_reads_the_sums() -> None:
    whole = streams(LOUD, HONEST)
    assert judge_by_account(GATE, replace(whole, accounts=()), 0.01).verdict is Verdict.FAIL
    assert judge_by_account(GATE, None, 0.01).verdict is Verdict.INCONCLUSIVE


# What workers count


def ask(
    tallies: Worker, account: str, units: int, *, fails: Arm | None = None, only: Arm | None = None, first: int = 0
) -> None:
    """Send a request of each of so many units; those of one arm fail, or are the only ones that are sent."""
    for number in range(first, first + units):
        unit = f"unit-{number}"
        arm = Arm.CANDIDATE if bucket("salt", unit) < WEIGHT else Arm.CONTROL
        if only in (None, arm):
            exposure = Exposure(TAG, "support", arm, unit, account)
            tallies.count(exposure, is_error=arm is fails)


def stage(tallies: Worker) -> StageCounts:
    """What the leader reads of it, after the channel and the store."""
    told = msgspec.json.decode(msgspec.json.encode(tallies.report({"ro-1"})), type=list[Tally])
    return counts_of(sum_tallies([told]), make_record().rollout)


def transitions(plan: Any = PLAN) -> tuple[Transition, Transition]:
    made = create(
        Created(
            at=90.0,
            by="me",
            reason="r",
            id="ro-1",
            alias="support",
            control="support@1",
            candidate="support@2",
            plan=parse_plan(plan),
        )
    )
    return made, advance(made.after, Started(at=100.0, by="me"))


def make_record(plan: Any = PLAN) -> RolloutRecord:
    _, started = transitions(plan)
    last = Last(at=100.0, by="me", event="Started")
    return RolloutRecord(rollout=started.after, by="me", reason="r", started_at=100.0, last=last, rules=RULES)


def test_the_same_unit_of_two_accounts_is_two_units() -> None:
    tallies = Worker()
    for account in ("a", "b", "a"):
        ask(tallies, account, 50)
    counts = stage(tallies)
    assert counts.control.units + counts.candidate.units == 100
    assert [(each.account, each.units, each.requests) for each in counts.accounts] == [("a", 50, 100), ("b", 50, 50)]


def test_the_largest_accounts_have_names_and_all_others_are_one() -> None:
    tallies = Worker()
    ask(tallies, "largest", 100)
    for number in range(1_000):
        ask(tallies, f"small-{number}", 2)
    ask(tallies, "late", 60)
    (tally,) = tallies.report({"ro-1"})
    assert len(tally.accounts) <= 2 * MAX_ACCOUNTS
    found = accounts_of(tally)
    assert len(found) == MAX_ACCOUNTS + 1
    by_name = {each.account: each.requests for each in found}
    assert (by_name["largest"], by_name["late"]) == (100, 60)
    assert sum(by_name.values()) == 100 + 2_000 + 60, "nothing is lost, and nothing counts twice"
    assert found[0].account == OTHERS
    assert callers_of(found) == 3
    assert len(msgspec.json.encode(tally)) < 100_000


def test_accounts_of_workers_add_up() -> None:
    one, other = Worker(), Worker()
    ask(one, "a", 30)
    ask(other, "a", 30)
    ask(other, "b", 20)
    counts = counts_of(sum_tallies([one.report({"ro-1"}), other.report({"ro-1"})]), make_record().rollout)
    assert [(each.account, each.requests, each.units) for each in counts.accounts] == [("a", 60, 30), ("b", 20, 20)]


def test_one_key_with_units_of_its_own_choosing_does_not_end_a_rollout() -> None:
    tallies = Worker()
    ask(tallies, "honest", 300)
    ask(tallies, "attacker", 2_000, fails=Arm.CANDIDATE)
    at = 101.0 + 3_600
    assert not isinstance(judge_stage(make_record(), stage(tallies), at), StepFailed | StepPassed)
    ask(tallies, "honest", 2_000, fails=Arm.CANDIDATE)  # the others find it, too
    event = judge_stage(make_record(), stage(tallies), at)
    assert isinstance(event, StepFailed)
    assert {share.account for share in event.readings[0].accounts} == {"honest", "attacker"}


def test_one_key_that_sends_the_candidates_units_alone_does_not_pause_a_rollout() -> None:
    tallies = Worker()
    ask(tallies, "honest", 2_000)
    ask(tallies, "attacker", 3_000, only=Arm.CANDIDATE)
    counts = stage(tallies)
    ratio = ratio_of(counts, make_record())
    assert ratio.verdict is not Verdict.FAIL
    assert "without account `attacker`" in ratio.reason
    period = period_of(counts, make_record().rollout)
    assert period is not None
    assert period.n == pytest.approx(2_000, rel=0.25)
    alone = replace(counts, accounts=())
    assert ratio_of(alone, make_record()).verdict is Verdict.FAIL, "of which this takes nothing away where one calls"


def test_units_that_were_left_out_of_a_stage_do_not_come_back_in_the_next() -> None:
    tallies = Worker()
    ask(tallies, "honest", 2_000)
    ask(tallies, "attacker", 3_000, only=Arm.CANDIDATE)
    counts = stage(tallies)
    before = (Exposures(weight=WEIGHT, control=1_000, candidate=1_110),)  # odd, and not odd enough alone
    assert period_of(counts, make_record().rollout, before) == period_of(counts, make_record().rollout)


def test_a_stray_request_makes_no_second_caller() -> None:
    tallies = Worker()
    ask(tallies, "app", 2_000, fails=Arm.CANDIDATE)
    ask(tallies, "curl", FEWEST_REQUESTS - 1)
    event = judge_stage(make_record(), stage(tallies), 101.0)
    assert isinstance(event, StepFailed)
    assert "account `app`" in event.readings[0].reason


def test_thumbs_of_one_account_are_not_everybodys_where_others_call_and_give_none() -> None:
    tallies = Worker()
    ask(tallies, "honest", 300)
    ask(tallies, "attacker", 300)
    told = make_record({"steps": [{"weight": "50%", "gates": ["feedback"]}, {"weight": "100%"}]})
    counts = stage(tallies)
    thumbs = streams(("attacker", (150, 0), (150, 150)))
    there = replace(counts, pairs=replace(counts.pairs, stage=1, thumbs=thumbs))
    assert facts_of(there, told).streams["feedback"].callers == 2
    assert judge_stage(told, there, 101.0) is None
    alone = replace(there, accounts=there.accounts[:1])
    assert isinstance(judge_stage(told, alone, 101.0), StepFailed)


def test_the_journal_tells_who_said_it_and_replays_to_the_same_state() -> None:
    tallies = Worker()
    for account in ("a", "b"):
        ask(tallies, account, 2_000, fails=Arm.CANDIDATE)
    begun = make_record()
    event = judge_stage(begun, stage(tallies), 101.0)
    assert isinstance(event, StepFailed)
    made, started = transitions()
    failed = advance(started.after, event)
    records = [msgspec.json.decode(msgspec.json.encode(record_of(each))) for each in (made, started, failed)]
    assert replay(records) == failed.after
    story = "\n".join(sentences(records[-1]))
    by_name = {share.account: share for share in event.readings[0].accounts}
    a = by_name["a"]
    assert f"of `a`: {a.units:,} units; candidate {a.bad:,} bad of {a.n:,}, control 0 bad of {a.control_n:,}." in story
    assert a.units == a.n + a.control_n == 2_000
    for reading in records[-1]["event"]["readings"]:
        del reading["accounts"]  # as it was written before accounts were told
    assert replay(records).phase is failed.after.phase


def test_where_no_account_alone_explains_a_wrong_split_all_units_count() -> None:
    tallies = Worker()
    ask(tallies, "honest", 1_000)
    for account in ("one", "other"):
        ask(tallies, account, 3_000, only=Arm.CANDIDATE)
    counts = stage(tallies)
    assert ratio_of(counts, make_record()).verdict is Verdict.FAIL
    period = period_of(counts, make_record().rollout)
    assert period == Exposures(weight=WEIGHT, control=counts.control.units, candidate=counts.candidate.units)
