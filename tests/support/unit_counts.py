"""What workers tell of units, and the node makes of that, for tests of the gates that read it."""

from collections.abc import Collection

from gateway.decide.exposure import Exposure
from gateway.observe.tally import Tallies, Tally, sum_tallies
from gateway.observe.units import CountedUnits, UnitShares
from gateway.workers.unit_book import UnitBook


class Worker:
    """A worker's tallies, and its node's book of units."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self.tallies = Tallies()
        self.book = UnitBook(lambda: self.now)

    def count(self, exposure: Exposure, *, is_error: bool, seconds: float = 0.1) -> None:
        """Count a request that has ended."""
        self.tallies.count(exposure, is_error=is_error, seconds=seconds)

    def report(self, rollouts: Collection[str]) -> list[Tally]:
        """Return what the node tells the store."""
        self.book.take(self.tallies.outcomes())
        return sum_tallies([self.tallies.report(rollouts), self.book.tallies(rollouts)])


def by_unit(n: int, bad: int) -> CountedUnits:
    """Return units of one request each, of which so many failed; none is known to be slow or quick."""
    over = {"0/1": n - bad, "1/1": bad}
    return CountedUnits(
        failing={0: UnitShares(n=n, bad=bad, over={share: units for share, units in over.items() if units})}
    )
