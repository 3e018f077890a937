"""A gate of a plan, with its name and parameters, and the kinds of gates that names stand for.

Each module of this folder that defines `KINDS` is a source of gates; `__init__.py` lists the sources.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gateway.rollout.gates.reading import Reading

if TYPE_CHECKING:
    from gateway.rollout.gates.look import Look


class GateSource(Enum):
    """The kind of data that decides a gate."""

    COUNTS = "counts"  # counts of both arms' requests or thumbs
    PAIRS = "pairs"  # pairs of answers to the same request
    PERSON = "person"
    ROLLOUT = "rollout"  # facts about the rollout that are certain, so the gate takes no share of alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class GateKind:
    """What a gate's name stands for in a plan.

    Attributes:
        defaults: Its own parameters (numbers, mostly shares in [0, 1]) and their values where a plan
            gives none; None means that the parameter does not apply by default.
        source: The data that decides it; gates on counts and pairs each take a share of the plan's alpha.
        judge: Returns the reading of a gate of this kind at one look.
        scale: The largest limit, and more than any margin, in the gate's unit.
    """

    defaults: Mapping[str, float | None]
    source: GateSource
    judge: Callable[["Gate", "Look"], Reading]
    scale: float = 1.0

    @property
    def needs_live_traffic(self) -> bool:
        """Whether the gate can be read only while the candidate serves callers."""
        return self.source is GateSource.COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate of a plan's step with its parameters.

    Attributes:
        name: A name in `GATES`, or `score:` and the name of a comparator that the user has registered.
        margin, limit, quantile: Parameters as the gate's kind defines them, in its unit. For gates on pairs a limit
            replaces the margin.
        ratio: For gates on counts: the multiple of the control's share that is allowed, in place of the margin; None
            if the margin applies.
        min_samples: For gates on pairs: the number of sessions before the gate may pass.
        is_critical: Whether a failure rolls back at once; otherwise it pauses the rollout and asks a person.
        is_muted: Whether the gate is only evaluated and shown, without deciding anything.
        may_rest_on_one: For gates on counts: whether the requests of one account alone may decide the gate; see
            `judge_by_account`.
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
        """The kind that the gate's name stands for."""
        from gateway.rollout.gates import kind_named  # the kinds judge gates, and so know this file

        return kind_named(self.name)

    @property
    def source(self) -> GateSource:
        """The data that decides the gate."""
        return self.kind.source

    @property
    def takes_alpha(self) -> bool:
        """Whether the gate takes a share of the plan's alpha: it decides something, and may be wrong by chance."""
        return self.source in (GateSource.COUNTS, GateSource.PAIRS) and not self.is_muted

    def parameters(self) -> dict[str, float | bool | None]:
        """Return the parameters that this gate has, as a plan writes them."""
        values: dict[str, float | bool | None] = {name: getattr(self, name) for name in self.kind.defaults}
        # Written only if they differ from their defaults, so that plans without them keep their hash.
        if not self.is_critical:
            values["critical"] = False
        if self.is_muted:
            values["muted"] = True
        if self.may_rest_on_one:
            values["single_account"] = True
        if self.ratio is not None:
            values["ratio"] = self.ratio
        return values
