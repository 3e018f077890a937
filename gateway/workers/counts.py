"""The counts of workers, added up over those that run and those that have ended."""

from collections.abc import Iterable
from typing import Final

from gateway.observe.engine_counts import PlacementCounts, sum_placements
from gateway.observe.ledger import Cell, sum_cells
from gateway.observe.mirror_counts import MirrorCounts, sum_copies
from gateway.observe.tally import Tally, sum_tallies
from gateway.workers.channel import WorkerReport

# For how many stages of rollouts the counts of ended workers are kept.
MAX_PAST_TALLIES: Final = 256


class WorkerCounts:
    """The counts that one worker last reported, or the sum of those of all ended workers."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.placement = PlacementCounts()
        self.tallies: list[Tally] = []
        self.mirror = MirrorCounts()

    def take(self, report: WorkerReport) -> None:
        """Replace the counts by a worker's report, which covers all since the worker started."""
        self.cells = report.cells
        self.placement = report.placement
        self.tallies = report.tallies
        self.mirror = report.mirror

    def absorb(self, ended: "WorkerCounts") -> None:
        """Add the counts of a worker that has ended, without what was in flight."""
        for cell in ended.cells:
            cell.in_flight = 0
        self.cells = sum_cells([self.cells, ended.cells])
        ended.placement.forget_now()
        self.placement.add(ended.placement)
        self.tallies = sum_tallies([self.tallies, ended.tallies])[-MAX_PAST_TALLIES:]
        self.mirror.add(ended.mirror)


class Sums:
    """The sums over several workers' counts.

    Args:
        counts: Those of the workers that run, and that of the ended ones.
    """

    def __init__(self, counts: Iterable[WorkerCounts]) -> None:
        self._counts = tuple(counts)

    def cells(self) -> list[Cell]:
        """Return the metric cells, one for each alias and version."""
        return sum_cells(each.cells for each in self._counts)

    def placement(self) -> PlacementCounts:
        """Return the counts of engines' failures and of queues."""
        return sum_placements([each.placement for each in self._counts])

    def tallies(self) -> list[Tally]:
        """Return the counts of rollouts' stages."""
        return sum_tallies([each.tallies for each in self._counts])

    def mirror(self) -> MirrorCounts:
        """Return the counts of mirrored requests."""
        return sum_copies([each.mirror for each in self._counts])
