"""Tallies of rollouts: sums of requests, and units that count once whoever met them."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Arm, bucket, sample_hash
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.observe import tally
from gateway.observe.tally import MAX_UNITS, Tallies, Tally, UnitSample, is_failure, sum_tallies
from gateway.rollout.gates.sample_ratio import Exposures, judge_ratio

TAG = RolloutTag(id="r1", stage=2)


def exposure(arm: Arm, unit: str | None = None, tag: RolloutTag = TAG) -> Exposure:
    return Exposure(tag, "support", arm, unit)


def sample(units: list[tuple[int, Arm]]) -> UnitSample:
    made = UnitSample()
    for number, arm in units:
        made.see(number, arm)
    return made


def merged(*parts: UnitSample) -> UnitSample:
    total = UnitSample()
    for part in parts:
        total.add(part)
    return total


def fresh(units: UnitSample) -> UnitSample:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(units), type=UnitSample)


HASHES = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(Arm))


@given(st.lists(st.lists(HASHES, max_size=40), min_size=1, max_size=4), st.integers(2, 30))
def test_merging_samples_is_one_big_worker_in_any_order_and_twice_changes_nothing(
    shares: list[list[tuple[int, Arm]]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(tally, "MAX_UNITS", most)  # a number of ours, so that few units are many
        parts = [sample(share) for share in shares]
        one = sample([unit for share in shares for unit in share])
        assert merged(*parts) == one == merged(*reversed(parts))
        assert merged(merged(*parts[:2]), merged(*parts[2:])) == one
        assert merged(*parts, *parts, one) == one
        assert len(one.control) + len(one.candidate) <= most  # from 2 on: hash 0 stays, be it in both arms


def test_memory_is_bounded_and_the_sample_keeps_the_share() -> None:
    tallies = Tallies()
    weight = 2_500
    for number in range(60_000):
        unit = f"user-{number}"
        arm = Arm.CANDIDATE if bucket("salt", unit) < weight else Arm.CONTROL
        tallies.count(exposure(arm, unit), is_error=False, seconds=0.1)
    (made,) = tallies.report({"r1"})
    control, candidate = len(made.units.control), len(made.units.candidate)
    assert MAX_UNITS / 2 < control + candidate <= MAX_UNITS
    assert made.units.halvings == 4
    ratio = judge_ratio([Exposures(weight=weight, control=control, candidate=candidate)])
    assert (ratio.verdict, ratio.p_value > 0.01) == (Verdict.INCONCLUSIVE, True)
    assert len(msgspec.msgpack.encode(made)) < MAX_UNITS * 9 + 1_000


def test_a_unit_counts_once_however_many_workers_meet_it_and_a_request_each_time() -> None:
    workers = [Tallies() for _ in range(3)]
    for worker in workers:
        for number in range(100):
            arm = Arm.CANDIDATE if number < 10 else Arm.CONTROL
            worker.count(exposure(arm, f"u{number}"), is_error=number == 3, seconds=0.2)
    (total,) = sum_tallies([worker.report({"r1"}) for worker in workers])
    assert (len(total.units.control), len(total.units.candidate)) == (90, 10)
    assert (total.control.requests, total.candidate.requests) == (270, 30)
    assert (total.control.errors, total.candidate.errors) == (0, 3)
    assert sum(total.candidate.duration.counts) == 30
    assert total.candidate.duration.sum == pytest.approx(6.0)
    assert (total.rollout, total.stage, total.alias) == ("r1", 2, "support")


def test_summing_leaves_what_was_reported_as_it_is() -> None:
    one = Tallies()
    one.count(exposure(Arm.CONTROL, "u"), is_error=False, seconds=1.0)
    (reported,) = one.report({"r1"})
    before = msgspec.msgpack.encode(reported)
    sum_tallies([[reported], [reported]])
    assert msgspec.msgpack.encode(reported) == before


def test_stages_are_apart_and_a_closed_rollout_goes_after_it_was_reported() -> None:
    tallies = Tallies()
    for stage in (1, 2):
        tallies.count(exposure(Arm.CONTROL, tag=RolloutTag(id="r1", stage=stage)), is_error=False, seconds=0.1)
    assert [each.stage for each in tallies.report({"r1"})] == [1, 2]
    assert [each.stage for each in tallies.report(())] == [1, 2], "the last word of it"
    assert tallies.report(()) == []


def test_many_stages_do_not_pile_up() -> None:
    tallies = Tallies()
    for stage in range(1_000):
        tallies.count(exposure(Arm.CONTROL, tag=RolloutTag(id="r", stage=stage)), is_error=False, seconds=0.1)
    told = tallies.report({"r"})
    assert len(told) == tally.MAX_TALLIES
    assert told[-1].stage == 999


def test_a_client_that_left_tells_its_unit_and_nothing_else() -> None:
    tallies = Tallies()
    tallies.count_departure(exposure(Arm.CANDIDATE, "u"))
    (made,) = tallies.report({"r1"})
    assert (made.candidate.requests, made.candidate.errors, len(made.units.candidate)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("assigned", "served", "status", "in_band", "failed"),
    [
        (Arm.CANDIDATE, Arm.CANDIDATE, 200, False, False),
        (Arm.CANDIDATE, Arm.CANDIDATE, 200, True, True),
        (Arm.CANDIDATE, Arm.CANDIDATE, 400, False, False),
        (Arm.CANDIDATE, Arm.CANDIDATE, 500, False, True),
        (Arm.CANDIDATE, Arm.CONTROL, 200, False, True),
        (Arm.CANDIDATE, None, 503, False, True),
        (Arm.CONTROL, Arm.CONTROL, 429, False, False),
        (Arm.CONTROL, Arm.CONTROL, 200, False, False),
        (Arm.CONTROL, None, 503, False, True),
    ],
)
def test_what_counts_against_the_arm_that_was_assigned(
    assigned: Arm, served: Arm | None, status: int, in_band: bool, failed: bool
) -> None:
    assert is_failure(exposure(assigned), served, status, is_in_band=in_band) is failed


def test_the_sample_knows_nothing_of_the_arm() -> None:
    kept = [unit for unit in map(str, range(40_000)) if sample_hash("r1", unit) >> 61 == 0]
    candidate = sum(bucket("r1", unit) < 5_000 for unit in kept)
    ratio = judge_ratio([Exposures(weight=5_000, control=len(kept) - candidate, candidate=candidate)])
    assert ratio.p_value > 0.01
    assert 4_700 < len(kept) < 5_300  # 5,000 in expectation, ± 4.5 standard deviations


def test_a_tally_survives_the_channel() -> None:
    made = Tally(rollout="r", stage=1, alias="a", units=sample([(2**64 - 1, Arm.CONTROL), (5, Arm.CANDIDATE)]))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Tally)
    assert again == made
    assert fresh(made.units) == made.units


def test_samples_of_replicas_with_different_thresholds_agree() -> None:
    chance = random.Random(5)
    numbers = [chance.getrandbits(64) for _ in range(3 * MAX_UNITS)]
    many = sample([(number, Arm.CONTROL) for number in numbers])
    few = sample([(number, Arm.CANDIDATE) for number in numbers[:50]])
    assert many.halvings > few.halvings == 0
    assert merged(many, few) == merged(few, many)
