"""What workers have counted, added up over all that run and all that have ended."""

from collections.abc import Iterable
from typing import Final

from gateway.observe.engine_counts import PlacementCounts, added_up
from gateway.observe.ledger import Cell, merged
from gateway.observe.mirror_counts import MirrorCounts
from gateway.observe.mirror_counts import added_up as all_copies
from gateway.observe.tally import Tally, summed
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

    def bury(self, ended: "WorkerCounts") -> None:
        """Add the counts of a worker that has ended, without what was in flight."""
        for cell in ended.cells:
            cell.in_flight = 0
        self.cells = merged([self.cells, ended.cells])
        ended.placement.forget_now()
        self.placement.add(ended.placement)
        self.tallies = summed([self.tallies, ended.tallies])[-MAX_PAST_TALLIES:]
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
        return merged(each.cells for each in self._counts)

    def placement(self) -> PlacementCounts:
        """Return what was counted of engines and queues."""
        return added_up([each.placement for each in self._counts])

    def tallies(self) -> list[Tally]:
        """Return what was counted of rollouts."""
        return summed([each.tallies for each in self._counts])

    def mirror(self) -> MirrorCounts:
        """Return what was counted of copies of requests."""
        return all_copies([each.mirror for each in self._counts])
