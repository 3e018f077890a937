"""What a rollout's gates are answered with: each stage's requests by the arm they were assigned.

A worker counts, the control plane adds workers and replicas up. Requests and their times
are sums. Units are sets: a unit that meets several workers counts once. They are sampled by
a hash that knows nothing of the arm, so that memory is bounded and the arms' share is not
moved: those whose hash is below a threshold are kept, and it halves whenever there are too many.

What gates read of requests is by unit (`units.py`): for that each worker tells how they ended, and the node makes
units of it, with the sums beside them.

Callers choose their units, so what one account alone says must be told apart: the largest
accounts are counted by name beside the sums of all, and a unit's hash ends with its account's
mark. What is in the sums and under no name is the others'.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from gateway.decide.assign import Arm, sample_hash
from gateway.observe.ledger import DURATION_BOUNDS, Histogram
from gateway.observe.units import CountedUnits, Outcomes, multiplicity
from gateway.pipeline import Exposure

# Units kept for each stage: with 4,096 at 50 % the share is known to 0.8 points.
MAX_UNITS: Final = 4096
_HASH_BITS: Final = 64
# Accounts of a stage that are counted by name. When there are twice as many, the smaller half joins the others.
MAX_ACCOUNTS: Final = 64
# The last bits of a unit's hash, which are its account's: of 64 accounts two share a mark once in 500 times.
_MARK_BITS: Final = 20
_MARK: Final = (1 << _MARK_BITS) - 1
# Stages of one worker at once: those of rollouts that the table names, and the last ones of those before.
MAX_TALLIES: Final = 256
_SERVER_ERROR: Final = 500
# Units whose hash is remembered.
_REMEMBERED: Final = 16_384


class ArmTally(msgspec.Struct, gc=False, kw_only=True):
    """One arm's requests that ran to an end, those of them that failed, their times in seconds, and its units."""

    requests: int = 0
    errors: int = 0
    duration: Histogram = msgspec.field(default_factory=lambda: Histogram.of(DURATION_BOUNDS))
    by_unit: CountedUnits = msgspec.field(default_factory=CountedUnits)

    def add(self, other: "ArmTally") -> None:
        """Add another worker's."""
        self.requests += other.requests
        self.errors += other.errors
        self.duration.add(other.duration)
        self.by_unit.add(other.by_unit)


class UnitSample(msgspec.Struct, kw_only=True):
    """A sample of the units of both arms: of 2**`halvings` units about one is in it."""

    halvings: int = 0
    control: set[int] = msgspec.field(default_factory=set)
    candidate: set[int] = msgspec.field(default_factory=set)

    def see(self, number: int, arm: Arm) -> None:
        """Take note of the unit with this hash (64 bits)."""
        if number >> (_HASH_BITS - self.halvings):
            return
        (self.candidate if arm is Arm.CANDIDATE else self.control).add(number)
        self._shrink()

    def add(self, other: "UnitSample") -> None:
        """Take in another worker's units: the union, at the lower threshold."""
        if other.halvings > self.halvings:
            self._keep_below(other.halvings)
        for mine, theirs in ((self.control, other.control), (self.candidate, other.candidate)):
            mine |= {number for number in theirs if not number >> (_HASH_BITS - self.halvings)}
        self._shrink()

    def _shrink(self) -> None:
        while len(self.control) + len(self.candidate) > MAX_UNITS and self.halvings < _HASH_BITS:
            self._keep_below(self.halvings + 1)

    def _keep_below(self, halvings: int) -> None:
        self.halvings = halvings
        for units in (self.control, self.candidate):
            units -= {number for number in units if number >> (_HASH_BITS - halvings)}


class AccountTally(msgspec.Struct, gc=False, kw_only=True):
    """One account's requests; while it was counted by name, so it may have had more."""

    control: ArmTally = msgspec.field(default_factory=ArmTally)
    candidate: ArmTally = msgspec.field(default_factory=ArmTally)

    @property
    def requests(self) -> int:
        """Of both arms."""
        return self.control.requests + self.candidate.requests

    @property
    def size(self) -> int:
        """By which the largest are found; the node's tallies of units tell no requests."""
        return self.requests + self.control.by_unit.n + self.candidate.by_unit.n

    def add(self, other: "AccountTally") -> None:
        """Add another worker's."""
        self.control.add(other.control)
        self.candidate.add(other.candidate)


class Tally(msgspec.Struct, kw_only=True):
    """One stage of one rollout: all requests, and those of the largest accounts once more, by account.

    `multiplicity` is of what several gateways have counted: see `units.multiplicity`.
    """

    rollout: str
    stage: int
    alias: str = ""
    control: ArmTally = msgspec.field(default_factory=ArmTally)
    candidate: ArmTally = msgspec.field(default_factory=ArmTally)
    units: UnitSample = msgspec.field(default_factory=UnitSample)
    accounts: dict[str, AccountTally] = msgspec.field(default_factory=dict)
    multiplicity: float = 1.0

    def add(self, other: "Tally") -> None:
        """Add another worker's tally of the same stage."""
        self.control.add(other.control)
        self.candidate.add(other.candidate)
        self.units.add(other.units)
        for account, theirs in other.accounts.items():
            self.account(account).add(theirs)

    def account(self, name: str) -> AccountTally:
        """Return what is counted of an account by name, from now on if it was not."""
        found = self.accounts.get(name)
        if found is None:
            if len(self.accounts) >= 2 * MAX_ACCOUNTS:
                largest = sorted(self.accounts, key=lambda each: (-self.accounts[each].size, each))
                self.accounts = {each: self.accounts[each] for each in largest[:MAX_ACCOUNTS]}
            found = self.accounts[name] = AccountTally()
        return found


class Tallies:
    """One worker's tallies.

    Those of a rollout that the table no longer names go with the report after that: who closed
    the rollout has read what counted. A request of it that ends later makes a tally that is
    reported once and goes too.
    """

    __slots__ = ("_by_stage", "_outcomes")

    def __init__(self) -> None:
        self._by_stage: dict[tuple[str, int], Tally] = {}
        self._outcomes: dict[tuple[str, int], Outcomes] = {}

    def count(self, exposure: Exposure, *, is_error: bool, seconds: float) -> None:
        """Count a request that has ended while its client was there, and note how for its unit."""
        tally = self._tally(exposure)
        account = tally.accounts.get(exposure.account) or tally.account(exposure.account)
        place = bisect_left(DURATION_BOUNDS, seconds)
        is_candidate = exposure.arm is Arm.CANDIDATE
        for counted in (tally, account):
            arm = counted.candidate if is_candidate else counted.control
            arm.requests += 1
            arm.errors += is_error
            arm.duration.counts[place] += 1
            arm.duration.sum += seconds
        unit = _see(tally, exposure)
        if unit is not None:
            threshold = exposure.tag.threshold_seconds
            self._of(exposure).add(
                unit,
                exposure.account,
                is_candidate=is_candidate,
                is_bad=is_error,
                is_slow=None if threshold is None else seconds > threshold,
            )

    def left(self, exposure: Exposure) -> None:
        """Count the unit of a request whose client has left.

        The request tells nothing of either arm. Its unit was assigned like any other: left out,
        the clients that a slow arm drives away would look like a split that is off.
        """
        _see(self._tally(exposure), exposure)

    def _tally(self, exposure: Exposure) -> Tally:
        tag = exposure.tag
        tally = self._by_stage.get((tag.id, tag.stage))
        if tally is None:
            while len(self._by_stage) >= MAX_TALLIES:  # the oldest first
                del self._by_stage[next(iter(self._by_stage))]
            tally = Tally(rollout=tag.id, stage=tag.stage, alias=exposure.alias)
            self._by_stage[tag.id, tag.stage] = tally
        return tally

    def _of(self, exposure: Exposure) -> Outcomes:
        tag = exposure.tag
        found = self._outcomes.get((tag.id, tag.stage))
        if found is None:
            found = self._outcomes[tag.id, tag.stage] = Outcomes(
                rollout=tag.id, stage=tag.stage, alias=exposure.alias, entered_at=tag.entered_at
            )
        return found

    def outcomes(self) -> list[Outcomes]:
        """Return how requests have ended since this was last asked."""
        told, self._outcomes = list(self._outcomes.values()), {}
        return told

    def report(self, rollouts: Collection[str]) -> list[Tally]:
        """Return every tally, and drop those of rollouts that are not among the open ones."""
        told = list(self._by_stage.values())
        for key in [key for key in self._by_stage if key[0] not in rollouts]:
            del self._by_stage[key]
        return told


def _see(tally: Tally, exposure: Exposure) -> int | None:
    """Take note of a request's unit, and return its hash; None where nothing is split."""
    if exposure.unit is None:
        return None
    number = _hash_of(exposure.tag.id, exposure.account, exposure.unit)
    tally.units.see(number, exposure.arm)
    return number


@lru_cache(maxsize=_REMEMBERED)
def _hash_of(rollout: str, account: str, unit: str) -> int:
    return sample_hash(rollout, f"{account}\x1f{unit}") & ~_MARK | mark_of(account)


@lru_cache(maxsize=4096)
def mark_of(account: str) -> int:
    """Return what the hashes of an account's units end with; see `marks`."""
    return sample_hash("account", account) & _MARK


def marks(units: Iterable[int]) -> Counter[int]:
    """Return how many of the units each account has, by the account's mark."""
    return Counter(number & _MARK for number in units)


def is_failure(exposure: Exposure, served: Arm | None, status: int, *, is_in_band: bool) -> bool:
    """Whether a request counts against the arm it was assigned.

    It does if its caller got a 5xx or an error in its stream, and also if control had to serve
    what the candidate could not: a candidate that cannot start must not look healthy.

    Args:
        exposure: What it was assigned.
        served: The arm that served it; None if none did.
        status: What its caller got.
        is_in_band: Whether its stream ended with an error.
    """
    return is_in_band or status >= _SERVER_ERROR or served is not exposure.arm


def summed(reports: Iterable[Iterable[Tally]]) -> list[Tally]:
    """Return the sums over workers or replicas, one tally for each stage, in order; what is given stays as it is."""
    total: dict[tuple[str, int], Tally] = {}
    for tallies in reports:
        for tally in tallies:
            key = (tally.rollout, tally.stage)
            if key not in total:
                total[key] = Tally(rollout=tally.rollout, stage=tally.stage, alias=tally.alias)
            total[key].add(tally)
    return [total[key] for key in sorted(total)]


def shared(replicas: Sequence[Tally]) -> Tally:
    """Return what several gateways have counted of one stage, with how often they have counted the same units.

    Args:
        replicas: One tally of each; at least one.
    """
    (total,) = summed([[each] for each in replicas])
    halvings = total.units.halvings
    samples = []
    for each in replicas:
        numbers = each.units.control | each.units.candidate
        samples.append({number for number in numbers if not number >> (_HASH_BITS - halvings)})
    total.multiplicity = multiplicity(samples)
    return total
