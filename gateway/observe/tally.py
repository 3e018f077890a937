"""The evidence for a rollout's traffic gates: each stage's requests, by the arm that they were assigned.

A worker counts; the control plane adds workers and replicas up. Requests and their durations are sums. Units are sets,
so a unit that several workers serve counts once. Memory is bounded by sampling units by a hash that does not depend on
the arm, so sampling does not bias the split: units whose hash is below a threshold are kept, and the threshold is
halved whenever there are too many.

Gates judge requests by unit (`units.py`): each worker reports how requests ended, and the node groups them into units.

Callers choose their unit names, so the influence of a single account must be separable. The largest accounts are also
counted by name beside the totals, and the last bits of a unit's hash identify its account. Requests in the totals that
are under no name belong to the other accounts.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from gateway.decide.assign import Arm, sample_hash
from gateway.decide.exposure import Exposure
from gateway.observe.ledger import DURATION_BOUNDS, Histogram
from gateway.observe.units import CountedUnits, Outcomes, multiplicity

# Units that are kept for each stage: 4,096 units at a 50 % split give the share to 0.8 percentage points.
MAX_UNITS: Final = 4096
_HASH_BITS: Final = 64
# Accounts of a stage that are counted by name. At twice as many, the smaller half is no longer counted by name.
MAX_ACCOUNTS: Final = 64
# The last bits of a unit's hash identify its account. Two of 64 accounts share these bits in one of 500 cases.
_MARK_BITS: Final = 20
_MARK: Final = (1 << _MARK_BITS) - 1
# Stages that one worker keeps: those of rollouts in the route table, and the most recent ones of earlier rollouts.
MAX_TALLIES: Final = 256
_SERVER_ERROR: Final = 500
# Units whose hash is cached.
_CACHED_HASHES: Final = 16_384


class ArmTally(msgspec.Struct, gc=False, kw_only=True):
    """One arm's completed requests, how many of them failed, their durations in seconds, and its units."""

    requests: int = 0
    errors: int = 0
    duration: Histogram = msgspec.field(default_factory=lambda: Histogram.of(DURATION_BOUNDS))
    by_unit: CountedUnits = msgspec.field(default_factory=CountedUnits)

    def add(self, other: "ArmTally") -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.duration.add(other.duration)
        self.by_unit.add(other.by_unit)


class UnitSample(msgspec.Struct, kw_only=True):
    """A sample of both arms' units: about one of 2**`halvings` units is in it."""

    halvings: int = 0
    control: set[int] = msgspec.field(default_factory=set)
    candidate: set[int] = msgspec.field(default_factory=set)

    def see(self, number: int, arm: Arm) -> None:
        """Add the unit with this 64-bit hash, if the sample's threshold includes it."""
        if number >> (_HASH_BITS - self.halvings):
            return
        (self.candidate if arm is Arm.CANDIDATE else self.control).add(number)
        self._shrink()

    def add(self, other: "UnitSample") -> None:
        """Merge another worker's sample: the union of both, at the lower of the two thresholds."""
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
    """One account's requests since it is counted by name; requests before that are only in the totals."""

    control: ArmTally = msgspec.field(default_factory=ArmTally)
    candidate: ArmTally = msgspec.field(default_factory=ArmTally)

    @property
    def requests(self) -> int:
        return self.control.requests + self.candidate.requests

    @property
    def size(self) -> int:
        """The measure by which the largest accounts are chosen; the node's tallies hold units and no requests."""
        return self.requests + self.control.by_unit.n + self.candidate.by_unit.n

    def add(self, other: "AccountTally") -> None:
        self.control.add(other.control)
        self.candidate.add(other.candidate)


class Tally(msgspec.Struct, kw_only=True):
    """One stage of one rollout: all requests, and those of the largest accounts a second time by account.

    `multiplicity` is set where several gateways were added up; see `units.multiplicity`.
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
        self.control.add(other.control)
        self.candidate.add(other.candidate)
        self.units.add(other.units)
        for account, theirs in other.accounts.items():
            self.account(account).add(theirs)

    def account(self, name: str) -> AccountTally:
        """Return the tally of an account that is counted by name; start one if there is none."""
        found = self.accounts.get(name)
        if found is None:
            if len(self.accounts) >= 2 * MAX_ACCOUNTS:
                largest = sorted(self.accounts, key=lambda each: (-self.accounts[each].size, each))
                self.accounts = {each: self.accounts[each] for each in largest[:MAX_ACCOUNTS]}
            found = self.accounts[name] = AccountTally()
        return found


class Tallies:
    """One worker's tallies.

    When the route table no longer names a rollout, its tallies are dropped after the next report: the control plane has
    read all counts that mattered when it closed the rollout. A request of that rollout that ends later makes a new
    tally, which is reported once and dropped too.
    """

    __slots__ = ("_by_stage", "_outcomes")

    def __init__(self) -> None:
        self._by_stage: dict[tuple[str, int], Tally] = {}
        self._outcomes: dict[tuple[str, int], Outcomes] = {}

    def count(self, exposure: Exposure, *, is_error: bool, seconds: float) -> None:
        """Count a request that ended while its client was connected, and record the outcome for its unit."""
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
            self._outcomes_of(exposure).add(
                unit,
                exposure.account,
                is_candidate=is_candidate,
                is_bad=is_error,
                is_slow=None if threshold is None else seconds > threshold,
            )

    def count_departure(self, exposure: Exposure) -> None:
        """Count only the unit of a request whose client disconnected.

        Such a request says nothing about either arm's quality. Its unit must count all the same: without it, clients
        that a slow arm drives away would make the split look wrong.
        """
        _see(self._tally(exposure), exposure)

    def _tally(self, exposure: Exposure) -> Tally:
        tag = exposure.tag
        tally = self._by_stage.get((tag.id, tag.stage))
        if tally is None:
            while len(self._by_stage) >= MAX_TALLIES:  # drop the oldest first
                del self._by_stage[next(iter(self._by_stage))]
            tally = Tally(rollout=tag.id, stage=tag.stage, alias=exposure.alias)
            self._by_stage[tag.id, tag.stage] = tally
        return tally

    def _outcomes_of(self, exposure: Exposure) -> Outcomes:
        tag = exposure.tag
        found = self._outcomes.get((tag.id, tag.stage))
        if found is None:
            found = self._outcomes[tag.id, tag.stage] = Outcomes(
                rollout=tag.id, stage=tag.stage, alias=exposure.alias, entered_at=tag.entered_at
            )
        return found

    def outcomes(self) -> list[Outcomes]:
        """Return the outcomes of requests since the last call."""
        outcomes, self._outcomes = list(self._outcomes.values()), {}
        return outcomes

    def report(self, rollouts: Collection[str]) -> list[Tally]:
        """Return every tally, and drop those of rollouts that are not among the open `rollouts`."""
        tallies = list(self._by_stage.values())
        for key in [key for key in self._by_stage if key[0] not in rollouts]:
            del self._by_stage[key]
        return tallies


def _see(tally: Tally, exposure: Exposure) -> int | None:
    """Add a request's unit to the sample, and return its hash; None where traffic is not split by unit."""
    if exposure.unit is None:
        return None
    number = _hash_of(exposure.tag.id, exposure.account, exposure.unit)
    tally.units.see(number, exposure.arm)
    return number


@lru_cache(maxsize=_CACHED_HASHES)
def _hash_of(rollout: str, account: str, unit: str) -> int:
    return sample_hash(rollout, f"{account}\x1f{unit}") & ~_MARK | mark_of(account)


@lru_cache(maxsize=4096)
def mark_of(account: str) -> int:
    """Return the last bits of the hashes of an account's units, which identify the account; see `marks`."""
    return sample_hash("account", account) & _MARK


def marks(units: Iterable[int]) -> Counter[int]:
    """Return how many of the units belong to each account, by the account's mark."""
    return Counter(number & _MARK for number in units)


def is_failure(exposure: Exposure, served: Arm | None, status: int, *, is_in_band: bool) -> bool:
    """Whether a request counts as a failure of the arm that it was assigned.

    It does if its caller got a 5xx status or an error in its stream. It also does if control served it although the
    candidate was assigned: a candidate that cannot start must not look healthy.

    Args:
        exposure: The arm that the request was assigned.
        served: The arm that served it; None if none did.
        status: The HTTP status that its caller got.
        is_in_band: Whether its stream ended with an error.
    """
    return is_in_band or status >= _SERVER_ERROR or served is not exposure.arm


def sum_tallies(reports: Iterable[Iterable[Tally]]) -> list[Tally]:
    """Return the sum over workers or replicas: one new tally for each stage, in order."""
    total: dict[tuple[str, int], Tally] = {}
    for tallies in reports:
        for tally in tallies:
            key = (tally.rollout, tally.stage)
            if key not in total:
                total[key] = Tally(rollout=tally.rollout, stage=tally.stage, alias=tally.alias)
            total[key].add(tally)
    return [total[key] for key in sorted(total)]


def combine_replicas(replicas: Sequence[Tally]) -> Tally:
    """Return the sum of several gateways' tallies of one stage, with the multiplicity of their units.

    Args:
        replicas: One tally of each gateway; at least one.
    """
    (total,) = sum_tallies([[each] for each in replicas])
    halvings = total.units.halvings
    samples = []
    for each in replicas:
        numbers = each.units.control | each.units.candidate
        samples.append({number for number in numbers if not number >> (_HASH_BITS - halvings)})
    total.multiplicity = multiplicity(samples)
    return total
