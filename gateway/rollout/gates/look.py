"""What gates read at one look at a rollout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was counted since the rollout's stage began, over all replicas.

    Attributes:
        stage: The stage that the counts belong to (`Rollout.stage`).
        samples: The candidate's requests; in shadow, pairs.
        streams: Gate name → both arms' counts; a gate that is missing was not measured.
        pair_readings: Gate name → what the pairs of this stage say; a gate that is missing has none yet.
        is_settled: Whether all sessions of the pairs that max_samples allows have had the time to end and count.
        late: What gates of earlier stages say of pairs that were judged after those had ended.
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
        facts: What was counted and compared in it.
        alpha: A gate's chance of ever failing what is fine.
        pass_alpha: Its chance of ever passing what is not.
        approved_by: Who has approved the stage, if anybody has.
        seconds: For how long the stage has lasted.
    """

    facts: Facts
    alpha: float
    pass_alpha: float
    approved_by: str | None = None
    seconds: float = 0.0
