"""Seeded simulations of what the gates promise: false alarms no more often than alpha, at every look."""

from collections.abc import Callable

import numpy as np
import pytest

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Arm
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.rollout.account_counts import arm_counts
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.sample_ratio import Exposures, judge_ratio
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.traffic import judge_streams
from gateway.rollout.gates.unit_shares import Count, units_of
from simulations.live import Account, Scene, drawn, first_verdict
from tests.support.unit_counts import Worker

pytestmark = pytest.mark.simulation

GATE = Gate(name="error_rate", margin=0.01)
ALPHA = 0.05  # larger than in any plan, so that what breaks the promise would show
RUNS, LOOKS = 150, 25
Rates = Callable[[np.random.Generator], np.ndarray]


def share_with(verdict: Verdict, rates: Rates, excess: float, *, share: float, per_look: int) -> float:
    """Return the share of runs in which the gate ever says `verdict`, looking after every interval; a unit asks once.

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
        sums = [
            each
            for each in zip(control_n.cumsum(), control_bad, candidate_n.cumsum(), candidate_bad, strict=True)
            if _may_say(verdict, *map(int, each))
        ]
        hits += any(
            judge_streams(
                GATE,
                Streams(
                    control=units_of(Count(n=int(n), bad=int(bad))),
                    candidate=units_of(Count(n=int(m), bad=int(worse))),
                ),
                ALPHA,
            ).verdict
            is verdict
            for n, bad, m, worse in sums
        )
    return hits / RUNS


def _may_say(verdict: Verdict, n: int, bad: int, m: int, worse: int) -> bool:
    """Whether the means allow it at all: there is no evidence that a mean is beyond where it is seen."""
    difference = worse / max(1, m) - bad / max(1, n) - GATE.margin
    return difference > 0 if verdict is Verdict.FAIL else difference < 0


def steady(rate: float) -> Rates:
    return lambda _: np.full(LOOKS, rate)


def stormy(draw: np.random.Generator) -> np.ndarray:
    """A few outages that both arms share: 0.5 % errors, and 60 % in about one interval of twenty."""
    return np.where(draw.random(LOOKS) < 0.05, 0.6, 0.005)


def drifting(draw: np.random.Generator) -> np.ndarray:
    """A rate that wanders between 0 and 30 %."""
    return 0.15 + 0.15 * np.sin(np.linspace(0, 6, LOOKS) + 6 * draw.random())


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
    assert share_with(Verdict.FAIL, steady(0.005), 0.05, share=0.05, per_look=800) >= 0.99  # within 1,000 units
    assert share_with(Verdict.PASS, steady(0.001), 0.0, share=0.05, per_look=4_000) >= 0.99  # within 5,000


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


# Units that call more than once


def share_of_runs(scene: Scene, verdict: Verdict, runs: int) -> float:
    draw = np.random.default_rng(20_261_130)
    return float(np.mean([np.isfinite(first_verdict(scene, drawn(scene, draw), verdict)[0]) for _ in range(runs)]))


@pytest.mark.parametrize("requests", [1.0, 30.0])
@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_units_that_always_fail_in_both_arms_do_not_roll_a_harmless_candidate_back(
    requests: float, weight: float
) -> None:
    assert share_of_runs(Scene(weight=weight, requests=requests, bad=(0.02, 0.02)), Verdict.FAIL, 120) <= 0.01


def test_an_outage_of_both_arms_does_not_roll_a_harmless_candidate_back() -> None:
    assert share_of_runs(Scene(weight=0.05, outage=("anywhere", 30.0)), Verdict.FAIL, 120) <= 0.01


HONEST = Account(share=0.2, bad=(0.0, 0.0))


def test_one_account_neither_rolls_a_candidate_back_nor_hides_what_is_wrong_with_it() -> None:
    loud = (Account(share=0.2, bad=(0.0, 1.0)), *[HONEST] * 4)
    assert share_of_runs(Scene(weight=0.05, accounts=loud), Verdict.FAIL, 40) <= 0.01
    hiding = (Account(share=0.2, bad=(1.0, 0.0)), *[HONEST] * 4)
    assert share_of_runs(Scene(weight=0.5, accounts=hiding, errors=(0.001, 0.1)), Verdict.FAIL, 5) == 1


def test_a_candidate_that_fails_everything_is_found_within_seconds() -> None:
    scene = Scene(weight=0.05, rate=100.0, requests=1.0, errors=(0.001, 1.0), seconds=60)
    draw = np.random.default_rng(20_261_130)
    times = [first_verdict(scene, drawn(scene, draw), Verdict.FAIL)[0] for _ in range(100)]
    assert np.quantile(times, 0.99) <= 5.0


def test_a_candidate_that_breaks_after_everybody_has_called_is_found_by_its_rounds() -> None:
    # Forty units of each arm that call all the time; from the eleventh minute on the candidate's requests fail.
    worker = Worker(0.0)
    for second in range(0, 660, 5):
        worker.now = float(second)
        for unit in range(80):
            arm = Arm.CANDIDATE if unit % 2 else Arm.CONTROL
            tag = RolloutTag(id="r", stage=1)
            is_error = arm is Arm.CANDIDATE and second >= 600
            worker.count(Exposure(tag, "support", arm, str(unit), "app"), is_error=is_error)
        (tally,) = worker.report({"r"})
        control, candidate = (arm_counts(each, 0).failing for each in (tally.control, tally.candidate))
        verdict = judge_streams(GATE, Streams(control=control, candidate=candidate), 0.01 / 6).verdict
        assert (verdict is Verdict.FAIL) == (second >= 600), second
        if verdict is Verdict.FAIL:
            break
    assert candidate.whole.first.bad == 0, "by what they said in the first ten minutes it is well"
