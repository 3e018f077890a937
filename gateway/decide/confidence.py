"""A rate and its bounds that hold at every look at once: for one stream of yes and no.

Let X₁, X₂, … be 0 or 1, each 1 with probability p given the past. With k ones among n and
the Beta(½, ½) mixture of all other rates,

    M_n(p) = B(k + ½, n − k + ½) / B(½, ½) / (p^k (1 − p)^(n−k))

is a non-negative martingale that begins at 1. By Ville's inequality the chance that it
*ever* reaches 1/α is at most α, so {p : M_n(p) < 1/α} holds the true p at all n at once,
with probability 1 − α, whenever and however often one looks. It is an interval, because
log M_n is convex in p, and it needs n and k alone: counts of several workers are added,
and a new leader goes on from the same numbers.

Source: H. Robbins (1970), Ann. Math. Statist. 41(5), 1397-1409, doi:10.1214/aoms/1177696786
(mixtures and Ville's inequality); R. Krichevsky and V. Trofimov (1981), IEEE Trans. Inf.
Theory 27(2), 199-207, doi:10.1109/TIT.1981.1056331 (the ½, ½ mixture, which loses at most
½ log n + log 2 nats against the best rate in hindsight). Nothing was changed.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma, log, log1p, pi
from typing import Final

# Halvings of [0, 1]: 2⁻⁵⁵ is finer than a float's own grid near 1.
_HALVINGS: Final = 55


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many were seen, and how many of them were bad."""

    n: int = 0
    bad: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.n:
            raise ValueError(f"`{self.bad}` bad of `{self.n}` cannot be: 0 ≤ bad ≤ n")

    @property
    def rate(self) -> float:
        """The share that is bad; 0 of nothing."""
        return self.bad / self.n if self.n else 0.0

    def plus(self, other: "Count") -> "Count":
        """Return both together."""
        return Count(n=self.n + other.n, bad=self.bad + other.bad)

    def without(self, other: "Count") -> "Count":
        """Return what is left when a part is taken out.

        Counts of parts are read at other moments than the whole's, so a part may seem larger than that; nothing is
        left of it then.
        """
        n = max(0, self.n - other.n)
        return Count(n=n, bad=min(n, max(0, self.bad - other.bad)))


NOTHING: Final = Count()


def log_e_value(count: Count, rate: float) -> float:
    """Return log M_n(rate), in nats: evidence against `rate` being the true one.

    Args:
        count: Whole numbers of one stream.
        rate: In (0, 1).
    """
    good = count.n - count.bad
    mixture = lgamma(count.bad + 0.5) + lgamma(good + 0.5) - lgamma(count.n + 1) - log(pi)
    return mixture - count.bad * log(rate) - good * log1p(-rate)


# A gate is read several times at each look, and again without each account: mostly of counts that stand still.
@lru_cache(maxsize=4096)
def bounds(count: Count, alpha: float) -> tuple[float, float]:
    """Return the lowest and the highest rate that the counts allow, at every look at once.

    Args:
        count: Whole numbers of one stream; (0, 1) is returned when it is empty.
        alpha: The chance, in (0, 1), that the true rate is ever outside.

    Raises:
        ValueError: `alpha` is out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha `{alpha}` is not between 0 and 1")
    evidence = -log(alpha)
    low = 0.0 if count.bad == 0 else _edge(count, evidence, 0.0)
    high = 1.0 if count.bad == count.n else _edge(count, evidence, 1.0)
    return low, high


def _edge(count: Count, evidence: float, outer: float) -> float:
    """Return where the evidence against a rate reaches `evidence`, between `outer` and the observed rate.

    The outer end of the last halving is returned, so rounding widens the interval.
    """
    inner = count.rate
    for _ in range(_HALVINGS):
        middle = (inner + outer) / 2
        if middle in (0.0, 1.0) or log_e_value(count, middle) >= evidence:
            outer = middle
        else:
            inner = middle
    return outer
