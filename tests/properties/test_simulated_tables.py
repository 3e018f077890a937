"""The simulations behind docs' tables, small: that they compute what the product does, and find what the pages say."""

from math import log

import numpy as np
import pytest

from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import criterion
from evaluators.observation import Kind, Score, ScoredPair
from evaluators.statistics import two_sample
from evaluators.statistics.betting import evidence_of
from evaluators.statistics.detector import Detector
from gateway.decide.sample import NEEDED_NOISE_SHARE
from gateway.rollout.gates import sample_ratio as ratio
from gateway.rollout.gates.sample_ratio import Exposures
from simulations import needed, over_time, reports, sample_ratio, session_order, two_streams
from simulations.capital import run_lengths
from simulations.promises import Size
from simulations.two_streams import Stream

SMALL = Size(runs=100, looks=2_000)
pytestmark = pytest.mark.simulation


def test_evidence_of_two_streams_is_the_products() -> None:
    rng = np.random.default_rng(1)
    values, is_noise = rng.beta(6, 3, (4, 300)), rng.random((4, 300)) < 0.35
    trial, noise = Stream.empty(4), Stream.empty(4)
    trial.add(values, ~is_noise)
    noise.add(values, is_noise)
    for run in range(4):
        first, other = evidence_of(values[run, ~is_noise[run]]), evidence_of(values[run, is_noise[run]])
        for margin in (0.0, 0.1):
            worse = two_streams.log_e_worse(trial, noise, margin)[run]
            assert worse == pytest.approx(two_sample.log_e_worse(first, other, margin), abs=2e-3)  # rounded down
            not_worse = two_streams.log_e_not_worse(trial, noise, margin)[run]
            assert not_worse == pytest.approx(two_sample.log_e_not_worse(first, other, margin), abs=2e-3)


def test_where_noise_decides_the_chosen_share_needs_a_third_of_the_pairs_that_a_tenth_needs() -> None:
    told = two_streams.noise_share(SMALL)
    chosen = f"{NEEDED_NOISE_SHARE / 10_000:g}"
    for name, by_share in told.items():
        assert by_share[chosen] <= 0.75 * by_share["0.1"], name
        assert by_share[chosen] <= 1.4 * min(by_share.values()), name
    assert told["10 points less similar than noise, margin 5: fails"][chosen] < 600


def test_divergences_that_differ_between_sessions_take_longer_than_equal_ones() -> None:
    told = needed.pairs_needed(SMALL)["fail it at 0.7 nats; at 1; at 3"]["3"]
    assert 20 < told[1] < 40, "equal ones would fail after 14"
    assert told[0] > 2 * told[1] > 4 * told[2]


def test_what_is_allowed_never_fails_and_twice_as_much_takes_longer_than_without_a_margin() -> None:
    told = needed.default_margins(SMALL)
    assert told["pass rate -5 points, 12 % discordant"]["default"] is None
    for name in ("pass rate -10 points, 12 % discordant", "judge's win rate 0.40"):
        assert told[name]["default"] > 2 * told[name]["none"]


def test_short_bad_and_long_good_sessions_are_rolled_back_as_they_end_and_not_as_they_began() -> None:
    told = session_order.session_order(SMALL)["2 sessions a second, margin 0 points"]
    assert told["as they end"] > 0.8
    assert told["as they began"] <= 0.05


def test_the_judge_itself_rolls_no_short_bad_and_long_good_sessions_back() -> None:
    rng = np.random.default_rng(5_551)
    failed = 0
    for _ in range(12):
        evidence = CriterionEvidence(criterion("expected", margin=0.0), idle_seconds=session_order.IDLE)
        turns: list[tuple[float, int, bool]] = []
        began = 0.0
        for number in range(500):
            began += rng.exponential(0.5)
            is_long = bool(rng.random() < 0.5)
            turns += [(began + turn * session_order.GAP, number, is_long) for turn in range(10 if is_long else 1)]
        for at, (when, number, is_long) in enumerate(sorted(turns)):
            chance = rng.random()
            better = (0.12 + (0.1 if is_long else -0.1)) / 2
            value = 1.0 if chance < better else 0.0 if chance < 0.12 else 0.5
            evidence.close(when)
            evidence.add(
                ScoredPair(
                    sample=str(at),
                    alias="support",
                    kind=Kind.CANDIDATE,
                    control="a",
                    other="b",
                    session=str(number),
                    at=when,
                    scored_at=when,
                    scores={"expected": Score(value=value, version="1")},
                )
            )
            if at % 50 == 0 and evidence.classify().label == "fail":
                failed += 1
                break
    assert failed == 0


def test_an_interval_of_a_sliding_window_is_right_at_a_look_and_not_at_all_looks() -> None:
    told = reports.sliding(Size(runs=40))
    for name, case in told.items():
        assert case["at_a_look"] <= 0.01, name
    assert told["Beta(8, 2), the last 1,000 sessions"]["ever"] > 0.1


def test_marks_are_wrong_no_oftener_than_said_and_find_nearly_what_single_intervals_find() -> None:
    told = reports.marks(Size(runs=200))
    for name, case in told.items():
        assert "e-BH" not in name or case["wrong"] <= 0.05, name
    ours = told["e-BH (ours); 5 of 20 differ"]
    assert ours["found"] > 0.9 * told["each interval for itself; 5 of 20 differ"]["found"]


def test_two_draws_of_one_mix_are_as_far_apart_as_the_formula_says() -> None:
    for name, told in over_time.psi_bias(Size(runs=400)).items():
        assert told["mean"] == pytest.approx(told["formula"], rel=0.2), name


def test_sessions_that_repeat_each_other_alarm_sooner_than_promised() -> None:
    told = over_time.correlated_alarms(SMALL)
    assert told["0 %"]["at_limit"] > 1_000
    assert told["50 %"]["at_limit"] < 500
    assert told["50 %"]["within"] < told["0 %"]["within"] / 10


def test_run_lengths_are_the_detectors_own() -> None:
    values = np.random.default_rng(2).random(400) < 0.1
    detector, at = Detector(0.05, 50.0), 1
    while not detector.add(float(values[at - 1])):
        at += 1
    steps = iter(values)
    assert run_lengths(lambda n: np.full(n, float(next(steps))), 0.05, 50.0, 1, 400)[0] == at


def test_the_sample_ratios_evidence_is_the_products() -> None:
    for weight, candidate, n in ((0.5, 480, 1_000), (0.05, 40, 1_000), (0.01, 9_000, 1_000_000)):
        period = Exposures(weight=round(weight * 10_000), control=n - candidate, candidate=candidate)
        log_e = sample_ratio._log_e(np.array([[float(candidate)]]), n, weight, ratio.CONCENTRATION)[0, 0]
        assert log_e == pytest.approx(log(ratio.judge_ratio([period]).e_value), abs=1e-6)


def test_small_leaks_are_found_sooner_and_a_right_split_is_called_wrong_no_oftener_than_said() -> None:
    told = sample_ratio.sample_ratio(Size(runs=200))
    small = told["1 % of the candidate's units in control, at 50 %"]
    assert small["1000"] < 0.95 * small["100"]
    assert told["50 % of the candidate's units in control, at 50 %"]["1000"] < 400
    for name, each in told.items():
        assert not name.startswith("a right split") or max(each.values()) <= 0.01, name
