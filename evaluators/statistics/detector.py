"""Detect that a mean has risen above a limit since an unknown moment, with a bounded rate of false alarms.

A test asks whether something has been so from the beginning. Of traffic that runs for months one asks whether it has
*become* so: bets are begun anew at every step, and the capitals of all of them are added up,

    M_n = Σ_j share_j M_n^j,    M_n^j = (1 + M_{n-1}^j) · (1 + r_j x_n) / (1 + r_j m).

If the mean given the past is never above the limit m, M_n - n is a supermartingale. So the expected number of
observations until M first reaches A, the *average run length*, is at least A, whatever the numbers are distributed
like. Alarms come at A = `run_length`, and everything begins anew.

Several detectors over the same observations, each at `run_length_of_each(run_length, count)`, together raise a false
alarm no
oftener than one does, whatever they have to do with each other: their mean is such a sum, too.

Source: J. Shin, A. Ramdas and A. Rinaldo (2023), E-detectors: a nonparametric framework for sequential change
detection, NEJSDS 2(2), 229-260, doi:10.51387/23-NEJSDS51, arXiv:2203.03532 (SR e-detectors and their run
lengths). The mixture over bets is that of `betting`.
"""

from collections.abc import Sequence
from typing import Final

from evaluators.statistics.betting import BETS, SHARES

# Sessions between two false alarms, on average and at least.
RUN_LENGTH: Final = 100_000.0


def run_length_of_each(run_length: float, count: int) -> float:
    """Return the run length that each of `count` detectors needs for all of them together to have `run_length`."""
    return run_length * max(1, count)


class Detector:
    """Watches whether a number's mean has come above a limit. For "below", give 1 - number and 1 - limit.

    Attributes:
        limit: The highest mean that is fine, in [0, 1].
        run_length: Observations between false alarms, on average and at least.
        n: Observations since it began, or since its last alarm.
    """

    def __init__(self, limit: float, run_length: float = RUN_LENGTH, sums: Sequence[float] | None = None) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"limit `{limit}` is not in [0, 1]")
        if not run_length >= 1:
            raise ValueError(f"run_length `{run_length}` is not at least 1")
        self.limit = limit
        self.run_length = run_length
        self.n = 0
        self._sums = [0.0] * len(BETS) if sums is None else list(sums)

    @property
    def value(self) -> float:
        """The sum M; an alarm comes when it reaches `run_length`."""
        return sum(share * each for share, each in zip(SHARES, self._sums, strict=True))

    @property
    def sums(self) -> tuple[float, ...]:
        """The detector's state, from which another `Detector` can continue: one sum for each bet."""
        return tuple(self._sums)

    def add(self, value: float) -> bool:
        """Add a number in [0, 1], and return whether it raises an alarm, after which the detector starts anew.

        Raises:
            ValueError: The number is not in [0, 1].
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"`{value}` cannot be watched: it is not in [0, 1]")
        self.n += 1
        self._sums = [
            (1 + had) * (1 + bet * value) / (1 + bet * self.limit) for had, bet in zip(self._sums, BETS, strict=True)
        ]
        if self.value < self.run_length:
            return False
        self.n = 0
        self._sums = [0.0] * len(BETS)
        return True
