"""A gate of a plan: its name and parameters, and what its name stands for.

Each file of this folder that holds `KINDS` is a source of gates; `__init__.py` has the list of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gateway.rollout.gates.reading import Reading

if TYPE_CHECKING:
    from gateway.rollout.gates.look import Look


class GateSource(Enum):
    """Who answers a gate."""

    COUNTS = "counts"  # of both arms' requests or thumbs
    PAIRS = "pairs"  # of answers to the same request
    PERSON = "person"
    ROLLOUT = "rollout"  # what is known of it for certain; takes no part of alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class GateKind:
    """What a gate's name stands for in a plan.

    Attributes:
        defaults: Its own parameters (numbers, mostly shares in [0, 1]) and their values where a plan
            gives none; None means: without one.
        source: Who answers it; counts and pairs take their part of alpha.
        judge: Returns what a gate of this kind says at one look.
        scale: The largest limit, and more than any margin, in the gate's unit.
    """

    defaults: Mapping[str, float | None]
    source: GateSource
    judge: Callable[["Gate", "Look"], Reading]
    scale: float = 1.0

    @property
    def needs_live_traffic(self) -> bool:
        """Whether it can be read only while the candidate serves callers."""
        return self.source is GateSource.COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate of a plan's step with its parameters.

    Attributes:
        name: In `GATES`, or `score:` and the name of a comparator that the user has registered.
        margin, limit, quantile: As its kind has them, in its unit; of pairs a limit takes the margin's place.
        ratio: Of counts: how many times the control's share is fine, in the margin's place; None: the margin holds.
        min_samples: Of pairs: sessions before it may pass.
        is_critical: Whether a failure rolls back at once; else it pauses and asks a person.
        is_muted: Whether it is read and told, and decides nothing.
        may_rest_on_one: Of counts: whether what one account alone says may decide it; see `judge_by_account`.
    """

    name: str
    margin: float = 0.0
    limit: float | None = None
    quantile: float | None = None
    ratio: float | None = None
    min_samples: int | None = None
    is_critical: bool = True
    is_muted: bool = False
    may_rest_on_one: bool = False

    @property
    def kind(self) -> GateKind:
        """What its name stands for."""
        from gateway.rollout.gates import kind_named  # the kinds judge gates, and so know this file

        return kind_named(self.name)

    @property
    def source(self) -> GateSource:
        """Who answers it."""
        return self.kind.source

    @property
    def takes_alpha(self) -> bool:
        """Whether it can be wrong by chance, with consequences."""
        return self.source in (GateSource.COUNTS, GateSource.PAIRS) and not self.is_muted

    def parameters(self) -> dict[str, float | bool | None]:
        """Return the parameters that this gate has, as a plan writes them."""
        values: dict[str, float | bool | None] = {name: getattr(self, name) for name in self.kind.defaults}
        # Written only where they say something: so plans that know nothing of them keep their hash.
        if not self.is_critical:
            values["critical"] = False
        if self.is_muted:
            values["muted"] = True
        if self.may_rest_on_one:
            values["single_account"] = True
        if self.ratio is not None:
            values["ratio"] = self.ratio
        return values
