"""Sticky assignment: stable, uniform, and monotone in the weight."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.assign import TOTAL_WEIGHT, Arm, Split, bucket, pick_arm

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
