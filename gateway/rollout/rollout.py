"""The values of a rollout: its state, and the effects and transitions that change it.

Decisions are made in `machine.py`. Times are Unix seconds, given by the caller.
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.decide.assign import Split
from gateway.rollout.events import Created, Event
from gateway.rollout.gates.reading import Reading
from gateway.rollout.plan import Plan, Stage


class Phase(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    AUDITED = "audited"
    SHADOW = "shadow"
    CANARY = "canary"
    PAUSED = "paused"
    LIVE = "live"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The state of one candidate's rollout at one moment.

    Attributes:
        control: The version that callers got when the rollout was created.
        home: The version that all callers outside the split get: the control; after a promotion the
            candidate; after a rollback the version that was rolled back to.
        index: The index in the plan of the present stage, or of the last one.
        stage: The number of stages entered so far, counting a resumed stage again; counts of requests
            belong to this number, so evidence of one stage is never taken for another's.
        entered_at: When that stage was entered.
        weight: The candidate's weight in basis points.
        approved_by: The public id of the key that approved this stage, or None.
        is_complete: Whether every stage of the plan has passed.
        sequence: How many transitions there have been; a command that was made for
            another number is a conflict.
    """

    id: str
    alias: str
    control: str
    candidate: str
    plan: Plan
    home: str
    phase: Phase = Phase.DRAFT
    index: int = 0
    stage: int = 0
    entered_at: float = 0.0
    weight: int = 0
    approved_by: str | None = None
    is_complete: bool = False
    sequence: int = 1

    @property
    def current(self) -> Stage | None:
        """The stage that is under way or paused, or None."""
        is_in_stage = self.phase in (Phase.SHADOW, Phase.CANARY, Phase.PAUSED)
        return self.plan.stages[self.index] if is_in_stage else None

    @property
    def is_over(self) -> bool:
        """Whether another rollout of this alias may begin."""
        return self.phase in (Phase.LIVE, Phase.ROLLED_BACK, Phase.ABORTED)

    @property
    def mirrored_share(self) -> int:
        """The share of requests that is compared on both arms, in basis points: in a pause, too."""
        return self.current.share if self.current is not None and self.current.wants_pairs else 0

    @property
    def is_mirrored(self) -> bool:
        """Whether requests are compared on both arms."""
        return self.mirrored_share > 0

    def split(self) -> Split:
        """Return the split that the alias must have now; the leader restores it after a crash."""
        return Split(self.home, self.candidate, self.weight) if self.weight else Split(self.home)

    def may_pass(self, at: float, samples: int) -> bool:
        """Whether this stage's least time and samples have been reached."""
        stage = self.current
        if stage is None:
            return False
        return at - self.entered_at >= stage.min_seconds and samples >= stage.min_samples


# Effects can be applied twice without harm. A transition's effects on a route are applied as one change of the route
# table.


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeight:
    """Give the candidate `weight` basis points of the alias; 0 takes it out of the split."""

    alias: str
    candidate: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipControl:
    """Make another version the alias's control."""

    alias: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMirror:
    """Begin or end comparing a share of the requests, in basis points, on both arms."""

    alias: str
    candidate: str
    is_on: bool
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyPage:
    """Page a person: the rollout is paused or was rolled back."""

    alias: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Log a message for people without paging anybody."""

    alias: str
    message: str


Effect = SetWeight | FlipControl | SetMirror | NotifyPage | Notify


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """An event with the states before and after it, as the journal keeps it. `before` is None for the first event."""

    before: Rollout | None
    event: Event | Created
    after: Rollout
    effects: tuple[Effect, ...] = ()

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The gates' readings behind the decision; empty if gates did not decide."""
        return getattr(self.event, "readings", ())

    @property
    def n(self) -> int:
        """The candidate's samples behind the decision; 0 where a person decided."""
        return getattr(self.event, "samples", 0)

    @property
    def why(self) -> str:
        """The reason as text: a person's, then those of the gates, or of the failed gates alone if any failed."""
        reason = getattr(self.event, "reason", None) or getattr(self.event, "override", None) or ""
        readings = [reading for reading in self.readings if reading.rolls_back] or self.readings
        return "; ".join((*((reason,) if reason else ()), *(reading.reason for reading in readings)))
