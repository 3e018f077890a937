"""What workers have counted, added up over all that run and all that have ended."""

from collections.abc import Iterable
from typing import Final

from gateway.observe.engine_counts import PlacementCounts, sum_placements
from gateway.observe.ledger import Cell, sum_cells
from gateway.observe.mirror_counts import MirrorCounts, sum_copies
from gateway.observe.tally import Tally, sum_tallies
from gateway.workers.channel import WorkerReport

# Stages of rollouts whose counts outlive the worker that counted them.
MAX_PAST_TALLIES: Final = 256


class WorkerCounts:
    """What one worker last reported, or what all that have ended had counted."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.placement = PlacementCounts()
        self.tallies: list[Tally] = []
        self.mirror = MirrorCounts()

    def take(self, report: WorkerReport) -> None:
        """Take over a worker's report: it tells all since the worker started."""
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
    """The sums of several counts.

    Args:
        counts: Of workers that run, and of those that have ended.
    """

    def __init__(self, counts: Iterable[WorkerCounts]) -> None:
        self._counts = tuple(counts)

    def cells(self) -> list[Cell]:
        """Return one cell for each alias and version."""
        return sum_cells(each.cells for each in self._counts)

    def placement(self) -> PlacementCounts:
        """Return what was counted of engines and queues."""
        return sum_placements([each.placement for each in self._counts])

    def tallies(self) -> list[Tally]:
        """Return what was counted of rollouts."""
        return sum_tallies([each.tallies for each in self._counts])

    def mirror(self) -> MirrorCounts:
        """Return what was counted of copies of requests."""
        return sum_copies([each.mirror for each in self._counts])
