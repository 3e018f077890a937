"""Is a mean above or below a boundary? Evidence from bets, valid at every look at once.

Numbers x₁, x₂, … lie in [0, 1]. Evidence against "their mean is at most m" is the capital of a bettor
who stakes everything on each number so that the capital is multiplied by

    (1 + r x) / (1 + r m),   r > 0 chosen beforehand.

If the mean given the past is never above m, no factor is more than 1 in expectation: the
capital is a non-negative supermartingale that begins at 1, and by Ville's inequality the
chance that it *ever* reaches 1/α is at most α. We spread the first unit over a fixed grid of
r (`BETS`) in fixed shares and never move money again, so for every boundary m

    E_n(m) = Σ_j share_j Π_i (1 + r_j x_i) / (1 + r_j m)
           = Σ_j share_j exp(S_j - n log(1 + r_j m)),   S_j = Σ_i log(1 + r_j x_i).

The sums S_j do not know m. So they are all that is kept: they add up (over evaluators and
windows, in any order), a boundary may be asked for later (`gates simulate`), and the
confidence sequence is the same capital solved for m. Evidence that a mean is *below* m is
that of 1 - x being above 1 - m.

What is promised holds without the numbers being alike: log is concave, so
Σ log(1 + r μ_i) ≤ n log(1 + r μ̄), and E_n(μ̄_n) is below a martingale whatever the means μ_i
given the past are. With a chance of 1 - α, at every n at once, the mean μ̄_n of the μ_i so
far is where the bounds say.

Source: I. Waudby-Smith and A. Ramdas (2024), JRSS-B 86(1), 1-27, doi:10.1093/jrsssb/qkad009
(capital processes for bounded means); T. Cover (1991), Math. Finance 1(1), 1-29,
doi:10.1111/j.1467-9965.1991.tb00002.x (mixtures of constant bets); J. Ryu and A. Bhatt (2024),
IEEE Trans. Inf. Theory, arXiv:2207.12382 (both together); G. Shafer (2021), JRSS-A 184(2),
407-431, doi:10.1111/rssa.12647 (evidence as a bettor's capital). Changed: the bet is written as
r = λ/(1 - λm) in place of λ, which is what frees the sums of m; the mixture is a short grid,
so that there is nothing to integrate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, log, log1p, log2
from typing import Final

# Doublings of r. For a mean near 1/2 the best r is about (difference / variance): 1/64 finds differences of
# 0.4 points of a fair coin, 256 stakes all but 0.4 % of the capital on each number. Between two doublings the best
# bet's growth is missed by at most 17 %, less than what a finer grid's smaller shares cost.
BETS: Final = tuple(2.0**power for power in range(-6, 9))


def _shares() -> tuple[float, ...]:
    """Cauchy-shaped over log2 r: most on the bets for the effects that rollouts look for, and no end left bare.

    Centre and width were chosen by the number of pairs that it takes to find 5 and 10 points of pass rate at 12 %
    discordance and a judge's 0.45 (docs/statistics.md): sharper is faster there and slow for a candidate that is
    wholly broken, wider the reverse.
    """
    raw = [1 / (1 + ((log2(bet) - 0.5) / 1.2) ** 2) for bet in BETS]
    return tuple(share / sum(raw) for share in raw)


SHARES: Final = _shares()
_LOG_SHARES: Final = tuple(map(log, SHARES))
_NOTHING: Final = (0.0,) * len(BETS)
# Bets that have e^-40 of the best one's capital are no part of a sum of doubles.
_NEGLIGIBLE: Final = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Summary of a stream of numbers in [0, 1]: count, sum, and the sums of the bets' logs.

    Attributes:
        n: Count of the numbers.
        total: Sum of the numbers.
        up: (n_bets,) sums of log(1 + r x), nats.
        down: (n_bets,) sums of log(1 + r (1 - x)), nats.
    """

    n: int = 0
    total: float = 0.0
    up: tuple[float, ...] = field(default=_NOTHING, repr=False)
    down: tuple[float, ...] = field(default=_NOTHING, repr=False)

    @property
    def mean(self) -> float | None:
        """The mean; None without numbers."""
        return self.total / self.n if self.n else None

    def add(self, value: float, times: int = 1) -> "Evidence":
        """Return the evidence with one more number, or with the same number several times.

        Raises:
            ValueError: The number is not in [0, 1].
        """
        if not 0.0 <= value <= 1.0:  # NaN fails this too
            raise ValueError(f"`{value}` cannot be bet on: it is not in [0, 1]")
        rest = 1.0 - value
        return Evidence(
            n=self.n + times,
            total=self.total + times * value,
            up=tuple([had + times * log1p(bet * value) for had, bet in zip(self.up, BETS, strict=True)]),
            down=tuple([had + times * log1p(bet * rest) for had, bet in zip(self.down, BETS, strict=True)]),
        )

    def merge(self, other: "Evidence") -> "Evidence":
        """Return both streams' evidence together, in whatever order the numbers came."""
        return Evidence(
            n=self.n + other.n,
            total=self.total + other.total,
            up=tuple([mine + theirs for mine, theirs in zip(self.up, other.up, strict=True)]),
            down=tuple([mine + theirs for mine, theirs in zip(self.down, other.down, strict=True)]),
        )


def evidence_of(values: Iterable[float]) -> Evidence:
    """Return the evidence of some numbers in [0, 1]."""
    evidence = Evidence()
    for value in values:
        evidence = evidence.add(value)
    return evidence


def log_e_above(evidence: Evidence, boundary: float) -> float:
    """Return the log e-value, in nats, against "the mean is at most `boundary`".

    Args:
        evidence: 0 is returned when it is empty.
        boundary: In [0, 1]. The result falls as it rises, and is convex in it.
    """
    return _log_capital(evidence.n, evidence.up, boundary)


def log_e_below(evidence: Evidence, boundary: float) -> float:
    """Return the log e-value, in nats, against "the mean is at least `boundary`"; see `log_e_above`."""
    return _log_capital(evidence.n, evidence.down, 1.0 - boundary)


def _log_capital(n: int, sums: Sequence[float], boundary: float) -> float:
    if not 0.0 <= boundary <= 1.0:
        raise ValueError(f"boundary `{boundary}` is not in [0, 1]")
    if n == 0:
        return 0.0  # the shares' sum is 1 only up to rounding
    terms = [
        share + gained - n * log1p(bet * boundary) for share, gained, bet in zip(_LOG_SHARES, sums, BETS, strict=True)
    ]
    top = max(terms)
    return top + log(sum([exp(term - top) for term in terms]))


def slope_above(evidence: Evidence, boundary: float) -> tuple[float, float]:
    """Return `log_e_above` and its slope in the boundary, never above 0."""
    return _log_capital_and_slope(evidence.n, evidence.up, boundary)


def slope_below(evidence: Evidence, boundary: float) -> tuple[float, float]:
    """Return `log_e_below` and its slope in the boundary, never below 0."""
    log_e, slope = _log_capital_and_slope(evidence.n, evidence.down, 1.0 - boundary)
    return log_e, -slope


def _log_capital_and_slope(n: int, sums: Sequence[float], boundary: float) -> tuple[float, float]:
    if n == 0:
        return 0.0, 0.0
    terms = [
        share + gained - n * log1p(bet * boundary) for share, gained, bet in zip(_LOG_SHARES, sums, BETS, strict=True)
    ]
    top = max(terms)
    capital = slope = 0.0
    for term, bet in zip(terms, BETS, strict=True):
        if term > top - _NEGLIGIBLE:
            part = exp(term - top)
            capital += part
            slope += part * bet / (1.0 + bet * boundary)
    return top + log(capital), -n * slope / capital
