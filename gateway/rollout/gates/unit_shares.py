"""Evidence from the units of two arms: each unit counts once, by the share of its requests that were bad.

Arms are drawn by unit, so units are the independent draws: a client whose requests always fail
is one observation, however often it asks. Two numbers are kept of each unit:

* by its *first* request, at once, so that a candidate that fails everything is found within seconds;
* by its first 8 requests, when it has sent so many, or by its first 4, 2 or 1 where it has fallen silent: *over*.

Each of the two gives an e-value, and the mean of both is an e-value too: it costs at most log 2 = 0.7 nats
against the better of the two, which is not known beforehand.

A unit that has counted would not count again, yet a candidate may break hours after its step began. So
units count once more in each *round*: from 10 to 20 minutes after the beginning, to 40, to 80, and so on. Rounds
have `FRESH` of the betting capital, the k-th of them 2^-k of that. Rounds can only fail a gate: for passing, a unit
counts once.

`log_worse` asks whether the candidate's mean is above the control's by more than a margin, in one e-value from
both arms' sums (`evaluators/statistics/two_sample.py`): valid at every look, whatever the order of arrivals.
`log_times_worse` asks whether it is above a multiple of the control's. There any influence that both arms share
cancels: given that a unit had something bad, and how much, which arm it was drawn into is an independent coin flip. If
the candidate's mean badness is ρ times the control's and its share of units is w, that coin shows the candidate with
chance q = ρw / (ρw + 1 - w), and a bet on another q' multiplies the capital of a unit with badness v by
1 + v(q'/q - 1) or 1 + v((1 - q')/(1 - q) - 1): one in expectation at ρ, and less below it.

Source: V. Vovk and R. Wang (2021), Ann. Statist. 49(3), 1736-1754, doi:10.1214/20-AOS2020 (means of e-values); see
also `betting.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log, log1p
from typing import Final

from evaluators.statistics.betting import Evidence, log_e_above, log_e_below
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse
from gateway.decide.assign import TOTAL_WEIGHT

# Requests by which a unit is judged. With 8 of them a client that fails now and then is told from one that always does.
MAX_REQUESTS: Final = 8
# Seconds of silence after which a unit is over with fewer.
IDLE_SECONDS: Final = 30.0
# The first round ends so long after a stage began; each that follows is twice as long as all before it.
ROUND_SECONDS: Final = 600.0
# Rounds' part of the capital: what finding a candidate that breaks late costs one that is bad from the start, 0.1 nats.
FRESH: Final = 0.1
# The part of the capital that each arm's bets never stake: at a weight of 1 % the control has a hundred times the
# candidate's units.
RESERVE: Final = 0.1
# Alternatives for how many times worse: from 1.4 to 32 times the ratio that is allowed, and as much below it.
TIMES: Final = tuple(2.0 ** (step / 2) for step in range(1, 11))
# The log e-value taken, uncomputed, if the means show the opposite, as they do at most looks at most rollouts.
_LOST: Final = -20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of requests or units, and how many of them were bad."""

    n: int = 0
    bad: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.n:
            raise ValueError(f"`{self.bad}` bad of `{self.n}` cannot be: 0 ≤ bad ≤ n")

    @property
    def rate(self) -> float:
        """The share that is bad; 0 if `n` is 0."""
        return self.bad / self.n if self.n else 0.0

    def without(self, other: "Count") -> "Count":
        """Return what is left when a part is taken out.

        Counts of parts are read at other moments than the whole's, so a part may seem larger than that; nothing is
        left of it then.
        """
        n = max(0, self.n - other.n)
        return Count(n=n, bad=min(n, max(0, self.bad - other.bad)))


NOTHING: Final = Count()
# Entries of (number of bad requests, number of requests, number of units with these).
Over = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """One arm's units, by the share of their requests that were bad for one gate.

    Attributes:
        first: All units, counted by their first request.
        over: Units that have sent enough requests or fallen silent: the number of bad requests, of how many
            (1, 2, 4 or 8), and the number of such units; each kind once, sorted.
    """

    first: Count = NOTHING
    over: Over = ()

    @property
    def rate(self) -> float:
        """The mean share of bad requests: of units that are over, and of first requests as long as these say more."""
        units = sum(each[2] for each in self.over)
        if 2 * units < self.first.n or not units:
            return self.first.rate
        return sum(bad / of * n for bad, of, n in self.over) / units

    @property
    def some_bad(self) -> int:
        """Units that had something bad, as far as they have counted."""
        return max(self.first.bad, sum(n for bad, _, n in self.over if bad))

    def without(self, other: "Shares") -> "Shares":
        """Return what is left when a part is taken out; see `Count.without`."""
        other_units = {(bad, of): n for bad, of, n in other.over}
        units = ((bad, of, n - other_units.get((bad, of), 0)) for bad, of, n in self.over)
        return Shares(first=self.first.without(other.first), over=tuple(each for each in units if each[2] > 0))


NO_SHARES: Final = Shares()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmUnits:
    """One arm's units: each once in the stage, and once more in each round that it called in.

    Attributes:
        whole: The units of the whole stage.
        rounds: Pairs of a round's number, from 1 on, and its units, sorted.
    """

    whole: Shares = NO_SHARES
    rounds: tuple[tuple[int, Shares], ...] = ()

    @property
    def n(self) -> int:
        """The number of units."""
        return self.whole.first.n

    def without(self, other: "ArmUnits") -> "ArmUnits":
        """Return what is left when a part is taken out."""
        other_rounds = dict(other.rounds)
        return ArmUnits(
            whole=self.whole.without(other.whole),
            rounds=tuple((number, each.without(other_rounds.get(number, NO_SHARES))) for number, each in self.rounds),
        )


NO_UNITS: Final = ArmUnits()


def units_of(count: Count) -> ArmUnits:
    """Return the units of a count in which every unit has sent one request."""
    good = count.n - count.bad
    over = ((0, 1, good),) if good else ()
    return ArmUnits(whole=Shares(first=count, over=(*over, (1, 1, count.bad)) if count.bad else over))


def round_of(seconds: float) -> int:
    """Return the round that runs so many seconds after a stage began; 0 is the first ten minutes."""
    number = 0
    while seconds >= ROUND_SECONDS * 2**number:
        number += 1
    return number


def log_worse(control: ArmUnits, candidate: ArmUnits, margin: float) -> float:
    """Return the log e-value, in nats, against "the candidate's mean share is at most control's + margin"."""
    return _with_rounds(control, candidate, lambda one, other: _worse(one, other, margin))


def log_not_worse(control: ArmUnits, candidate: ArmUnits, margin: float) -> float:
    """Return the log e-value, in nats, against "the candidate's mean share is at least control's + margin"."""
    return _not_worse(control.whole, candidate.whole, margin)


def log_above(candidate: ArmUnits, limit: float) -> float:
    """Return the log e-value, in nats, against "the candidate's mean share is at most `limit`"."""
    return _with_rounds(candidate, candidate, lambda _, shares: _one_sided(shares, limit, is_above=True))


def log_below(candidate: ArmUnits, limit: float) -> float:
    """Return the log e-value, in nats, against "the candidate's mean share is at least `limit`"."""
    return _one_sided(candidate.whole, limit, is_above=False)


def log_times_worse(control: ArmUnits, candidate: ArmUnits, ratio: float, weight: int) -> float:
    """Return the log e-value, in nats, against "the candidate's mean share is at most `ratio` times the control's".

    Args:
        control, candidate: Of a step in which units were drawn at a constant weight.
        ratio: Above 0.
        weight: The candidate's, in basis points, in 1..9999.
    """
    return _with_rounds(control, candidate, lambda one, other: _times(one, other, ratio, weight, TIMES))


def log_not_times_worse(control: ArmUnits, candidate: ArmUnits, ratio: float, weight: int) -> float:
    """Return the log e-value, in nats, against "the candidate's mean is at least `ratio` times the control's"."""
    return _times(control.whole, candidate.whole, ratio, weight, tuple(1 / each for each in TIMES))


def mean_of(logs: Sequence[float]) -> float:
    """Return the log of the mean of e-values, given the logs of these."""
    top = max(logs)
    return top if top in (inf, -inf) else top + log(sum(exp(each - top) for each in logs) / len(logs))


def _with_rounds(control: ArmUnits, candidate: ArmUnits, log_e: Callable[[Shares, Shares], float]) -> float:
    whole = log_e(control.whole, candidate.whole)
    rounds = dict(control.rounds)
    parts = [(1 - FRESH, whole)]
    rest = FRESH
    for number, shares in candidate.rounds:
        part = FRESH * 2.0**-number
        rest -= part
        parts.append((part, log_e(rounds.get(number, NO_SHARES), shares)))
    parts.append((rest, 0.0))  # rounds that nobody has called in yet
    top = max(each for _, each in parts)
    return top + log(sum(part * exp(each - top) for part, each in parts))


# Gates are read several times at each look, with and without each account: mostly of counts that stand still.
@lru_cache(maxsize=4096)
def _worse(control: Shares, candidate: Shares, margin: float) -> float:
    def log_e(one: Evidence, other: Evidence) -> float:
        return _LOST if _excess(one, other) <= margin else log_e_worse(other, one, margin, reserve=RESERVE)

    return _either(control, candidate, log_e)


@lru_cache(maxsize=4096)
def _not_worse(control: Shares, candidate: Shares, margin: float) -> float:
    def log_e(one: Evidence, other: Evidence) -> float:
        return _LOST if _excess(one, other) >= margin else log_e_not_worse(other, one, margin, reserve=RESERVE)

    return _either(control, candidate, log_e)


def _excess(control: Evidence, candidate: Evidence) -> float:
    """Return how much worse the candidate's mean is."""
    return (control.mean or 0.0) - (candidate.mean or 0.0)


def _either(control: Shares, candidate: Shares, log_e: Callable[[Evidence, Evidence], float]) -> float:
    first = (_of_first(control.first), _of_first(candidate.first))
    over = (_of_over(control.over), _of_over(candidate.over))
    return mean_of([log_e(*both) if both[0].n and both[1].n else 0.0 for both in (first, over)])


def _one_sided(shares: Shares, limit: float, *, is_above: bool) -> float:
    log_e = log_e_below if is_above else log_e_above  # of goodness
    return mean_of([log_e(each, 1 - limit) for each in (_of_first(shares.first), _of_over(shares.over))])


@lru_cache(maxsize=4096)
def _of_first(count: Count) -> Evidence:
    return Evidence().add(1.0, count.n - count.bad).add(0.0, count.bad)


@lru_cache(maxsize=4096)
def _of_over(over: Over) -> Evidence:
    evidence = Evidence()
    for bad, of, n in over:
        evidence = evidence.add(1 - bad / of, n)
    return evidence


def _times(control: Shares, candidate: Shares, ratio: float, weight: int, times: Sequence[float]) -> float:
    both = [
        [(1.0, True, candidate.first.bad), (1.0, False, control.first.bad)],
        [
            (bad / of, is_candidate, n)
            for is_candidate, shares in ((True, candidate), (False, control))
            for bad, of, n in shares.over
            if bad
        ],
    ]
    return mean_of([mean_of([_log_bet(units, ratio, each, weight) for each in times]) for units in both])


def _log_bet(units: Sequence[tuple[float, bool, int]], ratio: float, times: float, weight: int) -> float:
    allowed, other = _chance(ratio, weight), _chance(ratio * times, weight)
    gain, loss = other / allowed - 1, (1 - other) / (1 - allowed) - 1
    return sum(n * log1p(share * (gain if is_candidate else loss)) for share, is_candidate, n in units)


def _chance(ratio: float, weight: int) -> float:
    """Return the chance that something bad is the candidate's, which is `ratio` times as often bad as control."""
    share = weight / TOTAL_WEIGHT
    return ratio * share / (ratio * share + 1 - share)
