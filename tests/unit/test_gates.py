"""Gates from live traffic and from people, and the split's own test. Units have one request each here."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge.verdict import Verdict
from gateway.rollout.gates import GATES
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.person import judge_manual
from gateway.rollout.gates.sample_ratio import Exposures, judge_ratio
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.traffic import judge_streams, latency_threshold
from gateway.rollout.gates.unit_shares import Count, units_of

ERROR_RATE = Gate(name="error_rate", margin=0.01)
ALPHA, PASS_ALPHA = 0.01 / 8, 0.01  # a plan of four steps with two gates each


def streams(control: tuple[int, int], candidate: tuple[int, int], threshold_seconds: float | None = None) -> Streams:
    return Streams(
        control=units_of(Count(n=control[0], bad=control[1])),
        candidate=units_of(Count(n=candidate[0], bad=candidate[1])),
        threshold_seconds=threshold_seconds,
    )


# Counts


@pytest.mark.parametrize("alpha", [0, 1, -1, 2])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha `{alpha}`"):
        judge_ratio([], alpha)


@pytest.mark.parametrize(("n", "bad"), [(1, 2), (5, -1), (-1, -1)])
def test_counts_that_cannot_be_are_refused(n: int, bad: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Count(n=n, bad=bad)


# error_rate and latency


def test_a_candidate_as_good_as_control_passes_with_enough_requests() -> None:
    reading = judge_streams(ERROR_RATE, streams((104_940, 105), (1_060, 1)), ALPHA, PASS_ALPHA)
    assert reading.verdict is Verdict.PASS
    assert reading.reason == (
        "error rate 0.09% ≤ control 0.10% + margin 1.00% (n=1,060 units, control n=104,940, e=115)"
    )
    assert (reading.n, reading.observed, reading.limit) == (1_060, 1 / 1_060, pytest.approx(0.011, abs=1e-5))
    assert reading.e_value == pytest.approx(115, abs=0.5)
    fewer = streams((89_100, 89), (900, 1))
    assert judge_streams(ERROR_RATE, fewer, ALPHA, PASS_ALPHA).verdict is Verdict.INCONCLUSIVE


# What the docs promise: how many requests of the candidate it takes at 1 % of traffic.
@pytest.mark.parametrize(("rate", "most"), [(1.0, 3), (0.5, 7), (0.1, 90), (0.05, 320)])
def test_a_bad_candidate_fails_after_few_requests(rate: float, most: int) -> None:
    reading = judge_streams(ERROR_RATE, streams((99 * most, round(0.099 * most)), (most, round(most * rate))), ALPHA)
    assert reading.verdict is Verdict.FAIL
    assert "> control" in reading.reason


def test_little_data_none_and_no_measurement_are_inconclusive() -> None:
    for given_streams in (streams((0, 0), (0, 0)), streams((100, 0), (1, 1)), streams((0, 0), (50, 50)), None):
        reading = judge_streams(ERROR_RATE, given_streams, ALPHA)
        assert reading.verdict is Verdict.INCONCLUSIVE
    assert reading.reason == "not measured yet: too few requests (n=0)"


def test_a_difference_within_the_margin_never_fails() -> None:
    assert judge_streams(ERROR_RATE, streams((10**6, 10**4), (10**6, 18_500)), ALPHA).verdict is Verdict.PASS
    assert judge_streams(ERROR_RATE, streams((10**6, 10**4), (10**6, 21_500)), ALPHA).verdict is Verdict.FAIL
    assert judge_streams(ERROR_RATE, streams((10**6, 10**4), (10**6, 20_000)), ALPHA).verdict is Verdict.INCONCLUSIVE


def test_a_limit_holds_whatever_control_does() -> None:
    gate = Gate(name="error_rate", margin=0.01, limit=0.05)
    both_bad = streams((10**5, 10_000), (10**5, 10_000))
    assert judge_streams(ERROR_RATE, both_bad, ALPHA).verdict is Verdict.PASS
    failed = judge_streams(gate, both_bad, ALPHA)
    assert (failed.verdict, failed.limit) == (Verdict.FAIL, 0.05)
    assert "error rate 10.00% > limit 5.00%" in failed.reason
    alone = judge_streams(gate, streams((0, 0), (100, 50)), ALPHA)
    assert alone.verdict is Verdict.FAIL
    near = judge_streams(gate, streams((10**5, 4_900), (10**5, 4_900)), ALPHA)
    assert (near.verdict, near.limit) == (Verdict.INCONCLUSIVE, 0.05)
    good = judge_streams(gate, streams((10**5, 100), (10**5, 100)), ALPHA)
    assert (good.verdict, "≤ control 0.10% + margin 1.00%" in good.reason) == (Verdict.PASS, True)


def test_the_limit_in_words_is_the_one_that_was_broken() -> None:
    gate = Gate(name="error_rate", margin=0.01, limit=0.5)
    reading = judge_streams(gate, streams((10**5, 100), (10**5, 90_000)), ALPHA)
    assert "> limit 50.00%" in reading.reason
    assert "> control" in judge_streams(gate, streams((10**5, 100), (10**5, 10_000)), ALPHA).reason


def test_latency_says_above_which_time_a_request_was_slow() -> None:
    gate = Gate(name="latency", margin=0.05, quantile=0.95)
    reading = judge_streams(gate, streams((10**5, 5_000), (10**4, 3_000), threshold_seconds=0.25), ALPHA)
    assert reading.verdict is Verdict.FAIL
    assert reading.reason.startswith("share slower than 0.25 s 30.00% > control 5.00% + margin 5.00% (n=10,000")


@given(st.integers(0, 500), st.integers(0, 500), st.data())
def test_more_bad_requests_never_better_the_verdict(n_control: int, n: int, data: st.DataObject) -> None:
    order = list(Verdict)
    control = data.draw(st.integers(0, n_control))
    fewer, more = sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))
    verdicts = [
        judge_streams(ERROR_RATE, streams((n_control, control), (n, bad)), 0.05).verdict for bad in (fewer, more)
    ]
    assert order.index(verdicts[0]) <= order.index(verdicts[1])


def test_a_manual_gate_passes_by_a_person_alone() -> None:
    gate = Gate(name="manual")
    assert judge_manual(gate, None).verdict is Verdict.INCONCLUSIVE
    approved = judge_manual(gate, "key-1")
    assert (approved.verdict, approved.reason) == (Verdict.PASS, "approved by `key-1`")


def test_every_kind_of_gate_can_hold_its_parameters() -> None:
    for name, kind in GATES.items():
        assert Gate(name=name).parameters().keys() == kind.defaults.keys()


def test_the_latency_threshold_is_the_bucket_that_holds_the_quantile() -> None:
    upper = (0.1, 0.5, 1.0)
    assert latency_threshold(upper, (90, 5, 5, 0), 0.9) == 0.1
    assert latency_threshold(upper, (90, 5, 5, 0), 0.95) == 0.5
    assert latency_threshold(upper, (90, 5, 4, 1), 0.99) == 1.0
    assert latency_threshold(upper, (90, 5, 0, 5), 0.99) is None
    assert latency_threshold(upper, (0, 0, 0, 0), 0.5) is None
    with pytest.raises(ValueError, match="`3` counts"):
        latency_threshold(upper, (1, 2, 3), 0.5)


# Sample ratio


def test_a_split_as_the_weight_says_shows_no_mismatch() -> None:
    ratio = judge_ratio([Exposures(weight=100, control=99_000, candidate=1_000)])
    assert (ratio.verdict, ratio.observed, ratio.expected, ratio.n) == (Verdict.INCONCLUSIVE, 0.01, 0.01, 100_000)
    assert ratio.e_value < 1
    assert ratio.p_value == 1.0
    assert ratio.reason.startswith("no mismatch seen: candidate's share 1.00% ≈ 1.00% (n=100,000 units, e=")


def test_a_split_that_is_off_is_a_mismatch_over_all_periods_together() -> None:
    off = [
        Exposures(weight=1_000, control=8_800, candidate=1_200),
        Exposures(weight=5_000, control=4_850, candidate=5_150),
    ]
    ratio = judge_ratio(off)
    assert ratio.verdict is Verdict.FAIL
    assert ratio.reason.startswith("mismatch: candidate's share 31.75% ≠ 30.00% (n=20,000 units, e=")
    assert ratio.p_value < 1e-8
    each = [judge_ratio([period]).e_value for period in off]
    assert ratio.e_value == pytest.approx(each[0] * each[1])


def test_the_chi_square_of_one_period_is_pearsons() -> None:
    # 60 and 40 of 100 expected even: chi-square 4, whose tail with one degree of freedom is 0.0455.
    assert judge_ratio([Exposures(weight=5_000, control=60, candidate=40)]).p_value == pytest.approx(0.0455, abs=1e-4)


@pytest.mark.parametrize(("weight", "control", "candidate"), [(0, 5, 1), (10_000, 1, 5)])
def test_one_unit_on_an_arm_without_weight_is_proof(weight: int, control: int, candidate: int) -> None:
    ratio = judge_ratio([Exposures(weight=weight, control=control, candidate=candidate)])
    assert (ratio.verdict, ratio.e_value, ratio.p_value) == (Verdict.FAIL, inf, 0.0)


def test_an_arm_without_weight_and_without_units_is_as_it_should_be() -> None:
    for period in (Exposures(weight=0, control=9), Exposures(weight=10_000, candidate=9)):
        assert judge_ratio([period]).verdict is Verdict.INCONCLUSIVE
    nothing = judge_ratio([])
    assert (nothing.verdict, nothing.n, nothing.p_value, nothing.e_value) == (Verdict.INCONCLUSIVE, 0, 1.0, 1.0)


def test_overwhelming_evidence_has_no_number_too_large() -> None:
    assert judge_ratio([Exposures(weight=5_000, control=100_000, candidate=0)]).e_value == inf


@pytest.mark.parametrize(("weight", "control", "candidate"), [(-1, 0, 0), (10_001, 0, 0), (5, -1, 0), (5, 0, -1)])
def test_exposures_that_cannot_be_are_refused(weight: int, control: int, candidate: int) -> None:
    with pytest.raises(ValueError, match=r"is not in|cannot be below"):
        Exposures(weight=weight, control=control, candidate=candidate)
