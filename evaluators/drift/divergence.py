"""Bound and estimate KL divergence where an engine reports only the k likeliest tokens and the drawn token.

The exact divergence needs the probabilities of the whole vocabulary. The reported tokens allow two different numbers:
`lower_bound`, which never exceeds the true divergence, and `estimate`, whose expectation is the true divergence if the
token was drawn from `served`. Log-probabilities are natural ones; results are nats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Float32 sums of probabilities are right to about this, so a smaller rest is not known.
SMALLEST_REST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probabilities that one version's engine reports for one position.

    Attributes:
        logprobs: Token → log-probability, of the k likeliest tokens and of the drawn token.
        top: The k likeliest tokens. The drawn token is included only if it is one of the k likeliest, because this set
            must not depend on the draw.
    """

    logprobs: Mapping[int, float]
    top: frozenset[int]

    @property
    def rest(self) -> float:
        """The total probability of all tokens that are not reported."""
        return max(0.0, 1.0 - math.fsum(math.exp(each) for each in self.logprobs.values()))

    @property
    def most_untold(self) -> float:
        """The largest possible probability of an unreported token: at most that of the k-th likeliest, and `rest`."""
        least = min((self.logprobs[token] for token in self.top), default=0.0)
        return min(math.exp(least), max(self.rest, SMALLEST_REST))


def lower_bound(served: TokenLogprobs, other: TokenLogprobs) -> float:
    """Return a lower bound of KL(served‖other) that holds whatever the probabilities of unreported tokens are.

    Write p for `served` and q for `other`; B for the tokens that both tell, P = 1 - Σ_B p and Q = 1 - Σ_B q for what is
    left of each side. A token that only `served` tells has q ≤ u, and one that only `other` tells has p ≤ v, where u
    and v are `most_untold`. Then for every r > 0

        KL ≥ Σ_B p log(p/q) + P (1 + log r) - r Q + Σ_{only served} d(p, r u) + Σ_{only other} d(v, r q),

    with d(a, b) = a log(a/b) - a + b where a > b, and 0 else.

    Proof. For any number h, a log(a/b) ≥ a (1 + h) - b eʰ, since eˣ ≥ 1 + x at x = h - log(a/b). Take it for each
    token outside of B, with eʰ = max(r, p/u) for one that only `served` tells, min(r, v/q) for one that only `other`
    tells, and r for all others, and add up. Had all of them r, the sum were P (1 + log r) - r Q. A token that only
    `served` tells adds to that p log(eʰ/r) - q (eʰ - r), which falls in q, and at q = u is d(p, r u). One that only
    `other` tells adds p log(eʰ/r) - q (eʰ - r), which falls in p since eʰ ≤ r, and at p = v is d(v, r q). ∎

    Every r gives a bound, and the highest of them is returned. With r = P/Q the first line is the divergence of both
    sides coarsened to B and one rest, and d is never negative: so this is never below that.

    Returns:
        Nats, never negative; right to about 1e-5, as far as sums of float32 probabilities are.

    Source: Donsker and Varadhan's variational form of the divergence (Polyanskiy and Wu, Information Theory, 2024,
    theorem 4.6), with a function that is constant wherever nothing is known.
    """
    both = served.logprobs.keys() & other.logprobs.keys()
    known = math.fsum(math.exp(served.logprobs[each]) * (served.logprobs[each] - other.logprobs[each]) for each in both)
    ours = [math.exp(served.logprobs[each]) for each in served.logprobs.keys() - both]
    theirs = [math.exp(other.logprobs[each]) for each in other.logprobs.keys() - both]
    left = served.rest + math.fsum(ours)
    if left <= SMALLEST_REST:
        return max(0.0, known)
    left_other = max(other.rest, SMALLEST_REST) + math.fsum(theirs)
    return max(
        0.0, known + _bound_outside_shared(left, left_other, ours, theirs, other.most_untold, served.most_untold)
    )


def _bound_outside_shared(
    left: float, left_other: float, ours: Sequence[float], theirs: Sequence[float], u: float, v: float
) -> float:
    """Return the largest value of the bound's part for tokens outside of B; see `lower_bound` for the letters.

    Where d > 0 depends on r: for a token of `ours` below p/u, for one of `theirs` above v/q. Between two such places
    the bound is `constant` + `gain` log r - `loss` r, so its highest point is at gain/loss or at one of the ends.
    """
    events = sorted([(p / u, p, True) for p in ours] + [(v / q, q, False) for q in theirs])
    constant = left + math.fsum(p * (math.log(p / u) - 1) for p in ours)
    gain, loss = left - math.fsum(ours), left_other - len(ours) * u
    low, best = 0.0, -math.inf
    for high, share, is_ours in [*events, (math.inf, 0.0, True)]:
        ratio = min(max(gain / loss, low), high) if gain > 0 and loss > 0 else high if gain > 0 else low
        if 0 < ratio < math.inf:
            best = max(best, constant + gain * math.log(ratio) - loss * ratio)
        low = high
        if is_ours and share:
            constant, gain, loss = constant - share * (math.log(share / u) - 1), gain + share, loss + u
        elif share:
            constant, gain, loss = constant + v * (math.log(v / share) - 1), gain - v, loss - share
    return best


def estimate(served: TokenLogprobs, other: TokenLogprobs, token: int) -> float:
    """Return an estimate of KL(served‖other) from the reported tokens and the drawn token.

    The tokens S among the k likeliest of *both* sides count in full. Of all others the drawn token is a sample, if it
    is one of them, and the two rests P = 1 - Σ_S p and Q = 1 - Σ_S q are its control variate:

        Σ_S p log(p/q) + P log(P/Q) + [token not in S] (log p(token)/q(token) - log P/Q).

    S depends on the two distributions alone. So where `token` was drawn from `served`, at temperature 1 and with no
    token left out, the last term's expectation is Σ_{not S} p log(p/q) - P log(P/Q), and that of the whole is the
    divergence: without bias, and for a single token it may be negative. Where it was drawn at a lower temperature the
    tail is drawn too seldom, and too little of it is counted.

    Source: Rao-Blackwellised and control-variate estimators (Owen, Monte Carlo theory, methods and examples, 2013,
    sections 8.7 and 8.9), as Amini et al. (2025), arXiv:2504.10637, apply the former to KL of language models. Changed:
    the expectation is taken in full where both sides tell, and by sampling elsewhere.
    """
    both = served.top & other.top
    p, q = ([math.exp(side.logprobs[each]) for each in both] for side in (served, other))
    known = math.fsum(a * (served.logprobs[each] - other.logprobs[each]) for a, each in zip(p, both, strict=True))
    rest, rest_other = (max(1.0 - math.fsum(each), SMALLEST_REST) for each in (p, q))
    of_rests = math.log(rest / rest_other)
    known += rest * of_rests
    if token not in both:
        known += served.logprobs[token] - other.logprobs[token] - of_rests
    return known
