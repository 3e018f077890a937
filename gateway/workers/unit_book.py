"""Merges the outcomes that workers report into units, for all stages of rollouts; the result is tallies by unit."""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from gateway.observe.tally import MAX_ACCOUNTS, AccountTally, ArmTally, Tally
from gateway.observe.units import AccountUnits, CountedUnits, Outcomes, StageUnits

# The most stages at once; beyond it the oldest are dropped. Stages of ended rollouts are dropped by `tallies`.
MAX_STAGES: Final = 1024


class UnitBook:
    """The units of all stages. One unit's requests may be served by several workers, so only the node can count units.

    Args:
        now: Returns Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stages: dict[tuple[str, int], tuple[str, StageUnits]] = {}

    def take(self, report: Iterable[Outcomes]) -> None:
        """Add the outcomes of a worker's report."""
        now = self._now()
        for outcomes in report:
            key = (outcomes.rollout, outcomes.stage)
            if key not in self._stages:
                while len(self._stages) >= MAX_STAGES:
                    del self._stages[next(iter(self._stages))]
                self._stages[key] = (outcomes.alias, StageUnits(outcomes.entered_at))
            self._stages[key][1].take(outcomes, now)

    def tallies(self, rollouts: Collection[str]) -> list[Tally]:
        """Return the tallies by unit of these rollouts' stages, and forget those of all other rollouts."""
        self._stages = {key: each for key, each in self._stages.items() if key[0] in rollouts}
        found, now = [], self._now()
        for (rollout, stage), (alias, units) in self._stages.items():
            units.close(now)
            found.append(_tally(Tally(rollout=rollout, stage=stage, alias=alias), units.accounts))
        return found


def _tally(tally: Tally, accounts: dict[str, AccountUnits]) -> Tally:
    for each in accounts.values():
        tally.control.by_unit.add(each.control)
        tally.candidate.by_unit.add(each.candidate)
    largest = sorted(accounts, key=lambda name: (-accounts[name].control.n - accounts[name].candidate.n, name))
    for name in largest[: 2 * MAX_ACCOUNTS]:
        each = accounts[name]
        tally.accounts[name] = AccountTally(control=_arm(each.control), candidate=_arm(each.candidate))
    return tally


def _arm(units: CountedUnits) -> ArmTally:
    arm = ArmTally()
    arm.by_unit.add(units)
    return arm
