"""Is traffic split as the weights say? The test for sample-ratio mismatch.

A split that is off (a cache that pins clients, a retry that changes arms, a lost worker's
counts) makes every comparison of the arms worthless, so it is tested all the time.

`e_value` is valid at every look: if the split is right, the chance that it *ever* reaches
1/alpha is at most alpha. `p_value` is Pearson's chi-square with one degree of freedom: right
for one look at a count that was fixed before, and for reports; it must not raise alarms.

Exposures are *units*, each counted once, by the arm that it was assigned to. Requests will
not do: those of one unit all go to one arm, so they vary more than independent draws, and a
few busy users would look like a mismatch.

Source: M. Lindon and A. Malek (2022), Anytime-Valid Inference for Multinomial Count Data,
NeurIPS 35, arXiv:2011.03567: the Dirichlet mixture against the multinomial with the
intended shares. Here for two arms, several periods of constant weight multiplied together,
which is again a martingale that begins at 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, inf, lgamma, log, sqrt
from typing import Final

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import TOTAL_WEIGHT

# Chance of ever raising a false alarm in one rollout. Practice alarms at 0.0005 to 0.01: a mismatch is rare
# and means a bug (Fabijan et al. 2019, KDD, doi:10.1145/3292500.3330722).
ALPHA: Final = 0.001
# Concentration of the mixture around the intended shares, in units: quickest for mismatches that stand out after some
# thousand units. Against 100, small leaks are found after an eighth fewer units (1 % of the candidate's units in
# control, step of 50 %: 173,000 in place of 197,000), and gross ones some hundred units later (docs/statistics.md,
# section 5).
CONCENTRATION: Final = 1_000.0
_MAX_EXPONENT: Final = 700.0  # exp(710) is no float any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposures:
    """Units of each arm while the candidate's weight was `weight` basis points."""

    weight: int
    control: int = 0
    candidate: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= TOTAL_WEIGHT:
            raise ValueError(f"weight `{self.weight}` is not in 0..{TOTAL_WEIGHT} basis points")
        if self.control < 0 or self.candidate < 0:
            raise ValueError(f"exposures `{self.control}` and `{self.candidate}` cannot be below 0")

    @property
    def n(self) -> int:
        """Units of both arms."""
        return self.control + self.candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """What the test found. `verdict` is FAIL on a mismatch and INCONCLUSIVE otherwise:
    no amount of data proves a split exact, and nothing waits for this test to pass."""

    verdict: Verdict
    reason: str
    observed: float
    expected: float
    n: int
    e_value: float
    p_value: float


def judge_ratio(periods: Sequence[Exposures], alpha: float = ALPHA) -> Ratio:
    """Return whether the exposures of all periods fit their weights.

    Args:
        periods: One for each stretch of constant weight.
        alpha: Chance, in (0, 1), of ever calling a right split wrong.

    Raises:
        ValueError: `alpha` is out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha `{alpha}` is not between 0 and 1")
    n = sum(period.n for period in periods)
    observed = sum(period.candidate for period in periods) / n if n else 0.0
    expected = sum(period.n * period.weight for period in periods) / (n * TOTAL_WEIGHT) if n else 0.0
    evidence = sum(_log_e_value(period) for period in periods)
    is_mismatch = evidence >= -log(alpha)
    sign, word = ("≠", "mismatch") if is_mismatch else ("≈", "no mismatch seen")
    e_value = inf if evidence > _MAX_EXPONENT else exp(evidence)
    return Ratio(
        verdict=Verdict.FAIL if is_mismatch else Verdict.INCONCLUSIVE,
        reason=f"{word}: candidate's share {observed:.2%} {sign} {expected:.2%} "
        f"(n={n:,} units, e={e_value:.3g}, limit {1 / alpha:,.0f})",
        observed=observed,
        expected=expected,
        n=n,
        e_value=e_value,
        p_value=_p_value(periods),
    )


def _log_e_value(period: Exposures) -> float:
    share = period.weight / TOTAL_WEIGHT
    if share in (0.0, 1.0):  # one arm alone: a single unit on the other is proof
        return inf if (period.candidate if share == 0.0 else period.control) else 0.0
    a, b = CONCENTRATION * share, CONCENTRATION * (1 - share)
    mixture = _log_beta(period.candidate + a, period.control + b) - _log_beta(a, b)
    return mixture - period.candidate * log(share) - period.control * log(1 - share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _p_value(periods: Sequence[Exposures]) -> float:
    """Pearson's chi-square of the candidates' sum: (observed - expected)² / variance, one degree of freedom."""
    deviation = variance = 0.0
    for period in periods:
        share = period.weight / TOTAL_WEIGHT
        deviation += period.candidate - period.n * share
        variance += period.n * share * (1 - share)
    if variance == 0:
        return 0.0 if deviation else 1.0
    return erfc(sqrt(deviation * deviation / variance / 2))
