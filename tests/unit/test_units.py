"""Units count once: what workers tell of them, what the node makes of it, and what gates make of that."""

from collections.abc import Iterable
from dataclasses import replace
from math import exp, log

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Arm
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.observe import units as units_module
from gateway.observe.tally import Tally, combine_replicas, sum_tallies
from gateway.observe.units import MAX_OUTCOMES, Outcomes, StageUnits, UnitShares, multiplicity
from gateway.rollout.account_counts import accounts_of, arm_counts
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.traffic import judge_streams
from gateway.rollout.gates.unit_shares import (
    FRESH,
    IDLE_SECONDS,
    MAX_REQUESTS,
    ROUND_SECONDS,
    ArmUnits,
    Count,
    Shares,
    log_above,
    log_below,
    log_not_times_worse,
    log_not_worse,
    log_times_worse,
    log_worse,
    round_of,
    units_of,
)
from tests.support.unit_counts import Worker

BEGAN = 1_000.0
TAG = RolloutTag(id="ro-1", stage=1, entered_at=BEGAN, threshold_seconds=0.5)
OPEN = {"ro-1"}


def ask(worker: Worker, unit: str, bad: Iterable[bool], *, account: str = "app", arm: Arm = Arm.CANDIDATE) -> None:
    for each in bad:
        worker.count(Exposure(TAG, "support", arm, unit, account), is_error=each, seconds=1.0 if each else 0.1)


def told(worker: Worker) -> Tally:
    """What the leader reads, after the store."""
    (tally,) = worker.report(OPEN)
    return msgspec.json.decode(msgspec.json.encode(tally), type=Tally)


def whole(tally: Tally) -> Shares:
    return arm_counts(tally.candidate, 0).failing.whole


# What the node counts


def test_a_unit_counts_by_its_first_request_at_once_and_by_its_share_once_it_is_over() -> None:
    worker = Worker(BEGAN)
    ask(worker, "u", [True, False, False])
    assert whole(told(worker)) == Shares(first=Count(n=1, bad=1))
    ask(worker, "u", [False] * 10)
    assert whole(told(worker)) == Shares(first=Count(n=1, bad=1), over=((1, 8, 1),)), "of its first eight"
    ask(worker, "u", [True] * 100)
    assert whole(told(worker)) == Shares(first=Count(n=1, bad=1), over=((1, 8, 1),)), "however many more"


@pytest.mark.parametrize(("sent", "of"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (7, 4)])
def test_a_unit_that_falls_silent_is_over_with_what_it_has_sent(sent: int, of: int) -> None:
    worker = Worker(BEGAN)
    ask(worker, "u", [False] * (sent - 1) + [True])
    assert not whole(told(worker)).over
    worker.now += IDLE_SECONDS
    (share,) = whole(told(worker)).over
    assert share == (int(sent == of), of, 1)
    worker.now += 1
    ask(worker, "u", [True] * MAX_REQUESTS)
    assert len(whole(told(worker)).over) == 1, "it has counted"


def test_slow_is_counted_likewise_of_units_whose_first_request_could_be_called_slow() -> None:
    worker = Worker(BEGAN)
    ask(worker, "timed", [True] * 8)
    early = RolloutTag(id="ro-1", stage=1, entered_at=BEGAN)  # nobody can say yet what is slow
    for tag in (early, *[TAG] * 7):
        worker.count(Exposure(tag, "support", Arm.CANDIDATE, "early", "app"), is_error=False, seconds=9.0)
    counts = arm_counts(told(worker).candidate, 0)
    assert counts.slow.whole == Shares(first=Count(n=1, bad=1), over=((8, 8, 1),))
    assert counts.failing.whole == Shares(first=Count(n=2, bad=1), over=((0, 8, 1), (8, 8, 1)))


def test_a_unit_counts_once_more_in_each_round_so_that_what_breaks_late_is_found() -> None:
    worker = Worker(BEGAN)
    ask(worker, "regular", [False] * 8)
    told(worker)
    worker.now += ROUND_SECONDS
    ask(worker, "regular", [True] * 8)
    ask(worker, "new", [True] * 8)
    told(worker)
    worker.now += 60
    ask(worker, "regular", [True] * 8)
    counts = arm_counts(told(worker).candidate, 0).failing
    assert counts.whole == Shares(first=Count(n=2, bad=1), over=((0, 8, 1), (8, 8, 1)))
    assert counts.rounds == ((1, Shares(first=Count(n=2, bad=2), over=((8, 8, 2),))),)


@pytest.mark.parametrize(("seconds", "number"), [(0, 0), (599, 0), (600, 1), (1_199, 1), (1_200, 2), (86_399, 8)])
def test_each_round_is_as_long_as_all_before_it(seconds: float, number: int) -> None:
    assert round_of(seconds) == number
    assert round_of(-5.0) == 0, "a clock that was set back"


def test_requests_of_one_unit_at_several_workers_are_one_units() -> None:
    workers = [Worker(BEGAN) for _ in range(2)]
    for worker in workers:
        ask(worker, "u", [True] * 4)
    node = Worker(BEGAN)
    for worker in workers:
        node.book.take(worker.tallies.outcomes())
    assert whole(told(node)) == Shares(first=Count(n=1, bad=1), over=((8, 8, 1),))
    assert workers[0].tallies.outcomes() == [], "each outcome is told once"


def test_the_same_unit_of_two_accounts_is_two_and_accounts_add_up_to_the_whole() -> None:
    worker = Worker(BEGAN)
    for account, bad in (("a", True), ("b", False)):
        ask(worker, "u", [bad] * 8, account=account)
    tally = told(worker)
    by_account = {each.account: each.candidate.failing.whole.first for each in accounts_of(tally)}
    assert by_account == {"a": Count(n=1, bad=1), "b": Count(n=1)}
    assert whole(tally).first == Count(n=2, bad=1)


def test_what_is_kept_is_bounded_and_what_does_not_fit_is_counted_or_over(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Outcomes(rollout="ro-1", stage=1, alias="a", entered_at=BEGAN)
    for unit in range(MAX_OUTCOMES + 3):
        outcomes.add(unit, "app", is_candidate=True, is_bad=False, is_slow=None)
    assert (len(outcomes.units), outcomes.lost) == (MAX_OUTCOMES, 3)
    monkeypatch.setattr(units_module, "MAX_OPEN", 10)
    monkeypatch.setattr(units_module, "MAX_COUNTED", 100)
    stage = StageUnits(BEGAN)
    stage.take(outcomes, BEGAN)
    assert (len(stage._open), len(stage._counted)) == (10, 100)
    (account,) = stage.accounts.values()
    assert account.candidate.failing[0] == UnitShares(n=MAX_OUTCOMES, over={"0/1": MAX_OUTCOMES - 10})


def test_stages_of_rollouts_that_have_ended_are_forgotten() -> None:
    worker = Worker(BEGAN)
    ask(worker, "u", [True])
    assert worker.report({"ro-2"})[0].candidate.by_unit.n == 0
    assert worker.book._stages == {}


def test_gateways_that_share_their_callers_are_seen_to_count_them_twice() -> None:
    assert multiplicity([]) == 1.0
    assert multiplicity([{1, 2}, {3}]) == 1.0
    assert multiplicity([{1, 2}, {1, 2}, {1, 2}]) == 3.0
    assert multiplicity([{1, 2}, {1}]) == pytest.approx(5 / 3)
    replicas = []
    for units in (range(60), range(30, 90)):
        worker = Worker(BEGAN)
        for unit in units:
            ask(worker, str(unit), [False] * 8)
        replicas.append(told(worker))
    together = combine_replicas(replicas)
    assert (together.multiplicity, whole(together).first.n) == (pytest.approx(1.5), 120)
    assert sum_tallies([replicas])[0].multiplicity == 1.0


# What gates make of it


def arm(good: int, bad: int, of: int = 8) -> ArmUnits:
    """Units that are over, each all good or all bad."""
    over = tuple(each for each in ((0, of, good), (of, of, bad)) if each[2])
    return ArmUnits(whole=Shares(first=Count(n=good + bad, bad=bad), over=over))


GATE = Gate(name="error_rate", margin=0.01)


def test_a_client_that_always_fails_says_one_thing_however_often_it_asks() -> None:
    once = judge_streams(GATE, Streams(control=arm(1_000, 0), candidate=arm(99, 2)), 0.01 / 6)
    assert once.verdict is Verdict.INCONCLUSIVE
    assert once.observed == pytest.approx(2 / 101)
    as_requests = judge_streams(
        GATE, Streams(control=units_of(Count(n=30_000)), candidate=units_of(Count(n=3_030, bad=60))), 0.01 / 6
    )
    assert as_requests.verdict is Verdict.FAIL, "which its requests would have rolled back"


def test_everything_that_fails_is_found_by_first_requests_before_any_unit_is_over() -> None:
    candidate, control = ArmUnits(whole=Shares(first=Count(n=4, bad=4))), ArmUnits(whole=Shares(first=Count(n=76)))
    found = judge_streams(GATE, Streams(control=control, candidate=candidate), 0.01 / 6)
    assert (found.verdict, found.observed, found.n) == (Verdict.FAIL, 1.0, 4)


def test_what_breaks_after_everybody_has_counted_is_found_by_the_round() -> None:
    before = Shares(first=Count(n=200), over=((0, 8, 200),))
    control = ArmUnits(whole=before, rounds=((3, before),))
    broken = ArmUnits(whole=before, rounds=((3, Shares(first=Count(n=12, bad=12))),))
    well = ArmUnits(whole=before, rounds=((3, Shares(first=Count(n=12))),))
    assert judge_streams(GATE, Streams(control=control, candidate=broken), 0.01 / 6).verdict is Verdict.FAIL
    assert judge_streams(GATE, Streams(control=control, candidate=well), 0.01 / 6).verdict is Verdict.INCONCLUSIVE


def test_rounds_cost_what_was_set_aside_for_them() -> None:
    control, candidate = arm(400, 0), arm(90, 10)
    alone = log_worse(control, candidate, 0.01)
    in_first_round_too = ArmUnits(whole=candidate.whole, rounds=((1, candidate.whole),))
    both = log_worse(ArmUnits(whole=control.whole, rounds=((1, control.whole),)), in_first_round_too, 0.01)
    assert both == pytest.approx(alone + log(1 - FRESH / 2) - log(1 - FRESH), abs=1e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400), st.integers(0, 40), st.integers(100, 9_000))
@settings(deadline=None)
def test_evidence_for_one_verdict_is_never_enough_for_the_other(
    good: int, bad: int, control_good: int, control_bad: int, weight: int
) -> None:
    control, candidate = arm(control_good, control_bad), arm(good, bad)
    for fails, passes in (
        (log_worse(control, candidate, 0.01), log_not_worse(control, candidate, 0.01)),
        (log_above(candidate, 0.05), log_below(candidate, 0.05)),
        (log_times_worse(control, candidate, 2.0, weight), log_not_times_worse(control, candidate, 2.0, weight)),
    ):
        assert min(fails, passes) <= log(4)


def test_counted_twice_is_half_the_evidence() -> None:
    once = Streams(control=arm(1_000, 0), candidate=arm(90, 10))
    twice = Streams(control=arm(2_000, 0), candidate=arm(180, 20), multiplicity=2.0)
    readings = [judge_streams(GATE, each, 0.01 / 6) for each in (once, twice)]
    assert log(readings[1].e_value or 0) == pytest.approx(log(readings[0].e_value or 0), rel=0.15)
    assert "each counted 2.0 times by several gateways" in readings[1].reason


# A ratio in place of a margin

TIMES = Gate(name="error_rate", ratio=2.0)


def test_a_ratio_finds_what_is_five_times_as_bad_and_small() -> None:
    streams = Streams(
        control=units_of(Count(n=10**5, bad=100)), candidate=units_of(Count(n=10**5 // 4, bad=125)), weight=2_000
    )
    found = judge_streams(TIMES, streams, 0.01 / 6)
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("error rate 0.50% > 2 × control 0.10% (n=25,000 units, control n=100,000, e=")
    assert judge_streams(GATE, streams, 0.01 / 6, 0.01).verdict is Verdict.PASS, "which a margin of a point lets on"


def test_a_ratio_passes_what_is_as_good_and_says_nothing_without_a_split() -> None:
    split = Streams(
        control=units_of(Count(n=50_000, bad=250)), candidate=units_of(Count(n=50_000, bad=250)), weight=5_000
    )
    assert judge_streams(TIMES, split, 0.01 / 6, 0.01).verdict is Verdict.PASS
    assert judge_streams(TIMES, replace(split, weight=0), 0.01 / 6, 0.01).e_value == 1.0


@given(st.integers(1, 8), st.floats(1.0, 20.0), st.integers(1, 9_999))
@settings(deadline=None)
def test_a_bet_on_a_ratio_is_fair_where_that_is_the_ratio(bad: int, ratio: float, weight: int) -> None:
    # One unit with something bad, in either arm, weighed by how likely it is there where the ratio is exactly that.
    candidate, control = ArmUnits(whole=Shares(over=((bad, 8, 1),))), ArmUnits()
    odds = ratio * weight / (ratio * weight + 10_000 - weight)
    for log_e in (log_times_worse, log_not_times_worse):
        mean = odds * exp(log_e(control, candidate, ratio, weight)) + (1 - odds) * exp(
            log_e(candidate, control, ratio, weight)
        )
        assert mean == pytest.approx(1.0)
