"""The stored record of a rollout: its state, and further fields that the leader and people need.

Records are encoded as JSON and decoded here. Replaying the journal yields the same `RolloutRecord.rollout`
(`rollout/replay.py`); the other fields are those that a new leader needs to judge the rollout,
or that people ask for. A stored rollout that this release cannot read is represented by a value too, so that it
does not hold up other rollouts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from gateway.decide.exposure import RolloutTag
from gateway.rollout.events import AUTOMATION, Resumed
from gateway.rollout.gates.sample_ratio import Exposures
from gateway.rollout.plan import Stage, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.rollout import Rollout, Transition
from gateway.rollout.rules import RULES

_STATE: Final = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last transition, for people: `event` is its name in the journal."""

    at: float
    by: str
    event: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A rollout's state with the facts that are stored beside it.

    Attributes:
        rollout: The rollout's state.
        by, reason, started_at: The key that began it, the reason, and the time in Unix seconds.
        last: The last transition.
        threshold_seconds: The duration above which a request of this stage is slow; None until it can be computed.
        periods: Units of each arm in the stages that are over.
        journal_after: Number of a journal entry before its first.
        judged_share: The share of pairs that a model was to judge when it began.
        entered: Index in the plan of each stage that was entered, in order: of stage 1, of stage 2, and so on.
        rules: The number of the rules by which its present stage is judged (`rollout/rules.py`); 1 if an earlier
            release stored the record.
    """

    rollout: Rollout
    by: str
    reason: str
    started_at: float
    last: Last
    threshold_seconds: float | None = None
    periods: tuple[Exposures, ...] = ()
    journal_after: int = 0
    judged_share: float = 1.0
    entered: tuple[int, ...] = ()
    rules: int = 1

    @property
    def id(self) -> str:
        """The rollout's id."""
        return self.rollout.id

    @property
    def alias(self) -> str:
        """The alias whose traffic the rollout moves."""
        return self.rollout.alias

    @property
    def is_open(self) -> bool:
        """Whether it still decides the alias's split."""
        return not self.rollout.is_over

    def tag(self) -> RolloutTag:
        """Return what requests of the rollout count to."""
        rollout = self.rollout
        return RolloutTag(
            id=rollout.id,
            stage=rollout.stage,
            entered_at=rollout.entered_at,
            threshold_seconds=self.threshold_seconds,
        )

    def stages(self) -> Iterator[tuple[int, Stage]]:
        """Yield each stage that was entered, with its number; of a rollout of an earlier release its present one."""
        plan, rollout = self.rollout.plan.stages, self.rollout
        known = dict(enumerate(self.entered, start=1))
        if rollout.stage:
            known.setdefault(rollout.stage, rollout.index)
        for number, index in sorted(known.items()):
            if index < len(plan):
                yield number, plan[index]

    def after(
        self, transition: Transition, *, threshold_seconds: float | None = None, period: Exposures | None = None
    ) -> "RolloutRecord":
        """Return the record after a transition.

        Args:
            transition: What happened.
            threshold_seconds: For the stage that begins with it, if one does; a stage that begins anew keeps its own.
            period: Units of the stage that ends with it, if one does.
        """
        event, rollout = transition.event, transition.after
        is_again = isinstance(event, Resumed)
        is_new = rollout.stage != self.rollout.stage
        begins = is_new and not is_again
        periods = self.periods + ((period,) if period is not None else ())
        return replace(
            self,
            rollout=rollout,
            last=Last(at=event.at, by=event.by, event=type(event).__name__, why=transition.why),
            threshold_seconds=threshold_seconds if begins else self.threshold_seconds,
            # A person who resumes after a mismatch has repaired its cause, so earlier counts prove nothing any more.
            periods=() if is_again else periods,
            entered=(*self.entered, rollout.index) if is_new else self.entered,
            rules=RULES if is_again else self.rules,
        )

    def with_threshold(self, seconds: float) -> "RolloutRecord":
        """Return the record with the threshold of its stage."""
        return replace(self, threshold_seconds=seconds)

    def describe_last(self) -> str:
        """Return a sentence on the last event, with its number, author and reason."""
        who = "automation" if self.last.by == AUTOMATION else f"`{self.last.by}`"
        why = f": {self.last.why}" if self.last.why else ""
        return f"its last event is `{self.last.event}`, number {self.rollout.sequence}, by {who}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRollout:
    """A stored rollout that this release cannot read: it cannot move on, but can be rolled back.

    Attributes:
        id, alias, is_open: As the store's columns have them.
        body: The stored JSON, which is kept for a release that can read it.
        problem: What is wrong with it and what to do, as a sentence.
    """

    id: str
    alias: str
    is_open: bool
    body: Mapping[str, Any]
    problem: str

    def tag(self) -> RolloutTag | None:
        """Return what requests of the rollout count to, where the body says that much; else None.

        During an upgrade the leader may be of a later release and needs what this gateway counts.
        """
        state = self.body.get(_STATE)
        stage = state.get("stage") if isinstance(state, dict) else None
        if not isinstance(state, dict) or not isinstance(stage, int):
            return None
        threshold, entered_at = self.body.get("threshold_seconds"), state.get("entered_at")
        return RolloutTag(
            id=self.id,
            stage=stage,
            entered_at=float(entered_at) if isinstance(entered_at, int | float) else 0.0,
            threshold_seconds=float(threshold) if isinstance(threshold, int | float) else None,
        )


StoredRollout = RolloutRecord | UnreadableRollout


def encode(stored: StoredRollout) -> dict[str, Any]:
    """Return a rollout's record as JSON values, its plan in canonical form."""
    if isinstance(stored, UnreadableRollout):
        return dict(stored.body)
    values: dict[str, Any] = msgspec.to_builtins(stored)
    state = values.pop("rollout")
    return {_STATE: {**state, "plan": canonical(stored.rollout.plan)}, **values}


def decode(body: Mapping[str, Any], *, id: str, alias: str, is_open: bool) -> StoredRollout:  # noqa: A002 (a column)
    """Return the record that `encode` wrote; an `UnreadableRollout` if this release knows no such record.

    Args:
        body: What `encode` returned.
        id, alias, is_open: What the store keeps beside it.
    """
    values = dict(body)
    try:
        state = dict(values.pop(_STATE))
        plan = parse_plan(state["plan"])
        rollout = {**state, "plan": msgspec.to_builtins(plan)}
        return msgspec.convert({**values, "rollout": rollout}, type=RolloutRecord)
    except (KeyError, TypeError, ValueError, InvalidPlan, msgspec.ValidationError) as error:
        problem = (
            f"a rollout in the store cannot be read ({error}); it is damaged or of a later release: "
            "restore a backup, or run the release that wrote it"
        )
        return UnreadableRollout(id=id, alias=alias, is_open=is_open, body=body, problem=problem)
