"""The facts that gates read at one look at a rollout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Counts and pair readings since the rollout's stage began, over all replicas.

    Attributes:
        stage: The stage that the counts belong to (`Rollout.stage`).
        samples: The number of requests to the candidate; in a shadow stage, of pairs.
        streams: Gate name → both arms' counts; a gate that is missing was not measured.
        pair_readings: Gate name → the reading from this stage's pairs; a gate that is missing has none yet.
        is_settled: Whether all sessions of the pairs that max_samples allows have had the time to end and count.
        late: Readings of gates of earlier stages, from pairs that were judged after those stages had ended.
    """

    stage: int
    samples: int = 0
    streams: Mapping[str, Streams] = field(default_factory=lambda: MappingProxyType({}))
    pair_readings: Mapping[str, Reading] = field(default_factory=lambda: MappingProxyType({}))
    is_settled: bool = True
    late: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a rollout's stage.

    Attributes:
        facts: The counts and pair readings of the stage.
        alpha: The greatest chance that a gate ever fails a candidate that is fine.
        pass_alpha: The greatest chance that a gate ever passes a candidate that is not fine.
        approved_by: The public id of the key that approved the stage, or None.
        seconds: How long the stage has lasted.
    """

    facts: Facts
    alpha: float
    pass_alpha: float
    approved_by: str | None = None
    seconds: float = 0.0
