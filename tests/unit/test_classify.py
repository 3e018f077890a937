"""From pairs to a classification: shapes, sessions, noise, weights, versions, and what the reason tells."""

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from evaluators.compare.comparator import Comparator, Direction, Shape
from evaluators.compare.registry import BUILT_IN
from evaluators.judge import sessions
from evaluators.judge.classify import Classification, CriterionEvidence
from evaluators.judge.criteria import METRICS, Criterion, criterion, plugin_metric
from evaluators.judge.outcomes import outcome_against, outcome_of
from evaluators.judge.over_time import LEAST_SESSIONS, BaselineOf, OverTime, categories_of, numbers_of
from evaluators.judge.sessions import MAX_PAIRS, SessionMeans
from evaluators.judge.verdict import Verdict
from evaluators.observation import Drift, Kind, NoDrift, Outcome, Score, ScoredPair, Unscored
from evaluators.statistics.betting import evidence_of, log_e_below
from evaluators.statistics.two_sample import log_e_worse
from evaluators.statistics.windows import window_from
from tests.support.examples import examples

NUMBERS = count()


def pair(
    scores: dict[str, Outcome] | None = None,
    *,
    kind: Kind = Kind.CANDIDATE,
    session: str | None = None,
    at: float = 0.0,
    **more: Any,
) -> ScoredPair:
    """A pair of a session of its own."""
    number = next(NUMBERS)
    return ScoredPair(
        number=number,
        sample=f"{number:032x}",
        alias="support",
        kind=kind,
        control="support@a",
        other="support@b",
        session=f"{number:016x}" if session is None else session,
        at=at,
        scored_at=at,
        scores=scores or {},
        **more,
    )


def arms(control: float, candidate: float, version: str = "1") -> Score:
    return Score(value=(1 + candidate - control) / 2, version=version, control=control, candidate=candidate)


def value(number: float, version: str = "1") -> Score:
    return Score(value=number, version=version)


def drift(kl: float | None, **more: Any) -> Drift:
    plain: dict[str, Any] = {
        "n_tokens": 10,
        "log_ratio": kl or 0.0,
        "kl": kl,
        "kl_bound": kl,
        "moved_share": 0.0,
        "top1_agreement": 1.0,
    }
    return Drift(**(plain | more))


def judged(of: Criterion, pairs: Iterable[ScoredPair]) -> Classification:
    evidence = CriterionEvidence(of)
    for each in pairs:
        evidence.add(each)
    evidence.close(1e9)
    return evidence.classify()


# Criteria


@pytest.mark.parametrize("comparator", BUILT_IN, ids=lambda each: each.name)
def test_every_built_in_comparator_has_a_criterion_of_its_shape(comparator: Comparator) -> None:
    found = criterion(comparator.name)
    assert (found.shape, found.direction) == (comparator.shape, comparator.direction)


@pytest.mark.parametrize("name", METRICS)
def test_a_metrics_goodness_is_a_share_and_turns_back(name: str) -> None:
    for of in (criterion(name), criterion(name, limit=0.4), criterion(name, margin=0.1)):
        for goodness in (0.0, 0.3, 1.0):
            assert of.goodness(of.in_unit(goodness)) == pytest.approx(goodness)
        assert of.boundary is None or 0 < of.boundary < 1
        assert (of.boundary is None) == of.needs_noise


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"margin": 1.0}, "margin `1.0` of `refusal`"),
        ({"margin": -0.1}, "margin `-0.1`"),
        ({"limit": 1.2}, "limit `1.2`"),
        ({"alpha": 0.0}, "alpha `0.0`"),
        ({"judged_share": 0.0}, "judged_share `0.0`"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        criterion("refusal", **more)


def test_an_unknown_metric_is_refused_and_a_registered_one_takes_its_comparators_shape() -> None:
    with pytest.raises(ValueError, match="`score:tone` is no metric"):
        criterion("score:tone")
    found = criterion("score:tone", kind=plugin_metric(Shape.LEVEL, Direction.LOWER_IS_BETTER), limit=0.3)
    assert found.boundary == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"margin `0\.5` of `judge`"):
        criterion("judge", margin=0.5)


def test_a_margin_of_ones_own_takes_the_place_of_the_default_limit() -> None:
    assert criterion("kl").limit == 0.5
    assert criterion("kl", margin=0.1).limit is None
    assert criterion("kl", margin=0.1).needs_noise
    assert criterion("kl", margin=0.1, limit=0.7).boundary == pytest.approx(1 - 0.14)


# Verdicts


def test_a_candidate_that_refuses_oftener_fails_with_observed_limit_and_n() -> None:
    found = judged(criterion("refusal"), [pair({"refusal": arms(0.0, float(at % 4 == 0))}) for at in range(200)])
    assert found.label == "fail"
    assert found.observed == pytest.approx(0.25)
    assert found.limit == pytest.approx(0.05)
    assert (found.n, found.pairs) == (200, 200)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.25 < found.high
    assert found.e_fail >= 100 > found.e_pass
    assert found.reason == f"refusal +0.250 > +0.050 (n=200, e={found.e_fail:.3g})"


def test_the_same_numbers_pass_where_more_is_better() -> None:
    found = judged(criterion("expected"), [pair({"expected": arms(0.0, float(at % 4 == 0))}) for at in range(200)])
    assert found.label == "pass"
    assert found.reason.startswith("expected +0.250 ≥ -0.050 (n=200, e=")


def test_a_pass_waits_for_its_samples_and_a_fail_does_not() -> None:
    good, bad = ([pair({"expected": arms(1 - each, each)}) for _ in range(30)] for each in (1.0, 0.0))
    assert judged(criterion("expected"), good).label is Verdict.INCONCLUSIVE
    assert judged(criterion("expected", min_samples=30), good).label is Verdict.PASS
    assert judged(criterion("expected"), bad).label is Verdict.FAIL


def test_what_passes_takes_less_evidence_than_what_fails_where_alpha_is_shared_out() -> None:
    shared = criterion("expected", alpha=0.001, pass_alpha=0.01)
    for n in range(50, 300):  # no difference at all, until it passes at 1/0.01
        same = [pair({"expected": arms(1.0, 1.0)}) for _ in range(n)]
        found = judged(shared, same)
        if found.label is Verdict.PASS:
            assert 100 <= found.e_pass < 1_000
            break
    else:
        pytest.fail("never passed")
    assert judged(replace(shared, pass_alpha=None), same).label is Verdict.INCONCLUSIVE


def test_nothing_harmless_passes_without_a_margin() -> None:
    same = [pair({"expected": arms(1.0, 1.0)}) for _ in range(1_000)]
    found = judged(criterion("expected", margin=0.0), same)
    assert found.label is Verdict.INCONCLUSIVE
    assert found.reason == "expected +0.000 not told apart from +0.000 (n=1,000, e=1)"
    assert judged(criterion("expected"), same).label is Verdict.PASS


def test_before_the_first_session_nothing_is_measured() -> None:
    evidence = CriterionEvidence(criterion("chrf"))
    assert evidence.classify().reason == "chrf not measured yet (n=0)"
    evidence.add(pair({"edit": value(0.1)}))  # of another metric
    assert evidence.classify() == Classification(
        metric="chrf", label=Verdict.INCONCLUSIVE, reason="chrf not measured yet (n=0)"
    )
    evidence.add(pair({"chrf": value(0.1)}))
    assert evidence.classify().reason == "chrf not measured yet (n=0, 1 pairs of open sessions)"


def test_a_limit_of_a_difference_is_the_candidates_own() -> None:
    pairs = [pair({"refusal": arms(0.5, float(at % 5 == 0))}) for at in range(400)]
    pairs.append(pair({"refusal": value(0.5)}))  # tells no arm's own
    found = judged(criterion("refusal", limit=0.1), pairs)
    assert (found.label, found.limit, found.observed) == ("fail", pytest.approx(0.1), pytest.approx(0.2))
    assert found.unscored == {"no_candidate": 1}
    assert judged(criterion("refusal", limit=0.4), pairs).label == "pass"


def test_the_evidence_is_that_of_the_sessions_means() -> None:
    draw = random.Random(1)
    values = [draw.random() for _ in range(60)]
    found = judged(criterion("chrf", limit=0.7), [pair({"chrf": value(each)}) for each in values])
    assert found.e_fail == pytest.approx(2.718281828459045 ** log_e_below(evidence_of(values), 0.7))
    noisy = [pair({"chrf": value(min(1.0, each + 0.3))}, kind=Kind.NOISE) for each in values]
    found = judged(criterion("chrf"), [*noisy, *(pair({"chrf": value(each)}) for each in values)])
    expected = log_e_worse(evidence_of(values), evidence_of([min(1.0, each + 0.3) for each in values]), 0.1)
    assert found.e_fail == pytest.approx(2.718281828459045**expected)
    assert (found.noise_n, found.n) == (60, 60)


def test_similarity_is_held_against_noise_and_needs_some() -> None:
    low = [pair({"chrf": value(0.4)}) for _ in range(100)]
    alone = judged(criterion("chrf"), low)
    assert alone.label is Verdict.INCONCLUSIVE
    assert alone.reason.startswith("chrf 0.400: no noise pairs to hold it against (n=100, noise n=0, e=")
    alike = [pair({"chrf": value(0.42)}, kind=Kind.NOISE) for _ in range(100)]
    unlike = [pair({"chrf": value(0.9)}, kind=Kind.NOISE) for _ in range(100)]
    assert judged(criterion("chrf"), low + alike).label is Verdict.PASS
    failed = judged(criterion("chrf"), low + unlike)
    assert (failed.label, failed.noise, failed.limit) == ("fail", pytest.approx(0.9), pytest.approx(0.8))
    assert failed.reason.startswith("chrf 0.400 < 0.800 (n=100, noise n=100, e=")


def test_noise_pairs_have_no_part_in_what_compares_the_arms() -> None:
    noise = [pair({"expected": arms(0.0, 1.0)}, kind=Kind.NOISE) for _ in range(300)]
    found = judged(criterion("expected"), noise)
    assert (found.n, found.noise_n, found.noise, found.label) == (0, 300, pytest.approx(1.0), "inconclusive")


# Drift


def test_drift_is_in_nats_and_takes_the_mean_of_the_directions_that_were_scored() -> None:
    found = judged(criterion("kl"), [pair(drift=drift(0.9), drift_back=drift(0.5)) for _ in range(100)])
    assert (found.observed, found.limit, found.label) == (pytest.approx(0.7), pytest.approx(0.5), "fail")
    assert found.reason.startswith("kl at least 0.700 > 0.500 nats (estimate 0.700, n=100, e=")
    one_sided = [pair(drift=NoDrift(reason="no_logprobs", version="1"), drift_back=drift(0.3)) for _ in range(100)]
    assert judged(criterion("kl"), one_sided).observed == pytest.approx(0.3)


def estimated(kl: float | None, bound: float, n: int = 300, **more: Any) -> list[ScoredPair]:
    """Pairs whose estimate and bound are told apart."""
    return [pair(drift=drift(kl, kl_bound=bound), **more) for _ in range(n)]


def test_a_divergence_fails_by_what_it_is_at_least_and_passes_by_its_estimate() -> None:
    # The truth is above the limit, but the bound is not: neither what passed it before, nor a failure.
    between = judged(criterion("kl"), estimated(0.7, 0.4))
    assert (between.label, between.observed, between.bound) == ("inconclusive", pytest.approx(0.7), pytest.approx(0.4))
    assert between.e_pass < 1 > between.e_fail
    assert between.reason.startswith("kl 0.700 not told apart from 0.500 nats (at least 0.400, n=300, e=")
    above = judged(criterion("kl"), estimated(0.8, 0.7))
    assert (above.label, above.n) == ("fail", 300)
    assert above.reason.startswith("kl at least 0.700 > 0.500 nats (estimate 0.800, n=300, e=")
    below = judged(criterion("kl"), estimated(0.25, 0.2))
    assert (below.label, below.low is not None and below.low < 0.25 < (below.high or 0)) == ("pass", True)
    assert below.reason.startswith("kl 0.250 ≤ 0.500 nats (at least 0.200, n=300, e=")


def test_pairs_of_before_there_were_estimates_may_fail_a_divergence_and_pass_nothing() -> None:
    near = judged(criterion("kl"), estimated(None, 0.01, 2_000))
    assert (near.label, near.observed, near.bound, near.n) == ("inconclusive", None, pytest.approx(0.01), 2_000)
    assert (near.e_pass, near.low, near.high) == (1.0, None, None)
    assert near.reason.startswith("kl at least 0.010 not told apart from 0.500 nats (n=2,000, e=")
    assert "2,000 pairs unscored: no_estimate 2,000" in near.reason
    far = judged(criterion("kl"), estimated(None, 0.9))
    assert (far.label, far.n) == ("fail", 300)
    assert far.reason.startswith("kl at least 0.900 > 0.500 nats (n=300, e=")
    # Beside new ones they speak against the candidate, and not for it.
    mixed = estimated(None, 0.01, 400) + estimated(0.1, 0.01, 20)
    assert judged(criterion("kl"), mixed).label is Verdict.INCONCLUSIVE
    assert judged(criterion("kl"), mixed + estimated(0.1, 0.01, 100)).label is Verdict.PASS
    with_bad = estimated(None, 1.0, 100) + estimated(0.1, 0.05, 3)
    assert judged(criterion("kl"), with_bad).label is Verdict.FAIL


def test_a_negative_estimate_is_cut_only_when_it_is_the_mean_of_a_session() -> None:
    turns = [pair(drift=drift(kl, kl_bound=0.0), session=f"s{at}") for at in range(100) for kl in (-0.3, 0.5)]
    found = judged(criterion("kl"), turns)
    assert (found.n, found.observed) == (100, pytest.approx(0.1))
    assert judged(criterion("kl"), estimated(-0.3, 0.0)).observed == 0.0


def test_against_noise_what_is_at_least_is_held_against_noises_estimate() -> None:
    of = criterion("kl", margin=0.5)
    noise = estimated(0.02, 0.0, kind=Kind.NOISE)
    assert judged(of, estimated(1.2, 1.0) + noise).label is Verdict.FAIL
    assert judged(of, estimated(1.2, 0.4) + noise).label is Verdict.INCONCLUSIVE
    assert judged(of, estimated(0.03, 0.02) + noise).label is Verdict.PASS
    # By bounds alone it would be 1.0 beyond noise; by the noise's estimate it is within the margin.
    loud = estimated(0.8, 0.0, kind=Kind.NOISE)
    found = judged(of, estimated(1.1, 1.0) + loud)
    assert (found.label, found.noise, found.limit) == ("pass", pytest.approx(0.8), pytest.approx(1.3))
    assert found.e_fail < 1
    # Noise of before there were estimates says too little to be held against.
    old = estimated(None, 0.0, kind=Kind.NOISE)
    assert judged(of, estimated(1.2, 1.0) + old).label is Verdict.INCONCLUSIVE


def test_what_was_said_is_said_anew_when_a_session_has_ended() -> None:
    evidence = CriterionEvidence(criterion("kl"), idle_seconds=60)
    evidence.add(pair(drift=drift(0.1), at=0.0))
    before = evidence.classify()
    assert before.n == 0
    evidence.close(30.0)
    assert evidence.classify() is before, "nothing has changed"
    evidence.close(61.0)
    assert evidence.classify().n == 1


def test_noise_without_a_number_is_not_among_the_candidates_unscored_pairs() -> None:
    evidence = CriterionEvidence(criterion("kl"))
    for kind in (Kind.NOISE, Kind.CANDIDATE):
        evidence.add(pair(drift=NoDrift(reason="late", version="1"), kind=kind))
    assert evidence.classify().unscored == {"late": 1}


def test_what_speaks_against_a_candidate_is_the_bound() -> None:
    (one,) = estimated(0.5, 0.25, 1)
    assert outcome_against(one, "kl") == value(0.05, "")
    assert outcome_of(one, "kl") == value(0.1, "")
    (old,) = estimated(None, 0.25, 1)
    assert outcome_against(old, "kl") == value(0.05, "")
    assert outcome_of(old, "kl") == Unscored(reason="no_estimate", version="")
    assert outcome_against(pair(), "kl") is None
    assert outcome_against(pair({"chrf": value(0.5)}), "chrf") == value(0.5)
    assert outcome_against(pair({"kl": value(0.5)}, drift=drift(0.1)), "kl") == value(0.5)
    empty = pair(drift=drift(0.0, n_tokens=0))
    assert outcome_of(empty, "kl") == Unscored(reason="no_tokens", version="")


def test_drift_is_cut_at_its_cap_and_its_shares_are_metrics_too() -> None:
    wild = pair(drift=drift(50.0, moved_share=0.9, top1_agreement=0.25))
    assert outcome_of(wild, "kl") == value(1.0, "")
    assert outcome_of(wild, "token_flip") == value(0.75, "")
    assert outcome_of(wild, "moved_share") == value(0.9, "")
    assert outcome_of(wild, "chrf") is None
    assert outcome_of(pair({"kl": value(0.5)}, drift=drift(0.1)), "kl") == value(0.5)


@pytest.mark.parametrize("metric", ["ttft", "itl"])
def test_times_count_only_where_the_caller_was_served_by_control_as_in_noise_pairs(metric: str) -> None:
    # The same version twice; asked again, it takes twice as long.
    noise = [pair({metric: value(1 / 3)}, kind=Kind.NOISE) for _ in range(200)]
    control_served = [pair({metric: value(1 / 3)}, served="control") for _ in range(400)]
    candidate_served = [pair({metric: value(2 / 3)}, served="candidate") for _ in range(400)]
    found = judged(criterion(metric), noise + control_served + candidate_served)
    assert (found.label, found.observed, found.n) == ("pass", pytest.approx(1 / 3), 400)
    assert found.unscored == {"candidate_served": 400}
    slow = [pair({metric: value(0.2)}, served="control") for _ in range(400)]  # the candidate takes twice as long again
    assert judged(criterion(metric), noise + slow + candidate_served).label == "fail"
    assert judged(criterion("tokens"), [pair({"tokens": value(0.5)}, served="candidate")]).n == 1


def test_drift_that_was_not_scored_is_no_zero() -> None:
    reason = NoDrift(reason="lm_head", version="1")
    empty = structs.replace(drift(0.0), n_tokens=0)
    found = judged(criterion("kl"), [pair(), pair(drift=reason), pair(drift=empty)])
    assert (found.n, found.observed, found.unscored) == (0, None, {"lm_head": 1, "no_tokens": 1})
    assert "2 pairs unscored: lm_head 1, no_tokens 1" in found.reason


# Unscored, versions, weights


def test_many_unscored_pairs_are_told_and_a_few_are_counted() -> None:
    scored = [pair({"json_valid": arms(1.0, 1.0)}) for _ in range(100)]
    missing = [pair({"json_valid": Unscored(reason="no_json_asked", version="1")}) for _ in range(40)]
    few = judged(criterion("json_valid"), scored + missing[:5])
    assert few.unscored == {"no_json_asked": 5}
    assert "unscored" not in few.reason
    assert "40 pairs unscored: no_json_asked 40" in judged(criterion("json_valid"), scored + missing).reason


def test_scores_of_two_versions_are_not_added_up() -> None:
    old = [pair({"chrf": value(0.1, "1")}) for _ in range(50)]
    new = [pair({"chrf": value(0.9, "2")}) for _ in range(20)]
    late = [pair({"chrf": value(0.1, "1")}) for _ in range(5)]  # of an evaluator that was not updated yet
    nothing = pair({"chrf": Unscored(reason="empty", version="3")})  # begins nothing
    found = judged(criterion("chrf", limit=0.5), [*old, *new, *late, nothing])
    assert (found.n, found.observed) == (20, pytest.approx(0.9))
    assert "begun anew with version 2" in found.reason


def test_weights_undo_the_choice_of_pairs() -> None:
    # Moved pairs are judged always and lose; others with a chance of a quarter, and win as much more.
    moved = [pair({"judge": value(float(at % 10 < 4))}, weight=1.0) for at in range(400)]
    still = [pair({"judge": value(float(at % 10 < 6))}, weight=4.0) for at in range(100)]
    shuffled = random.Random(2).sample(moved + still, 500)
    found = judged(criterion("judge"), shuffled)
    assert found.observed == pytest.approx(0.5, abs=0.001)
    assert found.limit == pytest.approx(0.45)
    assert judged(
        criterion("judge"), [structs.replace(each, weight=1.0) for each in shuffled]
    ).observed == pytest.approx(0.44)


def test_a_weight_beyond_what_the_share_allows_is_cut_and_told() -> None:
    pairs = [pair({"judge": value(0.5)}, weight=10.0) for _ in range(20)]
    assert "20 weights cut" in judged(criterion("judge"), pairs).reason
    assert "cut" not in judged(criterion("judge", judged_share=0.2), pairs).reason


def test_a_judge_that_prefers_control_fails_the_candidate_and_noise_is_told_in_its_unit() -> None:
    lost = [pair({"judge": value(0.0)}) for _ in range(60)]
    noise = [pair({"judge": value(float(at % 2))}, kind=Kind.NOISE) for at in range(40)]
    found = judged(criterion("judge"), lost + noise)
    assert (found.label, found.observed, found.noise) == ("fail", pytest.approx(0), pytest.approx(0.5))
    assert found.reason.startswith("judge 0.000 < 0.450 (n=60, e=")


# Sessions


def test_a_session_counts_once_by_the_mean_of_its_pairs() -> None:
    evidence = CriterionEvidence(criterion("chrf", limit=0.5), idle_seconds=60)
    for at, number in enumerate((0.2, 0.4, 0.9)):
        evidence.add(pair({"chrf": value(number)}, session="s", at=at))
    evidence.close(61)
    assert evidence.classify().n == 0
    evidence.close(62)
    assert (evidence.classify().n, evidence.classify().observed) == (1, pytest.approx(0.5))
    evidence.add(pair({"chrf": value(0.0)}, session="s", at=500))
    found = evidence.classify()
    assert (found.n, found.pairs, found.left_out) == (1, 4, 1)
    assert "1 pairs of sessions that had counted" in found.reason


def test_a_long_session_is_closed_by_its_tenth_pair() -> None:
    evidence = CriterionEvidence(criterion("chrf", limit=0.5))
    for at in range(MAX_PAIRS + 3):
        evidence.add(pair({"chrf": value(0.5)}, session="s", at=at))
    assert (evidence.classify().n, evidence.classify().left_out) == (1, 3)


def test_pairs_without_a_session_stand_for_themselves() -> None:
    assert judged(criterion("chrf", limit=0.5), [pair({"chrf": value(0.5)}, session="") for _ in range(3)]).n == 3


def test_pairs_of_a_sessions_other_stream_are_no_latecomers() -> None:
    kinds = [Kind.CANDIDATE, Kind.NOISE, Kind.CANDIDATE, Kind.NOISE]
    turns = [pair({"chrf": value(0.5)}, session=f"s{at // 4}", kind=kind, at=at) for at, kind in enumerate(kinds * 5)]
    found = judged(criterion("chrf"), turns)
    assert found.left_out == 10
    assert "had counted" not in found.reason


def test_a_session_is_of_one_stream_where_both_are_compared() -> None:
    mixed = [pair({"chrf": value(0.5)}, session="s", kind=kind) for kind in (Kind.NOISE, Kind.CANDIDATE, Kind.NOISE)]
    found = judged(criterion("chrf"), mixed)
    assert (found.n, found.noise_n, found.left_out) == (0, 1, 1)
    gathered = SessionMeans(idle_seconds=60, most_pairs=2)
    for at, stream in enumerate(("noise", "trial", "noise", "trial", "noise")):
        gathered.add("s", 0.5, at, stream=stream)
    assert (gathered.left_out, gathered.of_other_stream) == (3, 2), "one came after it had counted"
    found = judged(criterion("chrf", limit=0.4), mixed)  # here they do not meet
    assert (found.n, found.noise_n, found.left_out) == (1, 1, 0)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1), st.floats(0, 90)), max_size=25),
    st.sets(st.integers(0, 24)),
)
@settings(max_examples=examples(40))
def test_who_looks_when_changes_nothing(pairs: list[tuple[int, float, float]], looks: set[int]) -> None:
    def told(look_after: set[int]) -> list[tuple[float, int]]:
        gathered, clock, found = SessionMeans(idle_seconds=60, most_pairs=3), 0.0, []
        for at, (session, number, pause) in enumerate(pairs):
            clock += pause
            found += gathered.add(session, number, clock)
            if at in look_after:
                found += gathered.close(clock)
        found += gathered.close(clock + 61)
        assert gathered.waiting == 0
        assert sum(each.pairs for each in found) + gathered.left_out == len(pairs)
        return [(each.mean, each.pairs) for each in found]

    assert told(looks) == told(set())


def test_sessions_count_in_the_order_in_which_they_began() -> None:
    gathered = SessionMeans(idle_seconds=60, most_pairs=2)
    assert gathered.add("long", 0.1, 0) == []
    assert gathered.add("short", 0.2, 1) == []
    assert gathered.add("short", 0.2, 2) == [], "it is closed, and waits for the one that began before it"
    assert gathered.waiting == 3
    assert [each.mean for each in gathered.add("long", 0.1, 50)] == [0.1, 0.2]
    # No session makes others wait for ever, however it goes on; what comes for it later is left out.
    slow = SessionMeans(idle_seconds=60, most_pairs=1000)
    slow.add("endless", 0.1, 0)
    slow.add("short", 0.2, 1)
    told = [each.mean for at in range(30, 900, 30) for each in (*slow.close(at), *slow.add("endless", 0.3, at))]
    assert [round(each, 3) for each in told] == [0.29, 0.2]
    assert (slow.waiting, slow.left_out) == (0, 10)


def test_open_and_closed_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_WAITING", 2)
    monkeypatch.setattr(sessions, "MAX_CLOSED", 2)
    gathered = SessionMeans()
    assert [len(gathered.add(at, 0.5, at)) for at in range(5)] == [0, 0, 1, 1, 1]
    assert gathered.waiting == 2
    with pytest.raises(ValueError, match="idle_seconds `-1`"):
        SessionMeans(idle_seconds=-1)


# Over time


def traffic(
    n: int, *, refusals: float = 0.03, tokens: int = 200, code: float = 0.5, kl: float = 0.1
) -> list[ScoredPair]:
    """Pairs of a version against the base."""
    draw = random.Random(4)
    return [
        pair(
            {"refusal": arms(0.0, float(draw.random() < refusals))},
            kind=Kind.BASE,
            task="code" if draw.random() < code else "",
            prompt_tokens=int(draw.lognormvariate(5, 1)),
            other_tokens=int(draw.lognormvariate(0, 0.8) * tokens),
            drift=drift(kl * draw.expovariate(1)),
        )
        for _ in range(n)
    ]


def watched(pairs: list[ScoredPair], **more: float) -> set[str]:
    base = BaselineOf("support@b")
    for each in traffic(400):
        base.add(each)
    watch = OverTime("support@b", window_from(base.close(1e9).to_json()), run_length=10_000, **more)
    alarms = [alarm for each in pairs for alarm in watch.add(each)] + watch.close(1e9)
    assert set(watch.distances()) == {"task", "prompt_length"}
    assert all(alarm.reason.startswith(f"{alarm.what} ") for alarm in alarms)
    return {f"{alarm.what} {alarm.direction}" for alarm in alarms}


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        ({}, set()),
        ({"refusals": 0.3}, {"refusal up"}),
        ({"tokens": 600}, {"output_length up"}),
        ({"tokens": 60}, {"output_length down"}),
        ({"code": 0.9}, {"task:code up"}),
        ({"code": 0.1}, {"task:none up"}),
        ({"kl": 0.6}, {"kl up"}),
    ],
)
def test_what_has_changed_since_the_baseline_alarms_and_nothing_else(change: dict[str, Any], alarm: set[str]) -> None:
    assert watched(traffic(500, **change)) == alarm


def test_a_task_that_the_baseline_never_saw_is_another_one() -> None:
    assert watched([structs.replace(each, task="poems") for each in traffic(300)]) == {"task:other up"}


def test_a_small_baseline_is_not_watched_against() -> None:
    base = BaselineOf("support@b")
    for each in traffic(LEAST_SESSIONS - 1):
        base.add(each)
    watch = OverTime("support@b", base.close(1e9), run_length=1)
    assert [alarm for each in traffic(50, refusals=1.0) for alarm in watch.add(each)] == []


def test_the_largest_sums_are_told_by_number_and_kind_of_category() -> None:
    base = BaselineOf("support@b")
    for each in traffic(300):
        base.add(each)
    watch = OverTime("support@b", base.close(1e9), run_length=1_000)
    for each in traffic(2, refusals=1.0):
        watch.add(each)
    watch.close(1e9)
    told = watch.evidence()
    assert set(told) == {"output_length", "refusal", "kl", "task", "prompt_length"}
    assert told["refusal"][0] > told["output_length"][0]
    assert {length for _, length in told.values()} == {1_000.0 * len(watch._watches)}


def test_windows_begin_anew_and_watches_go_on() -> None:
    watch = OverTime("support@b", BaselineOf("support@b").close(0.0))
    for each in traffic(5):
        watch.add(each)
    watch.close(1e9)
    assert watch.begin_window().numbers["refusal"].n == 5
    assert watch.current.numbers == {}


def test_a_pair_tells_a_versions_own_numbers_only() -> None:
    told = traffic(1)[0]
    assert set(numbers_of(told, "support@b")) == {"output_length", "refusal", "kl"}
    assert numbers_of(structs.replace(told, control_tokens=0), "support@a") == {
        "output_length": 0.0,
        "refusal": 0.0,
    }
    assert numbers_of(told, "support@c") == {}
    assert numbers_of(structs.replace(told, scores={}, drift=None), "support@b").keys() == {"output_length"}
    assert "kl" not in numbers_of(structs.replace(told, kind=Kind.CANDIDATE), "support@b")
    assert categories_of(structs.replace(told, task="", prompt_tokens=None)) == {"task": "none"}
    sizes = [
        categories_of(structs.replace(told, prompt_tokens=each))["prompt_length"]
        for each in (0, 1, 2, 31, 32, 127, 128)
    ]
    assert sizes == ["<2", "<2", "<8", "<32", "<128", "<128", "<512"]


def test_what_is_all_of_one_kind_already_is_not_watched_for_more_of_it_and_another_kind_is_seen() -> None:
    base = BaselineOf("support@b")
    for each in traffic(400, code=1.0):
        base.add(each)
    watch = OverTime("support@b", base.close(1e9), run_length=10_000)
    alarms = [alarm for each in traffic(300, code=1.0) for alarm in watch.add(each)]
    assert alarms == []
    alarms = [alarm for each in traffic(300, code=0.2) for alarm in watch.add(each)]
    assert {f"{alarm.what} {alarm.direction}" for alarm in alarms} == {"task:other up"}


def test_a_session_tells_its_kind_once_however_many_pairs_it_has() -> None:
    base = BaselineOf("support@b")
    for at in range(5):
        base.add(structs.replace(traffic(1)[0], session="s", at=float(at)))
    assert sum(base.close(1e9).categories["task"].values()) == 1


def test_evidence_knows_until_when_all_sessions_have_counted() -> None:
    evidence = CriterionEvidence(criterion("chrf"), idle_seconds=60)
    assert evidence.has_counted(0.0), "as there are none"
    evidence.add(pair({"chrf": value(0.5)}, session="s", at=10.0))
    assert evidence.has_counted(9.0)
    assert not evidence.has_counted(10.0)
    evidence.close(71.0)
    assert evidence.has_counted(10.0)
