"""What is told of two distributions: a bound that the divergence is never below, and an estimate without bias."""

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.drift.divergence import TokenLogprobs, estimate, lower_bound

# Sums of probabilities are taken to be right to 1e-6 (float32), here too, where they are better.
ROUNDING = 1e-5
VOCABULARY = 24


def softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    weights = [math.exp(each - largest) for each in logits]
    return [each / sum(weights) for each in weights]


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def ranked(shares: Sequence[float], top: int) -> TokenLogprobs:
    likeliest = sorted(range(len(shares)), key=lambda at: (-shares[at], at))[:top]
    return TokenLogprobs({at: math.log(shares[at]) for at in likeliest}, frozenset(likeliest))


def with_drawn(likeliest: TokenLogprobs, shares: Sequence[float], token: int) -> TokenLogprobs:
    return TokenLogprobs({**likeliest.logprobs, token: math.log(shares[token])}, likeliest.top)


def told(shares: Sequence[float], top: int, token: int) -> TokenLogprobs:
    """What an engine tells of a position: the likeliest, and the drawn one."""
    return with_drawn(ranked(shares, top), shares, token)


def coarsened(served: TokenLogprobs, other: TokenLogprobs) -> float:
    """The divergence of the tokens that both tell and one rest: what the bound is to be no lower than."""
    both = served.logprobs.keys() & other.logprobs.keys()
    p, q = ({at: math.exp(side.logprobs[at]) for at in both} for side in (served, other))
    rest, rest_other = 1 - sum(p.values()), 1 - sum(q.values())
    parts = sum(p[at] * math.log(p[at] / q[at]) for at in both)
    return parts + (rest * math.log(rest / rest_other) if rest > 1e-6 and rest_other > 1e-6 else 0.0)


distributions = st.lists(st.floats(-12, 0), min_size=VOCABULARY, max_size=VOCABULARY).map(softmax)
# The other one is often near: then the two share most of their likeliest tokens, as versions of a model do.
changes = st.lists(st.floats(-3, 3), min_size=VOCABULARY, max_size=VOCABULARY)
tops = st.integers(0, VOCABULARY)
tokens = st.integers(0, VOCABULARY - 1)


def changed(shares: Sequence[float], by: Sequence[float]) -> list[float]:
    return softmax([math.log(each) + change for each, change in zip(shares, by, strict=True)])


@given(distributions, distributions, tops, tokens)
def test_the_bound_is_never_above_the_divergence_of_any_two_distributions(
    p: list[float], q: list[float], top: int, token: int
) -> None:
    assert 0.0 <= lower_bound(told(p, top, token), told(q, top, token)) <= divergence(p, q) + ROUNDING


@given(distributions, changes, tops, tokens)
def test_the_bound_is_never_above_the_divergence_of_near_ones_and_never_below_the_coarsened_one(
    p: list[float], change: list[float], top: int, token: int
) -> None:
    q = changed(p, change)
    served, other = told(p, top, token), told(q, top, token)
    assert coarsened(served, other) - ROUNDING <= lower_bound(served, other) <= divergence(p, q) + ROUNDING


@given(distributions, changes, st.integers(1, VOCABULARY), st.integers(0, VOCABULARY), tokens)
def test_sides_that_tell_different_numbers_of_tokens_are_bounded_too(
    p: list[float], change: list[float], top: int, top_other: int, token: int
) -> None:
    q = changed(p, change)
    assert lower_bound(told(p, top, token), told(q, top_other, token)) <= divergence(p, q) + ROUNDING


@given(distributions, changes, tokens)
def test_telling_more_tokens_never_lowers_the_bound_and_telling_all_gives_the_divergence(
    p: list[float], change: list[float], token: int
) -> None:
    q = changed(p, change)
    bounds = [lower_bound(told(p, top, token), told(q, top, token)) for top in (1, 2, 5, 10, VOCABULARY)]
    for fewer, more in itertools.pairwise(bounds):
        assert fewer <= more + ROUNDING
    assert bounds[-1] == pytest.approx(divergence(p, q), abs=1e-4)


def test_a_token_that_one_side_does_not_tell_is_held_against_the_most_that_it_can_have() -> None:
    # 0.5 of `served` is on a token that `other` does not tell: it can have 0.1 there, as the least of the told ones.
    served = TokenLogprobs({0: math.log(0.5), 1: math.log(0.5)}, frozenset((0, 1)))
    other = TokenLogprobs({0: math.log(0.5), 2: math.log(0.3), 3: math.log(0.1)}, frozenset((0, 2, 3)))
    assert coarsened(served, other) == pytest.approx(0.0)
    # Of what is left, `other` has 0.5, of which 0.4 is told to be elsewhere.
    assert lower_bound(served, other) == pytest.approx(0.5 * math.log(0.5 / 0.1), abs=1e-4)


def test_the_least_divergent_completion_reaches_the_bound() -> None:
    """So nothing higher could be said: here are two whole distributions that tell just that."""
    p = [0.4, 0.3, 0.1, *[0.02] * 10]
    q = [0.4, 0.02, 0.1, 0.3, *[0.02] * 9]
    served, other = told(p, 3, 0), told(q, 3, 0)  # {0, 1, 2} and {0, 3, 2}
    # q of token 1 and p of token 3 are at most 0.1; what is free then has 0.1 on both sides, so the ratio is 1.
    completed_p = [0.4, 0.3, 0.1, 0.1, 0.1]
    completed_q = [0.4, 0.1, 0.1, 0.3, 0.1]
    assert lower_bound(served, other) == pytest.approx(divergence(completed_p, completed_q), abs=1e-9)


def test_an_impossible_token_is_far_away_and_finite() -> None:
    served, other = TokenLogprobs({0: 0.0}, frozenset((0,))), TokenLogprobs({0: -100.0, 1: 0.0}, frozenset((1,)))
    assert lower_bound(served, other) == pytest.approx(100.0)
    assert estimate(served, other, 0) == pytest.approx(100.0)


def test_the_same_distribution_twice_has_none() -> None:
    for top in (0, 1, 5, 20):
        both = told(softmax([-at * 0.7 for at in range(VOCABULARY)]), top, 3)
        assert lower_bound(both, both) == pytest.approx(0.0, abs=1e-12)
        assert estimate(both, both, 3) == pytest.approx(0.0, abs=1e-12)


@given(distributions, changes, tops)
def test_the_estimates_expectation_over_what_is_drawn_is_the_divergence(
    p: list[float], change: list[float], top: int
) -> None:
    q = changed(p, change)
    expected = sum(share * estimate(told(p, top, token), told(q, top, token), token) for token, share in enumerate(p))
    # A rest below 1e-6 counts as that much, so its log-ratio may be off by a few nats of a millionth.
    assert expected == pytest.approx(divergence(p, q), abs=1e-4)


def test_with_nothing_told_but_the_drawn_token_the_estimate_is_its_log_ratio() -> None:
    served, other = TokenLogprobs({7: -1.0}, frozenset()), TokenLogprobs({7: -3.5}, frozenset())
    assert estimate(served, other, 7) == pytest.approx(2.5)


@pytest.mark.simulation
def test_drawn_from_a_long_tail_the_estimate_is_unbiased_and_the_bound_is_not() -> None:
    """A vocabulary of 2,000, of which both sides tell 20: its rest is drawn, and counted."""
    source = random.Random(19)
    logits = [-1.1 * math.log(rank + 1) for rank in range(2000)]
    p = softmax(logits)
    q = softmax([each + source.gauss(0, 1.0) for each in logits])
    served, other = (ranked(shares, 20) for shares in (p, q))
    drawn = source.choices(range(len(p)), weights=p, k=50_000)
    truth = divergence(p, q)
    found = [estimate(with_drawn(served, p, token), with_drawn(other, q, token), token) for token in drawn]
    spread = stdev(found) / math.sqrt(len(found))
    assert abs(fmean(found) - truth) < 3 * spread
    assert spread < 0.02 * truth, "otherwise it says nothing"
    assert min(found) < 0 < max(found)
    bounds = [lower_bound(with_drawn(served, p, token), with_drawn(other, q, token)) for token in drawn[:1_000]]
    assert max(bounds) < 0.9 * truth
