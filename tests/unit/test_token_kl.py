"""Drift from an engine's prompt_logprobs: a bound and an estimate of the divergence, of all tokens of a reply."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from evaluators.drift.token_kl import (
    HISTOGRAM_BOUNDS,
    KL_CAP_NATS,
    TOP,
    bits_per_byte,
    drift_of,
    level,
    remove_words,
)
from evaluators.observation import Drift, NoDrift


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


def test_the_same_numbers_on_both_sides_are_no_drift_at_all() -> None:
    served = told({3: -0.1, 4: -3.0}, {5: -0.5, 6: -1.0})
    drift = measured((1, 3, 5), served, served)
    assert (drift.kl_bound, drift.log_ratio, drift.moved_share, drift.top1_agreement) == (0.0, 0.0, 0.0, 1.0)
    assert drift.kl == pytest.approx(0.0, abs=1e-9)
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


def test_bound_and_estimate_are_means_over_the_replys_tokens() -> None:
    # Of the first token both sides tell all; the second is the same on both sides.
    served = told({3: math.log(0.9), 4: math.log(0.1)}, {5: 0.0})
    other = told({3: math.log(0.5), 4: math.log(0.5)}, {5: 0.0})
    drift = measured((1, 3, 5), served, other)
    truth = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert drift.kl_bound == pytest.approx(truth / 2, abs=1e-5)
    assert drift.kl == pytest.approx(truth / 2, abs=1e-5)


def test_a_drawn_token_that_is_none_of_the_likeliest_is_a_sample_and_no_part_of_them() -> None:
    # Asked for one token: 9 is the likeliest of both, 3 was drawn.
    served, other = ({9: math.log(0.8), 3: math.log(a)} for a in (0.1, 0.02))
    drift = measured((1, 3), told(served), told(other), top=1)
    of_rests = math.log(0.2 / 0.2)
    assert drift.kl == pytest.approx(0.2 * of_rests + math.log(0.1 / 0.02) - of_rests)
    # Asked for two, it is one of the likeliest, and counts in full and not as a sample.
    both = measured((1, 3), told(served), told(other), top=2)
    assert both.kl == pytest.approx(0.1 * math.log(0.1 / 0.02) + 0.1 * math.log(0.1 / 0.18))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, None])
def test_where_the_tail_is_drawn_too_seldom_the_estimate_is_no_less_than_the_bound(temperature: float | None) -> None:
    # The rests differ, and what was drawn of them says the contrary.
    served = told({9: math.log(0.5), 3: math.log(0.1)})
    other = told({9: math.log(0.8), 3: math.log(0.15)})
    drift = measured((1, 3), served, other, top=1, temperature=temperature)
    assert drift.kl_bound > 0.1
    if temperature in (1.0, None):
        assert drift.kl is not None
        assert drift.kl < 0
    else:
        assert drift.kl == drift.kl_bound


def test_a_token_impossible_for_the_other_is_large_and_finite() -> None:
    drift = measured((1, 3), told({3: 0.0}), told({3: -9999.0, 4: 0.0}))
    assert drift.kl == pytest.approx(100.0)
    assert drift.kl_bound == pytest.approx(100.0)
    assert level(100.0) == 1.0
    assert level(KL_CAP_NATS / 2) == 0.5
    assert level(-0.1) == 0.0


def test_a_rest_that_rounding_made_negative_counts_as_none() -> None:
    certain = told({3: 1e-7, 4: -17.0})
    drift = measured((1, 3), certain, told({3: -1e-7, 4: -16.0}))
    assert 0.0 <= drift.kl_bound < 1e-6
    assert drift.kl == pytest.approx(0.0, abs=1e-6)


def test_more_than_was_asked_for_is_nonsense() -> None:
    many = told(dict.fromkeys(range(TOP + 2), -3.5))
    assert isinstance(drift_of((1, 3), 1, many, many), NoDrift)
    assert isinstance(drift_of((1, 3), 1, many, many, top=TOP + 1), Drift)


def spelt(pieces: Sequence[str], text: str) -> int | None:
    """The bytes of a reply of these tokens, said to be this text."""
    rows: list[Any] = [None, *({str(at): {"logprob": -0.5, "decoded_token": piece}} for at, piece in enumerate(pieces))]
    return measured((9, *range(len(pieces))), rows, rows, text=text).n_bytes


def test_a_replys_bytes_are_known_where_its_tokens_spell_its_text() -> None:
    assert spelt(["Grüß", " Gott"], "Grüß Gott") == 11
    assert spelt(["Hi", "!", "<|im_end|>"], "Hi!") == 3, "the stop token is none of the text"
    assert spelt(["Hi", "there"], " Hi there") == 9, "some tokenizers leave out white space"
    assert spelt(["Hi ", "\ufffd", "\ufffd", "!"], "Hi 🙂!") == 8, "a character may be several tokens"
    assert spelt(["I", " think", " Hi"], "Hi") is None, "it holds more than its text"
    assert spelt(["\ufffd", "\ufffd"], "🙂") is None
    assert spelt(["Hi"], "") is None
    assert measured((9, 0), told({0: -1.0}), told({0: -1.0})).n_bytes is None


def test_bits_per_byte_are_all_nats_over_all_bytes() -> None:
    one = measured((9, 0), told({0: 0.0}), told({0: -math.log(2), 1: -math.log(2)}), top=1)
    assert one.kl == pytest.approx(math.log(2), abs=1e-5)
    short, long = (structs.replace(one, n_tokens=n, n_bytes=4 * n) for n in (1, 3))
    assert bits_per_byte([short, long]) == pytest.approx(0.25, abs=1e-5)
    # Twice the bytes a token, as a tokenizer with longer tokens has, is half of it.
    assert bits_per_byte([structs.replace(short, n_bytes=8)]) == pytest.approx(0.125, abs=1e-5)
    assert bits_per_byte([short, one, structs.replace(long, kl=None)]) == bits_per_byte([short])
    assert bits_per_byte([one]) is None


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
        assert isinstance(outcome, NoDrift)
        assert outcome.reason == "garbled"


def test_an_empty_reply_is_unscored() -> None:
    outcome = drift_of((1, 3), 2, told({3: -1.0}), told({3: -1.0}))
    assert isinstance(outcome, NoDrift)
    assert outcome.reason == "no_tokens"


def test_without_words_nothing_is_left_of_the_texts() -> None:
    drift = measured((1, 3), told({3: -1.0}), told({3: -5.0}))
    bare = remove_words(drift)
    assert isinstance(bare, Drift)
    assert bare.top_moved == (("", 0, -1.0, -5.0),)
    assert remove_words(None) is None
