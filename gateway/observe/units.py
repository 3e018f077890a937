"""Each unit's first requests in a stage, over all workers of a gateway: the data that gates on live traffic judge.

Several workers may serve one unit's requests, and the unit must count once. So workers report outcomes, and the node
groups them into units. A unit is open from its first request, and ends with its eighth request or after 30 s without
one. It counts by its first request at once, and by its share when it ends (`rollout/gates/unit_shares.py`). Only sums
are kept of it then, and its number, so that it does not count a second time.

Gateways do not share their units, so a unit that calls at two gateways counts at both. How often that happens is
estimated from the samples of units in the tallies (`multiplicity`), and the evidence is reduced accordingly.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from gateway.rollout.gates.unit_shares import IDLE_SECONDS, MAX_REQUESTS, round_of

# Outcomes of one worker and stage between two reports. Outcomes beyond are only counted as lost: evidence then grows
# no faster, and nothing else is affected.
MAX_OUTCOMES: Final = 50_000
MAX_OPEN: Final = 100_000
# Units that are remembered as counted in one stage, some 100 bytes each. A unit that calls again after this many other
# units counts as a new one.
MAX_COUNTED: Final = 200_000
# Stands for the whole stage where a round's number is expected.
WHOLE: Final = 0
_BAD, _SLOW, _TIMED, _CANDIDATE = 1, 2, 4, 8


class Outcomes(msgspec.Struct, kw_only=True):
    """How requests of one stage ended since the last report, in order.

    Attributes:
        rollout, stage, alias, entered_at: The stage, and when it began, in Unix seconds.
        units: (n,) 64-bit hashes.
        accounts: (n,) account of each unit.
        marks: (n,) bit sets: the request failed, it was slow, its slowness is known, it was the candidate's.
        lost: Requests beyond `MAX_OUTCOMES`.
    """

    rollout: str
    stage: int
    alias: str
    entered_at: float
    units: list[int] = msgspec.field(default_factory=list)
    accounts: list[str] = msgspec.field(default_factory=list)
    marks: list[int] = msgspec.field(default_factory=list)
    lost: int = 0

    def add(self, unit: int, account: str, *, is_candidate: bool, is_bad: bool, is_slow: bool | None) -> None:
        """Add a request that has ended; `is_slow` is None while the stage's latency threshold is unknown."""
        if len(self.units) >= MAX_OUTCOMES:
            self.lost += 1
            return
        self.units.append(unit)
        self.accounts.append(account)
        mark = _BAD * is_bad | _CANDIDATE * is_candidate
        self.marks.append(mark if is_slow is None else mark | _TIMED | _SLOW * is_slow)


class UnitShares(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Units of one arm as one gate counts them: by their first request, and by their share of bad requests at their
    end.

    Attributes:
        n, bad: Units, and units whose first request was bad.
        over: `bad/of` → units that ended with that share.
    """

    n: int = 0
    bad: int = 0
    over: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, other: "UnitShares") -> None:
        self.n += other.n
        self.bad += other.bad
        for share, units in other.over.items():
            self.over[share] = self.over.get(share, 0) + units


class CountedUnits(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One arm's units by round (0 is the whole stage), as `error_rate` counts them and as `latency` does."""

    failing: dict[int, UnitShares] = msgspec.field(default_factory=dict)
    slow: dict[int, UnitShares] = msgspec.field(default_factory=dict)

    @property
    def n(self) -> int:
        found = self.failing.get(WHOLE)
        return found.n if found is not None else 0

    def add(self, other: "CountedUnits") -> None:
        for mine, theirs in ((self.failing, other.failing), (self.slow, other.slow)):
            for number, shares in theirs.items():
                mine.setdefault(number, UnitShares()).add(shares)


class _Open(msgspec.Struct, gc=False):
    """A unit that has not ended: the rounds it counts in, and one bit for each request, the first in the lowest bit."""

    rounds: tuple[int, ...]
    account: str
    is_candidate: bool
    is_timed: bool
    n: int
    bad: int
    slow: int
    last: float


class AccountUnits(msgspec.Struct, kw_only=True):
    """The units of one account in one stage, by arm."""

    control: CountedUnits = msgspec.field(default_factory=CountedUnits)
    candidate: CountedUnits = msgspec.field(default_factory=CountedUnits)


class StageUnits:
    """The units of one stage; only one thread may write.

    Args:
        entered_at: When the stage began, Unix seconds.
    """

    def __init__(self, entered_at: float) -> None:
        self._entered_at = entered_at
        # Not a plain dict: finding its first entry gets ever slower when the first entries are deleted all the time.
        self._open: OrderedDict[int, _Open] = OrderedDict()  # least recent call first
        self._counted: OrderedDict[int, int] = OrderedDict()  # unit → the last round that it counted in
        self.accounts: dict[str, AccountUnits] = {}

    def take(self, outcomes: Outcomes, now: float) -> None:
        """Add outcomes that a worker reports.

        Args:
            outcomes: In the order in which the requests ended.
            now: Unix seconds.
        """
        for unit, account, mark in zip(outcomes.units, outcomes.accounts, outcomes.marks, strict=True):
            found = self._open.pop(unit, None)
            if found is None:
                found = self._open_unit(unit, account, mark, now)
                if found is None:
                    continue
            found.bad |= (mark & _BAD) << found.n
            found.slow |= bool(mark & _SLOW) << found.n
            found.n += 1
            found.last = now
            if found.n == MAX_REQUESTS:
                self._end(found)
            else:
                self._open[unit] = found
        while len(self._open) > MAX_OPEN:
            self._end(self._open.popitem(last=False)[1])

    def close(self, now: float) -> None:
        """End the units that have made no request for `IDLE_SECONDS`."""
        while self._open and next(iter(self._open.values())).last <= now - IDLE_SECONDS:
            self._end(self._open.popitem(last=False)[1])

    def _open_unit(self, unit: int, account: str, mark: int, now: float) -> _Open | None:
        """Return a new open unit; None if the unit has already counted in this round of the stage."""
        round_ = round_of(now - self._entered_at)
        counted = self._counted.get(unit)
        if counted is not None and counted >= round_:
            return None
        rounds = (WHOLE,) if counted is None else ()
        opened = _Open(
            rounds=(*rounds, round_) if round_ else rounds,
            account=account,
            is_candidate=bool(mark & _CANDIDATE),
            is_timed=bool(mark & _TIMED),
            n=0,
            bad=0,
            slow=0,
            last=now,
        )
        for gate, is_bad in self._gates(opened, mark & _BAD, mark & _SLOW):
            for number in opened.rounds:
                shares = gate.setdefault(number, UnitShares())
                shares.n += 1
                shares.bad += is_bad > 0
        self._counted.pop(unit, None)
        self._counted[unit] = round_
        while len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)
        return opened

    def _gates(self, unit: _Open, bad: int, slow: int) -> Sequence[tuple[dict[int, UnitShares], int]]:
        account = self.accounts.setdefault(unit.account, AccountUnits())
        arm = account.candidate if unit.is_candidate else account.control
        return ((arm.failing, bad), (arm.slow, slow)) if unit.is_timed else ((arm.failing, bad),)

    def _end(self, found: _Open) -> None:
        of = 1 << (found.n.bit_length() - 1)  # judge the largest power of two of its first requests
        for gate, bits in self._gates(found, found.bad, found.slow):
            share = f"{(bits & ((1 << of) - 1)).bit_count()}/{of}"
            for number in found.rounds:
                over = gate[number].over
                over[share] = over.get(share, 0) + 1


def multiplicity(samples: Iterable[Collection[int]]) -> float:
    """Return how many gateways a counted unit called at, as a mean over all counts.

    A unit that called at c gateways was counted c times, so it has weight c in the mean.

    Args:
        samples: For each gateway, the units that it has seen, sampled by the same hash.

    Returns:
        At least 1.
    """
    called: dict[int, int] = {}
    for sample in samples:
        for unit in sample:
            called[unit] = called.get(unit, 0) + 1
    total = sum(called.values())
    return sum(count * count for count in called.values()) / total if total else 1.0
