"""Drift from an engine's prompt_logprobs: a lower bound of the divergence, never negative, never NaN."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.drift.token_kl import HISTOGRAM_BOUNDS, KL_CAP_NATS, coarse_kl, drift_of, level, without_words
from evaluators.observation import Drift, Unscored


def position(logprobs: Mapping[int, float | None]) -> dict[str, dict[str, Any]]:
    """One position as vLLM returns it."""
    ranked = sorted(logprobs, key=lambda token: -(logprobs[token] or 0.0))
    return {
        str(token): {"logprob": logprobs[token], "rank": ranked.index(token) + 1, "decoded_token": f"<{token}>"}
        for token in logprobs
    }


def told(*rows: Mapping[int, float | None]) -> list[Any]:
    """The prompt_logprobs of a prompt of one token and a reply of `rows`."""
    return [None, *(position(row) for row in rows)]


def measured(ids: Sequence[int], served: list[Any], other: list[Any], **more: Any) -> Drift:
    drift = drift_of(ids, 1, served, other, **more)
    assert isinstance(drift, Drift), drift
    return drift


def shares(weights: list[float]) -> list[float]:
    return [each / sum(weights) for each in weights]


distributions = st.lists(st.floats(1e-6, 1.0), min_size=8, max_size=8).map(shares)


def test_the_same_numbers_on_both_sides_are_no_drift_at_all() -> None:
    served = told({3: -0.1, 4: -3.0}, {5: -0.5, 6: -1.0})
    drift = measured((1, 3, 5), served, served)
    assert (drift.kl, drift.log_ratio, drift.moved_share, drift.top1_agreement) == (0.0, 0.0, 0.0, 1.0)
    assert drift.top_moved == ()
    assert drift.histogram == (2, *[0] * len(HISTOGRAM_BOUNDS))


def test_log_ratio_is_the_mean_over_the_replys_tokens_and_the_largest_movers_come_first() -> None:
    served = told({3: -0.1}, {5: -0.2}, {7: -0.3})
    other = told({3: -0.1}, {5: -4.2}, {7: -1.5})
    drift = measured((1, 3, 5, 7), served, other, temperature=0.7)
    assert drift.n_tokens == 3
    assert drift.log_ratio == pytest.approx((0 + 4.0 + 1.2) / 3)
    assert drift.moved_share == pytest.approx(2 / 3)
    assert [(text, at) for text, at, *_ in drift.top_moved] == [("<5>", 1), ("<7>", 2)]
    assert drift.top_moved[0][2:] == (-0.2, -4.2)
    assert drift.temperature == 0.7
    assert sum(drift.histogram) == 3


def test_the_prompt_is_not_scored() -> None:
    served = told({2: -9.0}, {3: -0.5})
    other = told({2: -1.0}, {3: -0.5})
    drift = drift_of((1, 2, 3), 2, served, other)
    assert isinstance(drift, Drift)
    assert (drift.n_tokens, drift.log_ratio) == (1, 0.0)


def test_top1_agreement_compares_the_likeliest_token_and_not_the_replys() -> None:
    agree = ({3: -2.0, 9: -0.2}, {3: -3.0, 9: -0.1})
    differ = ({3: -2.0, 9: -0.2}, {3: -0.1, 9: -3.0})
    drift = measured((1, 3, 3), told(agree[0], differ[0]), told(agree[1], differ[1]))
    assert drift.top1_agreement == 0.5


@given(distributions, distributions, st.sets(st.integers(0, 7), min_size=1), st.sets(st.integers(0, 7), min_size=1))
def test_what_is_told_bounds_the_divergence_from_below_and_is_never_negative(
    p: list[float], q: list[float], told_p: set[int], told_q: set[int]
) -> None:
    true = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    coarse = coarse_kl({at: math.log(p[at]) for at in told_p}, {at: math.log(q[at]) for at in told_q})
    assert 0.0 <= coarse <= true + 1e-5


@given(distributions, distributions)
def test_telling_more_tokens_never_lowers_the_bound(p: list[float], q: list[float]) -> None:
    logs = [({at: math.log(p[at]) for at in range(n)}, {at: math.log(q[at]) for at in range(n)}) for n in (2, 5, 8)]
    two, five, all_of_them = (coarse_kl(*each) for each in logs)
    assert two <= five + 1e-5
    assert five <= all_of_them + 1e-5
    assert all_of_them == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-4)


def test_a_token_that_one_side_does_not_tell_is_in_both_rests() -> None:
    drift = measured((1, 3), told({3: math.log(0.5), 4: math.log(0.3)}), told({3: math.log(0.5), 5: math.log(0.4)}))
    assert drift.kl == pytest.approx(0.0, abs=1e-6)


def test_a_token_impossible_for_the_other_is_large_and_finite() -> None:
    drift = measured((1, 3), told({3: 0.0}), told({3: -9999.0, 4: 0.0}))
    assert drift.kl == pytest.approx(100.0)
    assert level(drift.kl) == 1.0
    assert level(KL_CAP_NATS / 2) == 0.5


def test_a_rest_that_rounding_made_negative_counts_as_none() -> None:
    certain = told({3: 1e-7, 4: -17.0})
    drift = measured((1, 3), certain, told({3: -1e-7, 4: -16.0}))
    assert 0.0 <= drift.kl < 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        [None],
        [None, None],
        [None, {}],
        [None, {"4": {"logprob": -1.0}}],
        [None, {"3": {"logprob": None}}],
        [None, {"3": {"logprob": math.nan}}],
        [None, {"3": {"logprob": 2.0}}],
        [None, {"3": {"logprob": "soon"}}],
        [None, {"3": {}}],
        [None, {"x": {"logprob": -1.0}}],
        [None, [1, 2]],
        [None, {"3": -1.0}],
    ],
)
def test_nonsense_from_an_engine_is_unscored(bad: list[Any]) -> None:
    good = told({3: -1.0})
    for served, other in ((good, bad), (bad, good)):
        outcome = drift_of((1, 3), 1, served, other)
        assert isinstance(outcome, Unscored)
        assert outcome.reason == "garbled"


def test_an_empty_reply_is_unscored() -> None:
    outcome = drift_of((1, 3), 2, told({3: -1.0}), told({3: -1.0}))
    assert isinstance(outcome, Unscored)
    assert outcome.reason == "no_tokens"


def test_without_words_nothing_is_left_of_the_texts() -> None:
    drift = measured((1, 3), told({3: -1.0}), told({3: -5.0}))
    bare = without_words(drift)
    assert isinstance(bare, Drift)
    assert bare.top_moved == (("", 0, -1.0, -5.0),)
    assert without_words(None) is None
