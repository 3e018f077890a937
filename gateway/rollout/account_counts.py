"""A stage's counts by account: of each of the largest accounts by name, and of all others together. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.observe.ledger import DURATION_BOUNDS
from gateway.observe.tally import MAX_ACCOUNTS, ArmTally, Tally, mark_of, marks
from gateway.observe.units import WHOLE, UnitShares
from gateway.rollout.gates.traffic import OTHERS
from gateway.rollout.gates.unit_shares import NO_SHARES, NO_UNITS, ArmUnits, Count, Shares

# An account with fewer requests in a stage does not count as a caller: otherwise one trial request would make the gates
# of an alias with a single application wait for evidence from a second caller.
FEWEST_REQUESTS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """One arm's requests in one stage.

    Attributes:
        requests, errors: How many, and how many of them failed.
        durations: (n_buckets + 1,) requests by `DURATION_BOUNDS`.
        units: Distinct units among a sample of all units.
        failing, slow: All units, each once, by their requests that failed, or that were slow.
    """

    requests: int = 0
    errors: int = 0
    durations: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    units: int = 0
    failing: ArmUnits = NO_UNITS
    slow: ArmUnits = NO_UNITS

    def without(self, other: "ArmCounts") -> "ArmCounts":
        """Return what is left when a part is taken out."""
        return ArmCounts(
            requests=max(0, self.requests - other.requests),
            errors=max(0, self.errors - other.errors),
            durations=tuple(max(0, all_ - part) for all_, part in zip(self.durations, other.durations, strict=True)),
            units=max(0, self.units - other.units),
            failing=self.failing.without(other.failing),
            slow=self.slow.without(other.slow),
        )


NO_COUNTS: Final = ArmCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCounts:
    """One account's requests in one stage; under `OTHERS`, those of all that have no name of their own."""

    account: str
    control: ArmCounts = NO_COUNTS
    candidate: ArmCounts = NO_COUNTS

    @property
    def requests(self) -> int:
        """Of both arms."""
        return self.control.requests + self.candidate.requests

    @property
    def units(self) -> int:
        """Of both arms, among the sample of all units."""
        return self.control.units + self.candidate.units


def arm_counts(tally: ArmTally, units: int) -> ArmCounts:
    """Return what was counted of an arm."""
    return ArmCounts(
        requests=tally.requests,
        errors=tally.errors,
        durations=tuple(tally.duration.counts),
        units=units,
        failing=_units(tally.by_unit.failing),
        slow=_units(tally.by_unit.slow),
    )


def _units(rounds: Mapping[int, UnitShares]) -> ArmUnits:
    found = {number: _shares(each) for number, each in sorted(rounds.items())}
    return ArmUnits(whole=found.pop(WHOLE, NO_SHARES), rounds=tuple(found.items()))


def _shares(unit_shares: UnitShares) -> Shares:
    over = []
    for share, units in unit_shares.over.items():
        bad, of = share.split("/")
        over.append((int(bad), int(of), units))
    return Shares(first=Count(n=unit_shares.n, bad=unit_shares.bad), over=tuple(sorted(over)))


def accounts_of(tally: Tally) -> tuple[AccountCounts, ...]:
    """Return a stage's counts by account, the largest first; empty where accounts were not counted."""
    control_units, candidate_units = marks(tally.units.control), marks(tally.units.candidate)
    found = [
        AccountCounts(
            account=name,
            control=arm_counts(each.control, control_units[mark_of(name)]),
            candidate=arm_counts(each.candidate, candidate_units[mark_of(name)]),
        )
        for name, each in tally.accounts.items()
    ]
    if not found:
        return ()
    named = _largest_first(found)[:MAX_ACCOUNTS]
    control = arm_counts(tally.control, len(tally.units.control))
    candidate = arm_counts(tally.candidate, len(tally.units.candidate))
    for each in named:
        control, candidate = control.without(each.control), candidate.without(each.candidate)
    rest = AccountCounts(account=OTHERS, control=control, candidate=candidate)
    return tuple(_largest_first([*named, rest] if rest.requests else named))


def _largest_first(accounts: Iterable[AccountCounts]) -> list[AccountCounts]:
    return sorted(accounts, key=lambda each: (-each.requests, each.account))


def callers_of(accounts: Sequence[AccountCounts]) -> int:
    """Return how many accounts call, stray requests aside; all that have no name of their own are one."""
    return sum(each.requests >= FEWEST_REQUESTS for each in accounts)
