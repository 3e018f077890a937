"""Passive health: what a worker learns of an engine from its own requests.

    standing    event                                   then
    CLOSED      `failures` failures in a row, or stuck  EJECTED, for the first pause
    EJECTED     the pause is over                       HALF_OPEN
    EJECTED     a request sent since succeeds           CLOSED (sent when no other engine was left)
    HALF_OPEN   its one request succeeds                CLOSED
    HALF_OPEN   its one request fails                   EJECTED, for twice the pause, up to the longest

Whatever else happens changes nothing but the count of failures. What was sent before the
present standing began says nothing about it, neither good nor bad. Knows no clock: whoever
tells an event tells the time (monotonic seconds).
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final


class EngineStanding(Enum):
    """How an engine stands with a worker; the names are those of a circuit breaker."""

    CLOSED = "closed"  # it gets requests
    EJECTED = "ejected"  # it gets none
    HALF_OPEN = "half_open"  # it gets one at a time


class EngineFailure(StrEnum):
    """What speaks against an engine; the reasons of an ejection in the metrics."""

    CONNECTION = "connection"  # it took no connection, or not in time
    LOST = "lost"  # it broke off before the first byte, or sent what is not HTTP
    STATUS = "status"  # it answered 500, 502, 503 or 504
    TIMEOUT = "timeout"  # one request had no byte for `first_byte_seconds`
    SILENCE = "silence"  # nothing came from it at all for `engine_silent_seconds`, and something was due


# The statuses of an engine that is at fault itself; any other is its answer.
FAILED_STATUSES: Final = frozenset((500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When an engine is ejected, and for how long, in seconds."""

    failures: int = 5
    pause_seconds: float = 5.0
    longest_pause_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One engine's standing with one worker, since when, and what led to it."""

    standing: EngineStanding = EngineStanding.CLOSED
    since: float = 0.0
    failures: int = 0
    pause_seconds: float = 0.0  # of the last ejection that has not been followed by a return


WELL: Final = Health()


def failed(health: Health, failure: EngineFailure, rules: Rules, *, sent_at: float, now: float) -> Health:
    """Return the health after a request failed that was sent at `sent_at`."""
    if health.standing is EngineStanding.EJECTED or sent_at < health.since:
        return health
    if health.standing is EngineStanding.HALF_OPEN:
        return _ejected(min(health.pause_seconds * 2, rules.longest_pause_seconds), now)
    failures = health.failures + 1
    if failures >= rules.failures or failure is EngineFailure.SILENCE:
        return _ejected(min(rules.pause_seconds, rules.longest_pause_seconds), now)
    return replace(health, failures=failures)


def succeeded(health: Health, *, sent_at: float, now: float) -> Health:
    """Return the health after an engine answered a request that was sent at `sent_at`."""
    if sent_at < health.since:
        return health
    if health.standing is EngineStanding.CLOSED:
        return replace(health, failures=0)
    return Health(since=now)


def rested(health: Health, now: float) -> Health:
    """Return the health at `now`: an ejection whose pause is over is one no more."""
    if health.standing is EngineStanding.EJECTED and now - health.since >= health.pause_seconds:
        return replace(health, standing=EngineStanding.HALF_OPEN, since=now)
    return health


def _ejected(pause_seconds: float, now: float) -> Health:
    return Health(standing=EngineStanding.EJECTED, since=now, pause_seconds=pause_seconds)
