"""Seeded simulations of what the gates promise: false alarms no more often than alpha, at every look."""

from collections.abc import Callable
from math import log, sqrt

import numpy as np
import pytest

from gateway.decide.confidence import Count, log_e_value
from gateway.decide.gates import Gate, Streams, judge_streams
from gateway.decide.ratio import Exposures, judge_ratio
from gateway.decide.verdict import Verdict

pytestmark = pytest.mark.simulation

GATE = Gate(name="error_rate", margin=0.01)
ALPHA = 0.05  # larger than in any plan, so that what breaks the promise would show
RUNS, LOOKS = 400, 50
Rates = Callable[[np.random.Generator], np.ndarray]


def share_with(verdict: Verdict, rates: Rates, excess: float, *, share: float, per_look: int) -> float:
    """Return the share of runs in which the gate ever says `verdict`, looking after every interval.

    Args:
        verdict: What is counted.
        rates: Makes (LOOKS,) the control's error rate in each interval.
        excess: How much higher the candidate's rate is.
        share: The candidate's share of the traffic.
        per_look: Requests of both arms in one interval.
    """
    draw = np.random.default_rng(20_260_101)
    hits = 0
    for _ in range(RUNS):
        rate = rates(draw)
        candidate_n = draw.binomial(per_look, share, LOOKS)
        control_n = per_look - candidate_n
        control_bad = draw.binomial(control_n, rate).cumsum()
        candidate_bad = draw.binomial(candidate_n, np.minimum(1.0, rate + excess)).cumsum()
        sums = zip(control_n.cumsum(), control_bad, candidate_n.cumsum(), candidate_bad, strict=True)
        hits += any(
            judge_streams(
                GATE,
                Streams(control=Count(n=int(n), bad=int(bad)), candidate=Count(n=int(m), bad=int(worse))),
                ALPHA,
            ).verdict
            is verdict
            for n, bad, m, worse in sums
        )
    return hits / RUNS


def steady(rate: float) -> Rates:
    return lambda _: np.full(LOOKS, rate)


def stormy(draw: np.random.Generator) -> np.ndarray:
    """A few outages that both arms share: 0.5 % errors, and 60 % in about one interval of twenty."""
    return np.where(draw.random(LOOKS) < 0.05, 0.6, 0.005)


def drifting(draw: np.random.Generator) -> np.ndarray:
    """A rate that wanders between 0 and 30 %."""
    return 0.15 + 0.15 * np.sin(np.linspace(0, 6, LOOKS) + 6 * draw.random())


def share_that_ever_misses(is_missed: Callable[[int, int], bool], rate: float) -> float:
    """Return the share of 2,000 streams in which `is_missed(n, bad)` at any of 200 looks, every 10 requests."""
    draw = np.random.default_rng(11)
    bad = draw.binomial(10, rate, (2_000, 200)).cumsum(axis=1)
    return sum(any(is_missed(10 * at, int(seen)) for at, seen in enumerate(run, 1)) for run in bad) / 2_000


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_bounds_miss_the_truth_no_more_often_than_alpha_where_a_fixed_interval_does_far_more_often(rate: float) -> None:
    def is_outside(n: int, bad: int) -> bool:
        return log_e_value(Count(n=n, bad=bad), rate) >= -log(ALPHA)

    def is_outside_fixed(n: int, bad: int) -> bool:
        return n >= 100 and abs(bad / n - rate) > 1.96 * sqrt(rate * (1 - rate) / n)

    misses, fixed = share_that_ever_misses(is_outside, rate), share_that_ever_misses(is_outside_fixed, rate)
    assert 0 < misses <= ALPHA  # never missing at all would mean that the test has no power
    assert fixed > 4 * ALPHA


WEATHER = {"low": steady(0.001), "high": steady(0.05), "storm": stormy, "drift": drifting}


@pytest.mark.parametrize("weather", WEATHER)
@pytest.mark.parametrize(("share", "per_look"), [(0.01, 10_000), (0.5, 400)])
def test_a_harmless_candidate_fails_no_more_often_than_alpha(weather: str, share: float, per_look: int) -> None:
    for excess in (0.0, GATE.margin):  # the same as control, and the worst that is still within the margin
        assert share_with(Verdict.FAIL, WEATHER[weather], excess, share=share, per_look=per_look) <= ALPHA


@pytest.mark.parametrize("weather", WEATHER)
def test_a_candidate_beyond_the_margin_passes_no_more_often_than_alpha(weather: str) -> None:
    assert share_with(Verdict.PASS, WEATHER[weather], GATE.margin, share=0.5, per_look=400) <= ALPHA
    assert share_with(Verdict.PASS, WEATHER[weather], GATE.margin, share=0.05, per_look=4_000) <= ALPHA


def test_a_bad_candidate_is_caught_and_a_good_one_let_on() -> None:
    assert share_with(Verdict.FAIL, steady(0.005), 0.05, share=0.05, per_look=400) >= 0.99  # within 1,000 requests
    assert share_with(Verdict.PASS, steady(0.001), 0.0, share=0.05, per_look=2_000) >= 0.99  # within 5,000


@pytest.mark.parametrize("weight", [1, 100, 2_500, 5_000])
def test_a_right_split_is_called_wrong_no_more_often_than_alpha(weight: int) -> None:
    draw = np.random.default_rng(7)
    hits = 0
    for _ in range(RUNS):
        candidate = draw.binomial(100, weight / 10_000, LOOKS).cumsum()
        hits += any(
            judge_ratio([Exposures(weight=weight, control=100 * at - int(seen), candidate=int(seen))], ALPHA).verdict
            is Verdict.FAIL
            for at, seen in enumerate(candidate, 1)
        )
    assert hits / RUNS <= ALPHA


def test_a_split_that_is_off_by_a_tenth_is_found() -> None:
    draw = np.random.default_rng(7)
    for _ in range(100):
        candidate = int(draw.binomial(100_000, 0.11))
        assert (
            judge_ratio([Exposures(weight=1_000, control=100_000 - candidate, candidate=candidate)]).verdict
            is Verdict.FAIL
        )
