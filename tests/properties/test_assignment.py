"""Sticky assignment: stable, uniform, and monotone in the weight."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import TOTAL_WEIGHT, Arm, Split, bucket, pick_arm
from gateway.rollout.gates.sample_ratio import Exposures, judge_ratio

UNITS = st.text(max_size=20)


@given(UNITS, UNITS)
def test_a_bucket_is_stable_and_in_range(salt: str, unit: str) -> None:
    number = bucket(salt, unit)
    assert number == bucket(salt, unit)
    assert 0 <= number < TOTAL_WEIGHT


@given(st.integers(0, TOTAL_WEIGHT - 1), st.integers(0, TOTAL_WEIGHT), st.integers(0, TOTAL_WEIGHT))
def test_raising_the_weight_moves_units_to_the_candidate_only(number: int, low: int, high: int) -> None:
    low, high = sorted((low, high))
    before, after = (pick_arm(Split("a", "b", weight), number) for weight in (low, high))
    assert (before, after) != (Arm.CANDIDATE, Arm.CONTROL)


@given(st.integers(0, TOTAL_WEIGHT))
def test_the_candidate_owns_exactly_its_weight(weight: int) -> None:
    split = Split("a", "b", weight)
    for number in {0, weight - 1, weight, TOTAL_WEIGHT - 1} & set(range(TOTAL_WEIGHT)):
        assert (pick_arm(split, number) is Arm.CANDIDATE) is (number < weight)


def test_buckets_are_uniform() -> None:
    # Chi-square over 100 cells with 99 degrees of freedom: above 149 one time in a thousand; the seed is fixed.
    draws, cells = 100_000, [0] * 100
    for number in range(draws):
        cells[bucket("salt", f"user-{number}") // 100] += 1
    expected = draws / len(cells)
    assert sum((count - expected) ** 2 / expected for count in cells) < 149


def test_two_salts_assign_independently() -> None:
    both = sum(
        bucket("a", f"user-{number}") < 5_000 and bucket("b", f"user-{number}") < 5_000 for number in range(20_000)
    )
    assert 4_750 < both < 5_250  # 5,000 ± 4 standard deviations


def test_salt_and_unit_do_not_run_into_each_other() -> None:
    assert bucket("ab", "c") != bucket("a", "bc")


def test_assignment_is_the_same_in_every_release() -> None:
    assert [bucket("salt", unit) for unit in ("alice", "bob", "", "é\ud800")] == [7842, 5779, 8537, 8028]


def test_a_ramp_moves_each_unit_once_and_a_rollback_brings_every_one_home() -> None:
    ramp = (0, 100, 500, 2_500, 5_000, 10_000)
    for number in range(2_000):
        arms = [pick_arm(Split("a", "b", weight), bucket("salt", f"user-{number}")) for weight in ramp]
        assert arms == sorted(arms, reverse=True)  # control, then candidate: at most one change
        assert pick_arm(Split("a"), bucket("salt", f"user-{number}")) is Arm.CONTROL


def chi_square(counts: list[int], expected: list[float]) -> float:
    return sum((count - each) ** 2 / each for count, each in zip(counts, expected, strict=True))


# Of 1,000 chi-square tests of a true hypothesis one is above the 99.9 % quantile. Wilson and Hilferty's
# approximation of it is right to 0.1 % from 3 degrees of freedom on; the units are fixed, so is the result.
def chi_square_limit(freedom: int) -> float:
    return freedom * (1 - 2 / (9 * freedom) + 3.0902 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.simulation
@pytest.mark.parametrize("name", ["user-{}", "{:032x}", "sk-{}-project", "{}@example.org"])
def test_buckets_are_uniform_on_a_million_units(name: str) -> None:
    counts = [0] * TOTAL_WEIGHT
    for number in range(1_000_000):
        counts[bucket("7c1f", name.format(number))] += 1
    assert chi_square(counts, [100.0] * TOTAL_WEIGHT) < chi_square_limit(TOTAL_WEIGHT - 1)
    # And the share of a candidate at each weight of a ramp, as the split's own test sees it.
    for weight in (1, 100, 500, 2_500, 5_000, 9_999):
        candidate = sum(counts[:weight])
        ratio = judge_ratio([Exposures(weight=weight, control=1_000_000 - candidate, candidate=candidate)])
        assert ratio.verdict is not Verdict.FAIL
        assert ratio.p_value > 0.001


@pytest.mark.simulation
@pytest.mark.parametrize(("one", "other"), [("route-a", "route-b"), ("route-a", "route-a:mirror"), ("1", "2")])
def test_routes_and_mirroring_assign_independently_on_a_million_units(one: str, other: str) -> None:
    cells = 20
    table = [0] * cells**2
    width = TOTAL_WEIGHT // cells
    for number in range(1_000_000):
        unit = f"user-{number}"
        table[bucket(one, unit) // width * cells + bucket(other, unit) // width] += 1
    rows = [sum(table[at * cells : (at + 1) * cells]) for at in range(cells)]
    columns = [sum(table[at::cells]) for at in range(cells)]
    expected = [row * column / 1_000_000 for row in rows for column in columns]
    assert chi_square(table, expected) < chi_square_limit((cells - 1) ** 2)


@pytest.mark.simulation
def test_the_split_of_one_route_is_the_same_whatever_another_route_serves() -> None:
    # Among those who get route a's candidate, route b's candidate has its own weight, and no other.
    periods = []
    for weight_a, weight_b in ((100, 5_000), (5_000, 100), (2_500, 2_500)):
        inside = [unit for unit in map(str, range(300_000)) if bucket("a", unit) < weight_a]
        candidate = sum(bucket("b", unit) < weight_b for unit in inside)
        periods.append(Exposures(weight=weight_b, control=len(inside) - candidate, candidate=candidate))
    ratio = judge_ratio(periods)
    assert (ratio.verdict, ratio.p_value > 0.001) == (Verdict.INCONCLUSIVE, True)
