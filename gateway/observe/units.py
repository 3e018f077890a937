"""Each unit's first requests in a stage, over all workers of a gateway: what gates on live traffic are answered with.

A unit's requests meet several workers, and it must count once. So workers tell outcomes, and the
node makes units of them: a unit is open from its first request on, and over with its eighth, or after
30 s of silence. Only then, and for its first request at once, does it count (`rollout/gates/unit_shares.py`). Sums
are all that is kept of it, beside its number, so that it does not count again.

Gateways do not share their units. One that calls at two of them counts at both; how often that is the case is seen
from the samples of units that tallies have anyway (`multiplicity`), and evidence is made smaller by it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from gateway.rollout.gates.unit_shares import IDLE_SECONDS, MAX_REQUESTS, round_of

# Of one worker between two reports, and of one stage: with more, evidence grows no faster; nothing else is lost.
MAX_OUTCOMES: Final = 50_000
MAX_OPEN: Final = 100_000
# Units that are known to have counted in one stage, some 100 bytes each: one that calls again after as many others
# have counts as another.
MAX_COUNTED: Final = 200_000
# Of the whole stage, in the place of a round's number.
WHOLE: Final = 0
_BAD, _SLOW, _TIMED, _CANDIDATE = 1, 2, 4, 8


class Outcomes(msgspec.Struct, kw_only=True):
    """How requests of one stage ended, in order, since the last report.

    Attributes:
        rollout, stage, alias, entered_at: Of which stage, and when it began, in Unix seconds.
        units: (n,) 64-bit hashes.
        accounts: (n,) whose.
        marks: (n,) bits: bad, slow, whether it is known above what time it is slow, of the candidate.
        lost: How many more there were.
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
        """Add a request that has ended; `is_slow` is None while nobody can say what slow is."""
        if len(self.units) >= MAX_OUTCOMES:
            self.lost += 1
            return
        self.units.append(unit)
        self.accounts.append(account)
        mark = _BAD * is_bad | _CANDIDATE * is_candidate
        self.marks.append(mark if is_slow is None else mark | _TIMED | _SLOW * is_slow)


class UnitShares(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Units of one arm in the sense of one gate: by their first request, and by their share when they are over.

    Attributes:
        n, bad: How many, and of how many the first request was bad.
        over: `bad/of` → how many are over with that share.
    """

    n: int = 0
    bad: int = 0
    over: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, other: "UnitShares") -> None:
        """Add another gateway's."""
        self.n += other.n
        self.bad += other.bad
        for share, units in other.over.items():
            self.over[share] = self.over.get(share, 0) + units


class CountedUnits(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One arm's units, by round (0: of the whole stage), in the sense of `error_rate` and of `latency`."""

    failing: dict[int, UnitShares] = msgspec.field(default_factory=dict)
    slow: dict[int, UnitShares] = msgspec.field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many units."""
        found = self.failing.get(WHOLE)
        return found.n if found is not None else 0

    def add(self, other: "CountedUnits") -> None:
        """Add another gateway's."""
        for mine, theirs in ((self.failing, other.failing), (self.slow, other.slow)):
            for number, shares in theirs.items():
                mine.setdefault(number, UnitShares()).add(shares)


class _Open(msgspec.Struct, gc=False):
    """A unit that is not over: where it counts, and bits of its requests, the first lowest."""

    rounds: tuple[int, ...]
    account: str
    is_candidate: bool
    is_timed: bool
    n: int
    bad: int
    slow: int
    last: float


class Counted(msgspec.Struct, kw_only=True):
    """What one account's units of one stage came to."""

    control: CountedUnits = msgspec.field(default_factory=CountedUnits)
    candidate: CountedUnits = msgspec.field(default_factory=CountedUnits)


class StageUnits:
    """The units of one stage; one writer.

    Args:
        entered_at: When the stage began, Unix seconds.
    """

    def __init__(self, entered_at: float) -> None:
        self._entered_at = entered_at
        # Ordered, not plain: of a plain dict that loses its first entries all the time, the first is found ever slower.
        self._open: OrderedDict[int, _Open] = OrderedDict()  # those that called last are last
        self._counted: OrderedDict[int, int] = OrderedDict()  # unit → the last round that it counted in
        self.accounts: dict[str, Counted] = {}

    def take(self, outcomes: Outcomes, now: float) -> None:
        """Take what a worker tells.

        Args:
            outcomes: In order.
            now: Unix seconds.
        """
        for unit, account, mark in zip(outcomes.units, outcomes.accounts, outcomes.marks, strict=True):
            found = self._open.pop(unit, None)
            if found is None:
                found = self._begun(unit, account, mark, now)
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
        """Count the units that have been silent for long."""
        while self._open and next(iter(self._open.values())).last <= now - IDLE_SECONDS:
            self._end(self._open.popitem(last=False)[1])

    def _begun(self, unit: int, account: str, mark: int, now: float) -> _Open | None:
        """Return a unit that calls for the first time in the stage or in the round; None of one that does not."""
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
        account = self.accounts.setdefault(unit.account, Counted())
        arm = account.candidate if unit.is_candidate else account.control
        return ((arm.failing, bad), (arm.slow, slow)) if unit.is_timed else ((arm.failing, bad),)

    def _end(self, found: _Open) -> None:
        of = 1 << (found.n.bit_length() - 1)  # the largest power of two that it has sent
        for gate, bits in self._gates(found, found.bad, found.slow):
            share = f"{(bits & ((1 << of) - 1)).bit_count()}/{of}"
            for number in found.rounds:
                over = gate[number].over
                over[share] = over.get(share, 0) + 1


def multiplicity(samples: Iterable[Collection[int]]) -> float:
    """Return at how many gateways the units of a stage have called, in the mean over what these have counted.

    A unit that called at c gateways is c of what they have counted together, so it has that part in the mean.

    Args:
        samples: Of each gateway the units that it has seen, alike by hash.

    Returns:
        At least 1.
    """
    called: dict[int, int] = {}
    for sample in samples:
        for unit in sample:
            called[unit] = called.get(unit, 0) + 1
    total = sum(called.values())
    return sum(count * count for count in called.values()) / total if total else 1.0
