"""A rollout's transitions as journal records, and the replay of records to the rollout's state.

A record has the author, reason, states before and after, versions, weights, gate readings, n and the
plan's hash for people, and the event itself for `replay`. A record that occurs twice is
applied once; one that does not follow from those before it is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from evaluators.judge.verdict import Verdict
from gateway.rollout.events import (
    Aborted,
    Approved,
    AuditMissing,
    AuditPassed,
    Created,
    Event,
    Paused,
    Promoted,
    Resumed,
    RolledBack,
    Started,
    StepFailed,
    StepInconclusive,
    StepPassed,
)
from gateway.rollout.gates.reading import AccountShare, Reading
from gateway.rollout.journal import canonical_json
from gateway.rollout.machine import IllegalEvent, advance, create
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.rollout import Rollout, Transition

KIND: Final = "rollout"
EVENTS: Final[Mapping[str, type[Event | Created]]] = {
    kind.__name__: kind
    for kind in (
        Created,
        AuditPassed,
        AuditMissing,
        Started,
        Approved,
        StepPassed,
        StepFailed,
        StepInconclusive,
        Paused,
        Resumed,
        Promoted,
        Aborted,
        RolledBack,
    )
}


class ReplayError(ValueError):
    """The records do not tell one rollout's story."""


def record_of(transition: Transition) -> dict[str, Any]:
    """Return the journal record of a transition, as JSON values."""
    before, event, after = transition.before, transition.event, transition.after
    return {
        "kind": KIND,
        "rollout": after.id,
        "alias": after.alias,
        "sequence": after.sequence,
        "at": event.at,
        "who": event.by,
        "why": transition.why,
        "event": {"type": type(event).__name__, **_event_values(event)},
        "before": None if before is None else _standing(before),
        "after": _standing(after),
        "control": after.control,
        "candidate": after.candidate,
        "n": transition.n,
        "effects": [{"type": type(effect).__name__, **asdict(effect)} for effect in transition.effects],
        "config_hash": after.plan.config_hash,
    }


def _event_values(event: Event | Created) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Created):
        values["plan"] = canonical(event.plan)
    if "readings" in values:
        values["readings"] = [asdict(reading) | {"verdict": str(reading.verdict)} for reading in values["readings"]]
    return values


def _standing(rollout: Rollout) -> dict[str, Any]:
    """Return the fields of a rollout's state that can change, as JSON values."""
    return {
        "phase": str(rollout.phase),
        "index": rollout.index,
        "stage": rollout.stage,
        "weight": rollout.weight,
        "home": rollout.home,
        "entered_at": rollout.entered_at,
        "approved_by": rollout.approved_by,
        "is_complete": rollout.is_complete,
    }


def event_of(values: Mapping[str, Any]) -> Event | Created:
    """Return the event that a record's `event` holds.

    Raises:
        ReplayError: It is none that this release knows.
    """
    given = dict(values)
    kind = EVENTS.get(given.pop("type", ""))
    if kind is None:
        raise ReplayError(f"`{values.get('type')}` is no event that this release knows")
    try:
        if "readings" in given:
            given["readings"] = tuple(_reading(each) for each in given["readings"])
        if "plan" in given:
            given["plan"] = parse_plan(given["plan"])
        return kind(**given)
    except InvalidPlan as error:
        raise ReplayError(f"the plan in `{kind.__name__}` cannot be read: {error}") from None
    except (TypeError, KeyError, ValueError):
        raise ReplayError(f"`{kind.__name__}` does not hold what such an event holds") from None


def _reading(values: Mapping[str, Any]) -> Reading:
    lists = {
        "verdict": Verdict(values["verdict"]),
        "against": tuple(values.get("against", ())),
        "accounts": tuple(AccountShare(**each) for each in values.get("accounts", ())),
    }
    return Reading(**{**values, **lists})


def replay(records: Iterable[Mapping[str, Any]]) -> Rollout:
    """Return the state that the records of one rollout lead to.

    Args:
        records: In the journal's order, the first one `Created`; the same record may come again.

    Raises:
        ReplayError: A record is missing, illegal, or leads elsewhere than it says.
    """
    state: Rollout | None = None
    seen: dict[int, str] = {}
    for record in records:
        number, text = record.get("sequence"), canonical_json(dict(record))
        if isinstance(number, int) and seen.get(number) == text:
            continue
        expected = 1 if state is None else state.sequence + 1
        if number != expected:
            raise ReplayError(f"record `{number}` comes where record {expected} was expected")
        state = _apply(state, record)
        seen[expected] = text
    if state is None:
        raise ReplayError("there are no records")
    return state


def _apply(state: Rollout | None, record: Mapping[str, Any]) -> Rollout:
    number = record["sequence"]
    event = event_of(record.get("event") or {})
    try:
        if isinstance(event, Created):
            if state is not None:
                raise ReplayError(f"record {number} makes the rollout a second time")
            transition = create(event)
        elif state is None:
            raise ReplayError(f"the first record is `{type(event).__name__}`; a rollout begins with `Created`")
        else:
            transition = advance(state, event)
    except IllegalEvent as error:
        raise ReplayError(f"record {number} cannot follow those before it: {error}") from None
    # Another release may word reasons, hashes and effects differently, but the resulting state must be the same.
    if record.get("after") != _standing(transition.after):
        raise ReplayError(f"record {number} says something else than its event leads to")
    return transition.after
