"""Seeded simulations of what verdicts promise; `make simulate` has the same at full size, with tables and plots."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import criterion
from evaluators.observation import Kind, Score, ScoredPair
from gateway.rollout.gates.sample_ratio import ALPHA as RATIO_ALPHA
from simulations import promises
from simulations.__main__ import SIMULATIONS
from simulations.capital import first_crossings, log_e_below
from simulations.page import PAGES, rewritten
from simulations.promises import Size
from simulations.traffic import Traffic

ROOT = Path(__file__).parents[2]
SMALL = Size(runs=150, looks=2_000)
FULL = Size()
simulation = pytest.mark.simulation


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_last_simulation_found(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    results = json.loads((ROOT / "docs" / "statistics" / "results.json").read_text())
    assert results["size"] == {"runs": FULL.runs, "looks": FULL.looks, "seed": FULL.seed, "alpha": FULL.alpha}
    assert page == rewritten(page, results, PAGES[name])
    assert sorted(re.findall(r"<!-- simulated: (\w+) -->", page)) == sorted(PAGES[name])
    if name == "statistics.md":
        assert all((ROOT / "docs" / name).is_file() for name in _figures(page))


def test_every_simulation_has_a_table_on_one_page() -> None:
    results = json.loads((ROOT / "docs" / "statistics" / "results.json").read_text())
    told = [table for tables in PAGES.values() for table in tables]
    assert sorted(told) == sorted(SIMULATIONS)
    assert sorted(results) == sorted(["size", *SIMULATIONS])


def _figures(page: str) -> list[str]:
    found = [line.partition("](")[2].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert found
    return found


def test_the_last_full_simulation_kept_every_promise() -> None:
    results = json.loads((ROOT / "docs" / "statistics" / "results.json").read_text())
    alpha = results["size"]["alpha"]
    assert results["size"]["runs"] >= 2_000
    for name in ("false_rollbacks", "false_passes", "against_noise"):
        assert {case: share for case, share in results[name].items() if share > alpha} == {}
    for name in ("Bonferroni", "e-BH"):
        assert results["ten_criteria"][name] <= alpha
    for case, told in results["power"].items():
        assert told["demand"] is None or told["median"] <= told["demand"], case
    for case, told in results["coverage"].items():
        assert told["ever"] <= 0.05, case
    naive, ours = (told["ever"] for told in results["sessions"].values())
    assert naive > 10 * alpha
    assert ours <= alpha
    for case, told in results["session_order"].items():
        assert told["as they began"] <= alpha, case
    for case, told in results["sliding"].items():
        assert told["at_a_look"] <= 0.05, case
        assert ("all sessions" in case) is (told["ever"] <= 0.05), case
    for case, told in results["marks"].items():
        assert "e-BH" not in case or told["wrong"] <= 0.05, case
    for case, told in results["sample_ratio"].items():
        assert "right split" not in case or max(told.values()) <= RATIO_ALPHA, case
    for case, told in results["alarms"].items():
        assert "mean" not in told or told["mean"] >= told["promised"], case


@simulation
def test_a_harmless_candidate_is_rolled_back_no_oftener_than_alpha_whatever_the_metric() -> None:
    rates = promises.false_rollbacks(SMALL)
    assert max(rates.values()) <= 2 * SMALL.alpha  # of 750 runs; the full simulation has 10,000
    assert sum(rates.values()) / len(rates) <= SMALL.alpha
    assert max(rates.values()) > 0  # never at all would mean a test without power


@simulation
def test_a_candidate_at_what_is_forbidden_passes_no_oftener_than_alpha() -> None:
    rates = promises.false_passes(SMALL)
    assert max(rates.values()) <= 2 * SMALL.alpha


@simulation
def test_a_similarity_that_is_like_noise_fails_no_oftener_than_alpha() -> None:
    assert max(promises.against_noise(SMALL).values()) <= SMALL.alpha


@simulation
def test_ten_harmless_criteria_together_fail_no_oftener_than_alpha() -> None:
    told = promises.ten_criteria(SMALL)
    assert told["Bonferroni"] <= SMALL.alpha
    assert told["e-BH"] <= SMALL.alpha
    assert told["each at the whole alpha"] > told["Bonferroni"]


@simulation
def test_bad_candidates_are_found_within_the_pairs_that_were_asked_for() -> None:
    demanded = {name: case for name, case in promises.POWER.items() if case[3] is not None}
    assert len(demanded) == 3
    for name, told in promises.power(Size(runs=400), demanded, failing=True).items():
        assert told["demand"] is not None
        assert told["median"] <= told["demand"], name


@simulation
def test_good_candidates_pass() -> None:
    told = promises.power(Size(runs=60), promises.PASSING, failing=False)
    assert max(each["median"] for each in told.values()) < 1_000


@simulation
def test_the_truth_is_outside_of_its_bounds_no_oftener_than_alpha_where_a_fixed_interval_loses_it() -> None:
    for case, told in promises.coverage(SMALL).items():
        assert told["ever"] <= 0.07, case  # 0.05, and a standard error
    told = promises.peeking(SMALL)
    assert told["fixed 95 % interval"]["ever"] > 0.25
    assert told["confidence sequence"]["ever"] <= 0.07


@simulation
def test_pairs_of_sessions_taken_for_themselves_break_alpha_and_sessions_that_count_once_hold_it() -> None:
    told = promises.sessions(SMALL)
    assert told["each pair for itself (naive)"]["ever"] > 10 * SMALL.alpha
    assert told["each session once (ours)"]["ever"] <= SMALL.alpha


@simulation
def test_the_judge_itself_holds_alpha_on_sessions_as_the_simulated_one_does() -> None:
    runs, turns = 25, promises.TURNS
    pairs = Traffic(11, 1_500).turns(0.12, promises.CORRELATION, turns)(runs)
    found = first_crossings(log_e_below(pairs.reshape(runs, -1, turns).mean(axis=2), 0.475), 0.2)
    for run in range(runs):
        evidence, crossed = CriterionEvidence(criterion("expected", alpha=0.2)), np.inf
        for at, goodness in enumerate(pairs[run]):
            score = Score(value=float(goodness), version="1")
            evidence.add(
                ScoredPair(
                    sample=str(at),
                    alias="support",
                    kind=Kind.CANDIDATE,
                    control="a",
                    other="b",
                    session=str(at // turns),
                    at=at,
                    scored_at=at,
                    scores={"expected": score},
                )
            )
            if (at + 1) % turns == 0 and evidence.classify().label == "fail":
                crossed = min(crossed, (at + 1) // turns)
        assert crossed == found[run]


@simulation
def test_a_judge_that_sees_moved_pairs_oftener_holds_alpha_because_weights_undo_it() -> None:
    told = promises.weights(SMALL)
    assert told["weighted (ours)"] <= 2 * SMALL.alpha
    assert told["taken as they come"] > 0.5


@simulation
def test_one_e_value_for_both_streams_needs_less_than_two_confidence_sequences() -> None:
    ours, two = (told["median"] for told in promises.noise_power(Size(runs=10)).values())
    assert ours < two


@simulation
def test_false_alarms_are_as_far_apart_as_stated_and_true_ones_come_soon() -> None:
    told = promises.alarms(Size(runs=300))
    for case, each in told.items():
        if "mean" in each:
            assert each["mean"] >= 0.85 * each["promised"], case  # a mean of 300 varies by 6 %
        else:
            assert each["delay"] < 1_000, case
