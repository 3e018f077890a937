"""A worker's own counts, as cheap as counting can be; the control plane adds workers up.

Each (alias, version) has one cell. A cell is plain integers and lists that only its
worker touches, on one thread, so there is no lock. `observe/metrics.py` turns the sums
of all workers' cells into Prometheus series.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

# Seconds. vLLM's own buckets for the same three, so that both sides of the gateway line up
# (vllm/v1/metrics/loggers.py), and microseconds for what the gateway itself adds.
TTFT_BOUNDS: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
ITL_BOUNDS: Final = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
DURATION_BOUNDS: Final = (
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
)
# A load takes 0.05 s on a warm disk (vLLM 0.32, CPU), tens of seconds from a cold one.
LOAD_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OVERHEAD_BOUNDS: Final = (2e-05, 5e-05, 1e-04, 2e-04, 5e-04, 1e-03, 2e-03, 5e-03, 1e-02, 5e-02, 1e-01)


class Histogram(msgspec.Struct, gc=False):
    """Counts per bucket, the last one without a bound, and the sum of what was observed."""

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> "Histogram":
        """Return an empty histogram with one bucket more than `bounds`."""
        return cls([0] * (len(bounds) + 1))

    def add(self, other: "Histogram") -> None:
        """Add another histogram of the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Cell(msgspec.Struct, gc=False, kw_only=True):
    """Everything counted for one version behind one alias."""

    alias: str
    version: str
    in_flight: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    estimated_tokens: int = 0
    retries: int = 0
    statuses: dict[int, int] = msgspec.field(default_factory=dict)
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    exposures: dict[str, int] = msgspec.field(default_factory=dict)  # by the assigned arm, while a rollout is open
    refusals: dict[str, int] = msgspec.field(default_factory=dict)  # by the limit that was reached
    engine_fields: dict[str, int] = msgspec.field(default_factory=dict)  # refused, by `field/outcome`
    ttft: Histogram = msgspec.field(default_factory=lambda: Histogram.of(TTFT_BOUNDS))
    itl: Histogram = msgspec.field(default_factory=lambda: Histogram.of(ITL_BOUNDS))
    duration: Histogram = msgspec.field(default_factory=lambda: Histogram.of(DURATION_BOUNDS))
    overhead: Histogram = msgspec.field(default_factory=lambda: Histogram.of(OVERHEAD_BOUNDS))
    load_wait: Histogram = msgspec.field(default_factory=lambda: Histogram.of(LOAD_BOUNDS))

    def saw_status(self, status: int) -> None:
        """Count one request that was answered with `status`."""
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def saw_error(self, code: str) -> None:
        """Count one error by its code, whether it came as a reply or inside a stream."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def exposed(self, arm: str) -> None:
        """Count one request that a rollout has assigned to `arm`."""
        self.exposures[arm] = self.exposures.get(arm, 0) + 1

    def refused(self, reason: str) -> None:
        """Count one request that a limit has kept out."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def took_to_first_token(self, seconds: float) -> None:
        """Observe the time from the request's last byte to the stream's first content."""
        self.ttft.counts[bisect_left(TTFT_BOUNDS, seconds)] += 1
        self.ttft.sum += seconds

    def took_between_tokens(self, seconds: float) -> None:
        """Observe the time between two reads of a stream that each brought content."""
        self.itl.counts[bisect_left(ITL_BOUNDS, seconds)] += 1
        self.itl.sum += seconds

    def took(self, seconds: float) -> None:
        """Observe a whole request."""
        self.duration.counts[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.duration.sum += seconds

    def added(self, seconds: float) -> None:
        """Observe what the gateway itself added to a request before the engine had it."""
        self.overhead.counts[bisect_left(OVERHEAD_BOUNDS, seconds)] += 1
        self.overhead.sum += seconds

    def waited_for_load(self, seconds: float) -> None:
        """Observe how long a request waited for its version to be loaded."""
        self.load_wait.counts[bisect_left(LOAD_BOUNDS, seconds)] += 1
        self.load_wait.sum += seconds

    def add(self, other: "Cell") -> None:
        """Add another worker's cell for the same alias and version."""
        self.in_flight += other.in_flight
        self.prompt_tokens += other.prompt_tokens
        self.generation_tokens += other.generation_tokens
        self.estimated_tokens += other.estimated_tokens
        self.retries += other.retries
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        for name in ("errors", "exposures", "refusals", "engine_fields"):
            mine: dict[str, int] = getattr(self, name)
            for label, count in getattr(other, name).items():
                mine[label] = mine.get(label, 0) + count
        for name in ("ttft", "itl", "duration", "overhead", "load_wait"):
            getattr(self, name).add(getattr(other, name))


class Ledger:
    """The cells of one worker. `cell` is on the request path: one dictionary look-up."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], Cell] = {}

    def cell(self, alias: str = "", version: str = "") -> Cell:
        """Return the cell of a version behind an alias; both empty for requests that named neither rightly."""
        cell = self._cells.get((alias, version))
        if cell is None:
            cell = self._cells[alias, version] = Cell(alias=alias, version=version)
        return cell

    def cells(self) -> list[Cell]:
        """Return all cells."""
        return list(self._cells.values())


def merged(ledgers: Iterable[Iterable[Cell]]) -> list[Cell]:
    """Return the sums over workers, one cell for each (alias, version), in order."""
    total = Ledger()
    for cells in ledgers:
        for cell in cells:
            total.cell(cell.alias, cell.version).add(cell)
    return sorted(total.cells(), key=lambda cell: (cell.alias, cell.version))
