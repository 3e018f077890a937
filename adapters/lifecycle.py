"""The states of a version and the events between them, as one table. An illegal event raises and changes nothing."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """The state of a version. `ready`: engines serve it, or load it when it is asked for."""

    REGISTERED = "registered"
    VERIFIED = "verified"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    RETIRED = "retired"


class Event(StrEnum):
    """An event in a version's life."""

    VERIFY = "verify"
    LOAD = "load"
    LOADED = "loaded"  # loaded, and its fingerprint has passed
    LOAD_FAILED = "load failed"
    CONDEMN = "condemn"  # a later check has found it wrong on every engine
    RETIRE = "retire"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = MappingProxyType(
    {
        (State.REGISTERED, Event.VERIFY): State.VERIFIED,
        (State.REGISTERED, Event.RETIRE): State.RETIRED,
        (State.VERIFIED, Event.LOAD): State.LOADING,
        (State.VERIFIED, Event.RETIRE): State.RETIRED,
        (State.LOADING, Event.LOADED): State.READY,
        (State.LOADING, Event.LOAD_FAILED): State.FAILED,
        (State.LOADING, Event.RETIRE): State.RETIRED,
        (State.READY, Event.LOAD): State.LOADING,  # an engine came back empty
        (State.READY, Event.CONDEMN): State.FAILED,
        (State.READY, Event.RETIRE): State.RETIRED,
        (State.FAILED, Event.LOAD): State.LOADING,  # another try
        (State.FAILED, Event.RETIRE): State.RETIRED,
    }
)


class IllegalLifecycleEvent(ValueError):
    """The event is not allowed in the version's state."""


def advance(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        IllegalLifecycleEvent: The table has no such step; the message names both.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalLifecycleEvent(f"a version that is `{state}` cannot go through `{event}`") from None
