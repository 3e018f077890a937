"""What fingerprints prove: distances, limits made of noise, and the verdicts with their figures."""

import math
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.fingerprint import (
    ACROSS_FLOOR,
    BASE,
    CEILING,
    NOISE_FACTOR,
    NULL_FACTOR,
    NULL_FLOOR,
    PROBES,
    PROBES_VERSION,
    SAME_FLOOR,
    TOP,
    Answers,
    Fingerprint,
    FingerprintFinding,
    FingerprintVerdict,
    ProbeReading,
    Records,
    Tolerance,
    Where,
    distance,
    judge,
    judge_base,
)

TOLERANCE = Tolerance()


def probed(seed: int, engine: str = "vllm-1") -> Fingerprint:
    """What a model of its own answers to the probes."""
    source = random.Random(seed)
    tops = [
        tuple((token, -source.uniform(0.5, 6)) for token in source.sample(range(49_000), TOP))
        for _ in range(len(PROBES))
    ]
    return Fingerprint.of(Answers(engine=engine, tops=tuple(tops)))


def shifted(fingerprint: Fingerprint, nats: float, **changes: Any) -> Fingerprint:
    """The same answers, `nats` away in one token."""
    (token, each), *rest = fingerprint.tokens[-1]
    top = ((token, each + nats), *rest)
    return replace(fingerprint, tokens=(*fingerprint.tokens[:-1], top), **changes)


def of(*tops: dict[int, float]) -> Fingerprint:
    return Fingerprint.of(Answers(engine="", tops=tuple(tuple(top.items()) for top in tops)))


BASE_PRINT = probed(0)
LEGAL = probed(1)
SUPPORT = probed(2)


def found(
    now: Fingerprint, *, mixed: Fingerprint | None = None, may_be_null: bool = False, **by: Fingerprint
) -> FingerprintFinding:
    """Judge a version on engine `a`; `by` are the records, the oldest first."""
    records = Records(own="a", by_engine=by)
    reading = ProbeReading(alone=now, mixed=mixed)
    return judge("legal@1", reading, ProbeReading(alone=BASE_PRINT), records, TOLERANCE, may_be_null=may_be_null)


# Distance


def test_the_distance_is_the_largest_difference_of_a_shared_token() -> None:
    assert distance(of({1: -1.0, 2: -2.0}, {3: -1.0}), of({1: -1.5, 2: -2.0}, {3: -1.1})) == pytest.approx(0.5)


def test_a_token_that_one_list_lacks_counts_with_the_least_that_list_shows() -> None:
    assert distance(of({1: -1.0, 2: -2.0}), of({3: -1.0, 2: -2.0})) == pytest.approx(1.0)


def test_swapping_the_last_two_places_of_a_list_is_a_small_distance() -> None:
    assert distance(of({1: -1.0, 2: -5.0}), of({1: -1.0, 3: -5.01})) == pytest.approx(0.01)


def test_probes_beyond_the_shorter_fingerprint_are_left_out() -> None:
    assert distance(LEGAL, replace(LEGAL, tokens=LEGAL.tokens[:2])) == 0


@pytest.mark.parametrize(
    "other",
    [
        of({1: math.nan}),
        of({1: -math.inf}),
        of({}),
        of(),
        replace(of({1: -1.0}), probes_version=PROBES_VERSION + 1),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far(other: Fingerprint) -> None:
    assert distance(of({1: -1.0}), other) == distance(other, of({1: -1.0})) == math.inf


tops = st.dictionaries(st.integers(0, 30), st.floats(-30, 0), min_size=1, max_size=8)
fingerprints = st.lists(tops, min_size=2, max_size=2).map(lambda tops: of(*tops))


@given(fingerprints, fingerprints)
def test_distance_is_symmetric_and_zero_only_where_shown_values_agree(a: Fingerprint, b: Fingerprint) -> None:
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) >= 0
    shared = [(dict(x), dict(y)) for x, y in zip(a.tokens, b.tokens, strict=True)]
    assert distance(a, b) >= max((abs(x[t] - y[t]) for x, y in shared for t in x.keys() & y.keys()), default=0)


def test_a_fingerprint_is_small_and_survives_json() -> None:
    packed = msgspec.json.encode(LEGAL)
    assert len(packed) < 4_000
    assert msgspec.json.decode(packed, type=Fingerprint) == LEGAL


def test_the_order_in_which_an_engine_lists_tokens_does_not_matter() -> None:
    assert of({1: -1.0, 2: -2.0}) == of({2: -2.0, 1: -1.0})


# Limits


def test_limits_have_a_floor_where_an_engine_shows_no_noise() -> None:
    tolerance = Tolerance.of([0.0, 0.0])
    assert (tolerance.same, tolerance.across, tolerance.null) == (SAME_FLOOR, ACROSS_FLOOR, NULL_FLOOR)
    assert (tolerance.noise, tolerance.readings) == (0.0, 2)


def test_limits_grow_with_the_noise_that_was_measured() -> None:
    tolerance = Tolerance.of([0.0, 0.05, 0.02])
    assert tolerance.same == pytest.approx(NOISE_FACTOR * 0.05)
    assert tolerance.null == pytest.approx(NULL_FACTOR * 0.05)


@pytest.mark.parametrize("noise", [3.0, math.inf])
def test_an_engine_that_contradicts_itself_does_not_get_limits_to_match(noise: float) -> None:
    tolerance = Tolerance.of([0.0, noise])
    assert tolerance.same == tolerance.null == CEILING


def test_other_configurations_of_an_engine_may_differ_more() -> None:
    other = replace(LEGAL, engine="vllm-2")
    assert TOLERANCE.between(LEGAL, LEGAL) == TOLERANCE.same < TOLERANCE.between(LEGAL, other) == TOLERANCE.across


# Verdicts


def test_a_version_that_answers_as_it_was_recorded_is_ok() -> None:
    finding = found(shifted(LEGAL, 0.004), a=LEGAL, b=LEGAL, mixed=LEGAL)
    assert finding.is_ok
    assert finding.distance == pytest.approx(0.004)


def test_a_first_reading_is_ok_and_says_how_far_it_is_from_the_base() -> None:
    finding = found(LEGAL)
    assert finding.is_ok
    assert finding.distance == distance(LEGAL, BASE_PRINT)
    assert "no record yet" in finding.reason


def test_a_version_that_answers_as_the_base_is_a_no_op() -> None:
    finding = found(shifted(BASE_PRINT, 0.0005))
    assert (finding.verdict, finding.where) == (FingerprintVerdict.NO_OP, Where.ALONE)
    assert "differ by 0.0005 nats <= limit 0.001 (4 probes, alone) from the base's" in finding.reason


def test_a_weak_adapter_is_not_a_no_op() -> None:
    assert found(shifted(BASE_PRINT, 0.003)).is_ok


def test_a_version_that_became_the_base_is_a_no_op_and_says_what_it_was() -> None:
    finding = found(BASE_PRINT, a=shifted(BASE_PRINT, 2.0))
    assert finding.verdict is FingerprintVerdict.NO_OP
    assert "when recorded it differed by 2" in finding.reason


def test_a_version_scaled_by_zero_may_equal_the_base() -> None:
    assert found(BASE_PRINT, may_be_null=True).is_ok


def test_a_version_scaled_by_zero_that_does_not_equal_the_base_is_a_mismatch() -> None:
    finding = found(LEGAL, may_be_null=True)
    assert finding.verdict is FingerprintVerdict.MISMATCH
    assert "scaled by 0" in finding.reason


def test_a_version_that_left_its_own_record_is_a_mismatch_with_figures() -> None:
    finding = found(shifted(LEGAL, 0.5), a=LEGAL, b=shifted(LEGAL, 0.5))
    assert (finding.verdict, finding.where) == (FingerprintVerdict.MISMATCH, Where.ALONE)
    assert (finding.distance, finding.limit) == (pytest.approx(0.5), TOLERANCE.same)
    assert "top log-probabilities differ by 0.5 nats > limit 0.01 (4 probes, alone)" in finding.reason


def test_after_an_upgrade_of_the_engine_the_record_still_tells_other_weights() -> None:
    upgraded = shifted(LEGAL, 0.1, engine="vllm-2")
    assert found(upgraded, a=LEGAL).is_ok
    assert found(replace(SUPPORT, engine="vllm-2"), a=LEGAL).verdict is FingerprintVerdict.MISMATCH


def test_records_of_other_probes_are_not_compared() -> None:
    assert found(LEGAL, a=replace(SUPPORT, probes_version=0), b=replace(SUPPORT, probes_version=0)).is_ok


def test_a_newcomer_that_differs_from_the_other_engine_is_a_split_brain() -> None:
    finding = found(SUPPORT, b=LEGAL)
    assert finding.verdict is FingerprintVerdict.SPLIT_BRAIN
    assert "from the record of b" in finding.reason
    assert finding.distance > finding.limit == TOLERANCE.same


def test_of_two_engines_that_were_both_recorded_the_younger_one_goes_out_of_service() -> None:
    assert found(LEGAL, a=LEGAL, b=SUPPORT).is_ok
    assert found(LEGAL, b=SUPPORT, a=LEGAL).verdict is FingerprintVerdict.SPLIT_BRAIN


def test_the_odd_one_out_is_outvoted_even_if_it_is_the_oldest() -> None:
    finding = found(LEGAL, a=LEGAL, b=SUPPORT, c=SUPPORT)
    assert finding.verdict is FingerprintVerdict.SPLIT_BRAIN
    assert "and of 1 more" in finding.reason


def test_an_engine_in_the_majority_is_not_blamed_for_the_odd_one() -> None:
    assert found(SUPPORT, b=LEGAL, c=SUPPORT).is_ok


def test_a_version_that_answers_otherwise_beside_others_is_a_mismatch() -> None:
    finding = found(LEGAL, a=LEGAL, mixed=replace(SUPPORT, tokens=SUPPORT.tokens[:2]))
    assert (finding.verdict, finding.where) == (FingerprintVerdict.MISMATCH, Where.MIXED)
    assert "(2 probes, mixed) from those alone" in finding.reason


def test_a_base_that_answers_otherwise_beside_adapters_is_told_with_its_cure() -> None:
    finding = judge_base(ProbeReading(alone=BASE_PRINT, mixed=LEGAL), Records(), TOLERANCE)
    assert (finding.verdict, finding.where, finding.subject) == (FingerprintVerdict.MISMATCH, Where.MIXED, BASE)
    assert "LORAGATE_CPU_LORA_CURE" in finding.reason


def test_a_base_is_ok_alone_and_beside_others_and_when_recorded() -> None:
    assert judge_base(ProbeReading(alone=BASE_PRINT), Records(), TOLERANCE).is_ok
    records = Records(own="a", by_engine={"a": BASE_PRINT})
    assert judge_base(ProbeReading(alone=BASE_PRINT, mixed=BASE_PRINT), records, TOLERANCE).is_ok


def test_another_base_under_the_same_engine_is_a_mismatch() -> None:
    records = Records(own="a", by_engine={"a": LEGAL})
    assert judge_base(ProbeReading(alone=BASE_PRINT), records, TOLERANCE).verdict is FingerprintVerdict.MISMATCH


def test_a_model_that_answers_with_nan_is_a_mismatch_even_without_a_record() -> None:
    finding = found(shifted(LEGAL, math.nan))
    assert (finding.verdict, finding.distance) == (FingerprintVerdict.MISMATCH, math.inf)
    assert "no finite numbers" in finding.reason
