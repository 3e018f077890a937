"""The values that are exported about rollouts. Labels are bounded: aliases, versions, phases, gates, few reasons."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.sample_ratio import Ratio


@dataclass(slots=True)
class RolloutCounts:
    """Pages and rollbacks by (alias, reason) since this node started.

    The reason of a rollback is the gate that failed, `operator`, or `automation`. The reason of a page is a gate,
    `inconclusive`, or `automation`.
    """

    pages: Counter[tuple[str, str]] = field(default_factory=Counter)
    rollbacks: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSeries:
    """One open rollout. `readings` and `ratio` are None on nodes that are not the leader.

    A gate fails when its e-value reaches `bound`.
    """

    alias: str
    phase: str
    stage: int
    readings: tuple[Reading, ...] | None = None
    ratio: Ratio | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutsReading:
    """Everything that a scrape exports about rollouts.

    Attributes:
        weights: (alias, arm, version) → basis points.
        rollouts: The open rollouts.
        counts: Pages and rollbacks since this node started.
        is_leader: Whether this node advances rollouts.
        journal_entries: The number of the journal's newest entry, as last read.
    """

    weights: Mapping[tuple[str, str, str], int]
    rollouts: tuple[RolloutSeries, ...]
    counts: RolloutCounts
    is_leader: bool
    journal_entries: int
