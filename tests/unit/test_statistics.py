"""Evidence, bounds, alarms and distances: against `ville`, against SciPy, and against their own definitions."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.statistics import two_sample
from evaluators.statistics.betting import BETS, SHARES, Evidence, evidence_of, log_e_above, log_e_below
from evaluators.statistics.confidence_sequence import bounds, lower_bound, upper_bound
from evaluators.statistics.detector import Detector, run_length_of_each
from evaluators.statistics.distances import jensen_shannon, psi
from evaluators.statistics.multiple import bonferroni, e_bh
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse
from evaluators.statistics.windows import MAX_CATEGORIES, OTHER, Window, window_from
from simulations import capital
from tests.support.examples import examples

NUMBERS = st.lists(st.floats(0, 1), max_size=20)
BOUNDARIES = st.floats(0.01, 0.99)
COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50))


def brute_force(values: list[float], boundary: float) -> float:
    """The mixture by its definition, with NumPy, in logs."""
    x, bets = np.array(values), np.array(BETS)[:, None]
    logs = np.log((1 + bets * x) / (1 + bets * boundary)).sum(axis=1)
    return float(np.logaddexp.reduce(logs + np.log(SHARES)))


# What it is


def test_shares_add_up_to_the_capital_that_one_begins_with() -> None:
    assert math.fsum(SHARES) == pytest.approx(1, abs=1e-15)
    assert len(SHARES) == len(BETS)


def test_nothing_is_no_evidence() -> None:
    assert log_e_above(Evidence(), 0.3) == 0.0
    assert log_e_below(Evidence(), 0.3) == 0.0
    assert Evidence().mean is None
    assert bounds(Evidence(), 0.01) == (0.0, 1.0)


@given(NUMBERS.filter(bool), BOUNDARIES)
@settings(max_examples=examples(30))
def test_evidence_is_what_its_definition_says(values: list[float], boundary: float) -> None:
    evidence = evidence_of(values)
    assert log_e_above(evidence, boundary) == pytest.approx(brute_force(values, boundary), abs=1e-9)
    turned = [1 - value for value in values]
    assert log_e_below(evidence, boundary) == pytest.approx(brute_force(turned, 1 - boundary), abs=1e-9)
    assert evidence.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize("direction", ["greater", "less"])
def test_evidence_agrees_with_ville_to_nine_digits(direction: str) -> None:
    import ville  # here, since it imports scipy.stats, for which processes that run other tests would wait two seconds

    # With a tiny alpha ville's bet is always cut at c / m: a fixed bet. So one of its tests for each of ours,
    # combined by its own function, is the same e-process.
    boundary = 0.4
    values = np.random.default_rng(5).beta(2, 2, 200)
    edge = boundary if direction == "greater" else 1 - boundary
    theirs = [
        ville.BettingTest(boundary, alternative=direction, alpha=1e-300, c=bet * edge / (1 + bet * edge)).fit(values)
        for bet in BETS
    ]
    combined = np.log(ville.evalues.combine([test.e_values_ for test in theirs], weights=SHARES, axis=0))
    ours = log_e_above if direction == "greater" else log_e_below
    evidence = Evidence()
    for at, value in enumerate(values):
        evidence = evidence.add(float(value))
        assert ours(evidence, boundary) == pytest.approx(combined[at], abs=1e-9)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_number_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        Evidence().add(value)
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        log_e_above(evidence_of([0.5]), value)
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        Detector(0.5).add(value)


@given(NUMBERS, NUMBERS, NUMBERS, BOUNDARIES)
@settings(max_examples=examples(30))
def test_evidence_adds_up_in_any_order_and_grouping(
    one: list[float], two: list[float], three: list[float], boundary: float
) -> None:
    a, b, c = evidence_of(one), evidence_of(two), evidence_of(three)
    ways = [a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), evidence_of([*three, *one, *two])]
    for way in ways[1:]:
        assert (way.n, way.total) == (ways[0].n, pytest.approx(ways[0].total))
        assert log_e_above(way, boundary) == pytest.approx(log_e_above(ways[0], boundary), abs=1e-9)
        assert log_e_below(way, boundary) == pytest.approx(log_e_below(ways[0], boundary), abs=1e-9)


def test_the_same_number_several_times_is_added_at_once() -> None:
    once, often = Evidence().add(0.3, 7), evidence_of([0.3] * 7)
    assert log_e_above(once, 0.2) == pytest.approx(log_e_above(often, 0.2), abs=1e-12)
    assert (once.n, once.total) == (7, pytest.approx(often.total))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=4), BOUNDARIES)
@settings(max_examples=examples(30))
def test_no_bet_gains_on_average_if_the_claim_is_true(support: list[float], boundary: float) -> None:
    mean = sum(support) / len(support)
    expected = sum(math.exp(log_e_above(evidence_of([value]), boundary)) for value in support) / len(support)
    assert (expected <= 1 + 1e-12) == (mean <= boundary + 1e-12)


@given(NUMBERS.filter(bool), BOUNDARIES)
@settings(max_examples=examples(40))
def test_nothing_speaks_for_both_sides_at_once(values: list[float], boundary: float) -> None:
    evidence = evidence_of(values)
    assert min(log_e_above(evidence, boundary), log_e_below(evidence, boundary)) <= 1e-9


def test_endless_evidence_stays_a_number() -> None:
    evidence = Evidence().add(1.0, 10_000_000)
    assert math.isfinite(log_e_above(evidence, 0.0))
    assert math.isfinite(log_e_below(evidence, 1.0))
    assert log_e_above(evidence, 1.0) <= 1e-6


def test_whole_arrays_of_runs_have_the_same_evidence() -> None:
    values = np.random.default_rng(2).beta(3, 2, (2, 50))
    above, below = capital.log_e_above(values, 0.55), capital.log_e_below(values, 0.55)
    for run in range(2):
        for look in (1, 20, 50):
            evidence = evidence_of(values[run, :look].tolist())
            assert above[run, look - 1] == pytest.approx(log_e_above(evidence, 0.55), abs=1e-9)
            assert below[run, look - 1] == pytest.approx(log_e_below(evidence, 0.55), abs=1e-9)


# Bounds


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_bounds_are_where_an_independent_root_finder_puts_them(alpha: float) -> None:
    import scipy.optimize

    values = np.random.default_rng(4).beta(2, 5, 300).tolist()
    low, high = bounds(evidence_of(values), alpha)
    enough, mean = math.log(2 / alpha), float(np.mean(values))
    turned = [1 - value for value in values]
    assert low == pytest.approx(scipy.optimize.brentq(lambda m: brute_force(values, m) - enough, 1e-9, mean), abs=1e-9)
    root = scipy.optimize.brentq(lambda m: brute_force(turned, 1 - m) - enough, mean, 1 - 1e-9)
    assert high == pytest.approx(root, abs=1e-9)
    assert lower_bound(evidence_of(values), alpha / 2) == low
    assert upper_bound(evidence_of(values), alpha / 2) == high


@given(NUMBERS)
@settings(max_examples=examples(40))
def test_bounds_hold_the_mean_and_what_is_within_them_is_not_refuted(values: list[float]) -> None:
    evidence = evidence_of(values)
    low, high = bounds(evidence, 0.1)
    assert 0 <= low <= high <= 1
    if evidence.mean is not None:
        assert low <= evidence.mean + 1e-9
        assert high >= evidence.mean - 1e-9
    for inside in np.linspace(low, high, 5)[1:-1]:
        assert log_e_above(evidence, float(inside)) < math.log(20) + 1e-9
        assert log_e_below(evidence, float(inside)) < math.log(20) + 1e-9


def test_bounds_shrink_towards_the_truth() -> None:
    widths = []
    for n in (10, 100, 1_000, 10_000, 100_000):
        low, high = bounds(Evidence().add(1.0, n // 2).add(0.0, n // 2), 0.01)
        assert low < 0.5 < high
        widths.append(high - low)
    assert all(later < 0.6 * earlier for earlier, later in pairwise(widths))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_an_alpha_out_of_range_is_refused_by_name(alpha: float) -> None:
    for use in (lambda: bounds(Evidence(), alpha), lambda: bonferroni(alpha, 3), lambda: e_bh([1.0], alpha)):
        with pytest.raises(ValueError, match="alpha"):
            use()


# Two streams


def test_a_search_for_the_least_evidence_that_is_cut_short_claims_less_and_never_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(3)
    first, other = evidence_of(draw.beta(3, 2, 200).tolist()), evidence_of(draw.beta(6, 2, 300).tolist())
    whole = log_e_worse(first, other, 0.0)
    monkeypatch.setattr(two_sample, "_MAX_STEPS", 1)
    assert log_e_worse(first, other, 0.0) < whole


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("sizes", [(200, 30), (20, 400), (1, 1)])
def test_the_least_evidence_is_what_an_independent_minimiser_finds(margin: float, sizes: tuple[int, int]) -> None:
    import scipy.optimize

    draw = np.random.default_rng(9)
    first, other = (evidence_of(draw.beta(a, 2, size).tolist()) for a, size in zip((3, 6), sizes, strict=True))

    def least(function: Callable[[float], float]) -> float:
        found = scipy.optimize.minimize_scalar(function, bounds=(margin, 1), method="bounded", options={"xatol": 1e-12})
        return min(float(found.fun), function(margin), function(1.0))

    worse = least(lambda b: log_e_below(first, max(0.0, b - margin)) + log_e_above(other, b))
    fine = least(lambda b: log_e_above(first, max(0.0, b - margin)) + log_e_below(other, b))
    for found, exact in ((log_e_worse(first, other, margin), worse), (log_e_not_worse(first, other, margin), fine)):
        assert exact - 1e-3 <= found <= exact + 1e-9, "rounded down, and by no more"


def test_without_the_other_stream_nothing_is_known() -> None:
    first = evidence_of([0.1] * 200)
    assert log_e_worse(first, Evidence(), 0.05) <= 1e-9
    assert log_e_not_worse(Evidence(), first, 0.05) <= 1e-9
    with pytest.raises(ValueError, match="margin `1`"):
        log_e_worse(first, first, 1)


def test_a_stream_that_is_far_below_fails_and_one_that_is_above_passes() -> None:
    low, high = evidence_of([0.5, 0.6] * 100), evidence_of([0.8, 0.9] * 100)
    assert log_e_worse(low, high, 0.05) > math.log(1_000) > 0 > log_e_not_worse(low, high, 0.05)
    assert log_e_not_worse(high, low, 0.05) > math.log(1_000) > 0 > log_e_worse(high, low, 0.05)


# Many at once


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.floats(0.001, 0.5))
@settings(max_examples=examples(40))
def test_e_bh_rejects_what_ville_rejects(e_values: list[float], alpha: float) -> None:
    import ville

    theirs = ville.evalues.ebh(e_values, alpha)
    ours = e_bh(e_values, alpha)
    assert all(mine for mine, other in zip(ours, theirs, strict=True) if other)
    least = min((value for value, other in zip(e_values, theirs, strict=True) if other), default=math.inf)
    # Of equal e-values ours rejects all or none; theirs stops at the last rank.
    assert ours == tuple(value >= least for value in e_values)


def test_e_bh_needs_less_of_each_when_several_stand_together() -> None:
    assert e_bh([250.0, 250.0, 1.0, 1.0], 0.01) == (True, True, False, False)
    assert 1 / bonferroni(0.01, 4) > 250  # what each would need alone
    assert e_bh([250.0, 1.0, 1.0, 1.0], 0.01) == (False,) * 4
    assert e_bh([], 0.01) == ()
    with pytest.raises(ValueError, match="e-value `nan`"):
        e_bh([math.nan], 0.01)
    assert bonferroni(0.01, 0) == 0.01


# Alarms


def test_a_detector_sums_the_bets_of_every_beginning() -> None:
    values = np.random.default_rng(3).random(40).tolist()
    detector, limit = Detector(0.7, run_length=1e12), 0.7
    for at, value in enumerate(values, 1):
        assert not detector.add(value)
        expected = sum(math.exp(brute_force(values[begun:at], limit)) for begun in range(at))
        assert detector.value == pytest.approx(expected, rel=1e-9)
    assert detector.n == 40
    assert Detector(limit, 1e12, detector.sums).value == pytest.approx(detector.value)


def test_a_detector_alarms_after_a_change_and_begins_anew() -> None:
    detector = Detector(0.5, run_length=1_000)
    assert not any(detector.add(0.3) for _ in range(2_000))
    first = next(step for step in range(1, 100) if detector.add(0.9))
    assert 3 < first < 30
    assert (detector.n, detector.value) == (0, 0.0)


@pytest.mark.parametrize(("limit", "length"), [(1.5, 10.0), (0.5, 0.5), (0.5, math.nan)])
def test_a_detector_that_makes_no_sense_is_refused(limit: float, length: float) -> None:
    with pytest.raises(ValueError, match=r"limit|run_length"):
        Detector(limit, length)
    assert run_length_of_each(1_000, 0) == 1_000
    assert run_length_of_each(1_000, 4) == 4_000


# Distances and windows


@given(COUNTS, COUNTS)
@settings(max_examples=examples(40))
def test_distances_are_what_scipy_says_and_finite_on_empty_bins(one: dict[str, int], two: dict[str, int]) -> None:
    import scipy.spatial.distance
    import scipy.stats

    index, divergence = psi(one, two), jensen_shannon(one, two)
    assert math.isfinite(index)
    assert index >= 0
    assert 0 <= divergence <= 1
    assert (psi(two, one), jensen_shannon(two, one)) == (pytest.approx(index), pytest.approx(divergence, abs=1e-12))
    if not sum(one.values()) or not sum(two.values()):
        assert (index, divergence) == (0.0, 0.0)
        return
    names = sorted({name for counts in (one, two) for name, count in counts.items() if count})
    p, q = ([float(counts.get(name, 0)) for name in names] for counts in (one, two))
    distance = scipy.spatial.distance.jensenshannon(p, q, base=2)
    assert divergence == pytest.approx(float(np.nan_to_num(distance)) ** 2, abs=1e-7)
    p, q = ([count + 0.5 for count in counts] for counts in (p, q))
    assert index == pytest.approx(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p), abs=1e-9)


def test_the_same_mix_is_no_distance_and_mixes_with_nothing_in_common_the_greatest() -> None:
    assert psi({"a": 3, "b": 6}, {"a": 3, "b": 6}) == 0
    assert jensen_shannon({"a": 3, "b": 6}, {"a": 1, "b": 2}) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon({"a": 3}, {"b": 5}) == pytest.approx(1)


WINDOWS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["kl", "refusal"]), st.floats(0, 1)),
        st.dictionaries(st.sampled_from(["task", "length"]), st.sampled_from("xyz")),
    ),
    max_size=8,
)


Observations = list[tuple[dict[str, float], dict[str, str]]]


def window_of(observations: Observations) -> Window:
    window = Window()
    for numbers, categories in observations:
        window = window.add(numbers, categories)
    return window


@given(WINDOWS, WINDOWS, WINDOWS)
@settings(max_examples=examples(40))
def test_windows_add_up_in_any_grouping_and_survive_being_kept(
    one: Observations, two: Observations, three: Observations
) -> None:
    a, b, c = map(window_of, (one, two, three))
    ways = [a.merge(b).merge(c), a.merge(b.merge(c)), window_of(one + two + three), b.merge(c).merge(a)]
    ways.append(window_from(ways[0].to_json()))
    for way in ways[1:]:
        assert way.categories == ways[0].categories
        assert {name: each.n for name, each in way.numbers.items()} == {
            name: each.n for name, each in ways[0].numbers.items()
        }
        for name, each in way.numbers.items():
            assert log_e_above(each, 0.5) == pytest.approx(log_e_above(ways[0].numbers[name], 0.5), abs=1e-9)


def test_names_that_callers_invent_do_not_fill_a_window() -> None:
    window = Window()
    for at in range(2 * MAX_CATEGORIES):
        window = window.add({}, {"task": f"task-{at}"})
    assert len(window.categories["task"]) == MAX_CATEGORIES + 1
    assert window.categories["task"][OTHER] == MAX_CATEGORIES


def test_a_window_of_other_bets_is_refused() -> None:
    told = Window().add({"kl": 0.2}, {}).to_json()
    told["numbers"]["kl"]["up"] = [1.0]
    with pytest.raises(ValueError, match="`kl` was kept with `1` bets"):
        window_from(told)
