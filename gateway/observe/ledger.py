"""A worker's request counts by alias and version; the control plane sums them over workers.

Each (alias, version) has one cell. A cell is plain integers and lists that only its worker touches, on one thread, so
counting needs no lock. `observe/metrics.py` turns the sums of all workers' cells into Prometheus series.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

# Seconds. The first three are vLLM's own buckets for the same quantities (vllm/v1/metrics/loggers.py), so that
# dashboards can compare both sides of the gateway. The gateway's own overhead is microseconds.
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
# Loading an adapter takes 0.05 s from a warm disk (vLLM 0.32, CPU), tens of seconds from a cold one.
LOAD_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OVERHEAD_BOUNDS: Final = (2e-05, 5e-05, 1e-04, 2e-04, 5e-04, 1e-03, 2e-03, 5e-03, 1e-02, 5e-02, 1e-01)


class Histogram(msgspec.Struct, gc=False):
    """Counts by bucket, the last one without an upper bound, and the sum of all observed values."""

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> "Histogram":
        return cls([0] * (len(bounds) + 1))

    def add(self, other: "Histogram") -> None:
        """Add another histogram that has the same bounds."""
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

    def count_status(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def count_error(self, code: str) -> None:
        """Count one error by its code, whether it was sent as a reply or inside a stream."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def count_exposure(self, arm: str) -> None:
        """Count one request that an open rollout assigned to `arm`."""
        self.exposures[arm] = self.exposures.get(arm, 0) + 1

    def count_refusal(self, reason: str) -> None:
        """Count one request that a rate limit refused; `reason` is the limit."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def observe_first_token(self, seconds: float) -> None:
        """Observe the time from the request's last byte to the stream's first content."""
        self.ttft.counts[bisect_left(TTFT_BOUNDS, seconds)] += 1
        self.ttft.sum += seconds

    def observe_token_gap(self, seconds: float) -> None:
        """Observe the time between two reads of a stream that both brought content."""
        self.itl.counts[bisect_left(ITL_BOUNDS, seconds)] += 1
        self.itl.sum += seconds

    def observe_duration(self, seconds: float) -> None:
        """Observe the duration of a whole request."""
        self.duration.counts[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.duration.sum += seconds

    def observe_overhead(self, seconds: float) -> None:
        """Observe the time that the gateway itself took before it sent the request to an engine."""
        self.overhead.counts[bisect_left(OVERHEAD_BOUNDS, seconds)] += 1
        self.overhead.sum += seconds

    def observe_load_wait(self, seconds: float) -> None:
        self.load_wait.counts[bisect_left(LOAD_BOUNDS, seconds)] += 1
        self.load_wait.sum += seconds

    def add(self, other: "Cell") -> None:
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
    """The cells of one worker. `cell` is called for each request: it is one dictionary look-up."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], Cell] = {}

    def cell(self, alias: str = "", version: str = "") -> Cell:
        """Return the cell of a version behind an alias; both are empty for requests that named no valid alias."""
        cell = self._cells.get((alias, version))
        if cell is None:
            cell = self._cells[alias, version] = Cell(alias=alias, version=version)
        return cell

    def cells(self) -> list[Cell]:
        return list(self._cells.values())


def sum_cells(ledgers: Iterable[Iterable[Cell]]) -> list[Cell]:
    """Return the sum over workers: one cell for each (alias, version), in that order."""
    total = Ledger()
    for cells in ledgers:
        for cell in cells:
            total.cell(cell.alias, cell.version).add(cell)
    return sorted(total.cells(), key=lambda cell: (cell.alias, cell.version))
