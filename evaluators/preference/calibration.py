"""Check a judge's reliability on noise pairs: two answers of one version, where neither should be preferred.

Two things can be wrong, and both are tested after every pair, at an error rate that holds however often one
looks (test martingales by betting, Ville's inequality):

* its win rate is not 50 %: the judge prefers a side for a reason that has nothing to do with the version;
* it flips: shown the same two answers in the other order, the judge names the same letter. A judge that decides by
  position or at random turns every pair into a tie or noise, and ties would let a bad candidate pass.

Source: Waudby-Smith and Ramdas (2024), JRSS B 86(1), section 4.3 (hedged capital, here over a fixed grid of bets
and with equal shares of the capital), doi:10.1093/jrsssb/qkad009.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# Together a chance of 1 in 100 that a fit judge is ever flagged; half for each test.
ALPHA: Final = 0.01
# A judge that contradicts itself more often than on a third of the pairs that it decides by itself is not fit.
MAX_FLIPS: Final = 1 / 3
# Shares of the largest bet that cannot ruin the bettor.
_BETS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
_START: Final = (0.0,) * len(_BETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A judge's results on pairs of one version so far.

    Attributes:
        pairs: Number of judged pairs.
        score: Sum of the pairs' preferences; half of `pairs` is expected of a reliable judge.
        flips: How many of `pairs` the judge decided by position.
        above, below, flipping: Log-capital of each bet against a win rate of at most 50 %, of at least 50 %, and
            against at most `MAX_FLIPS` flips.
        is_flagged: Whether the judge was ever found unreliable; this stays until the calibration is started anew.
    """

    pairs: int = 0
    score: float = 0.0
    flips: int = 0
    above: tuple[float, ...] = _START
    below: tuple[float, ...] = _START
    flipping: tuple[float, ...] = _START
    is_flagged: bool = False

    @property
    def win_rate(self) -> float:
        """The share of preferences that went to the replayed side; 0.5 before the first pair."""
        return self.score / self.pairs if self.pairs else 0.5

    @property
    def flip_rate(self) -> float:
        """The share of pairs decided by position; 0 before the first pair."""
        return self.flips / self.pairs if self.pairs else 0.0

    @property
    def e_value(self) -> float:
        """Evidence (e-value) that the judge is unreliable; at `1 / ALPHA` it is flagged."""
        # The mean of e-values is one: a quarter each for the two sides, a half for flips.
        return _mean(_capital(self.above), _capital(self.below)) / 2 + _capital(self.flipping) / 2

    def after(self, preferred: float, *, flipped: bool) -> "Calibration":
        """Return the calibration with one more pair of one version.

        Args:
            preferred: As `question.preference` returns it.
            flipped: As `question.is_flip` returns it.
        """
        seen = replace(
            self,
            pairs=self.pairs + 1,
            score=self.score + preferred,
            flips=self.flips + flipped,
            above=_bet(self.above, preferred, 0.5),
            below=_bet(self.below, 1.0 - preferred, 0.5),
            flipping=_bet(self.flipping, float(flipped), MAX_FLIPS),
        )
        return replace(seen, is_flagged=self.is_flagged or seen.e_value >= 1 / ALPHA)

    def describe(self) -> str:
        """Return the calibration in one line for operators."""
        return (
            f"{'flagged' if self.is_flagged else 'ok'}: win rate {self.win_rate:.3f} (right: 0.5), flips "
            f"{self.flip_rate:.3f} (limit {MAX_FLIPS:.3f}), n={self.pairs}, e={self.e_value:.3g}"
        )


def _bet(capitals: Sequence[float], value: float, mean: float) -> tuple[float, ...]:
    """Add one observation in [0, 1] to the log-capital of bets that its mean is larger than `mean`."""
    return tuple(
        capital + math.log1p(bet / mean * (value - mean)) for capital, bet in zip(capitals, _BETS, strict=True)
    )


def _capital(logs: Sequence[float]) -> float:
    return math.fsum(math.exp(min(each, 700.0)) for each in logs) / len(logs)  # exp(710) is no float any more


def _mean(one: float, two: float) -> float:
    return one / 2 + two / 2
