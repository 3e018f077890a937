"""Passive health checks (a circuit breaker): what a worker learns about an engine from its own requests.

    standing    event                                   next
    CLOSED      `failures` failures in a row, or stuck  EJECTED, for the first pause
    EJECTED     the pause is over                       HALF_OPEN
    EJECTED     a request sent since succeeds           CLOSED (sent when no other engine was left)
    HALF_OPEN   its one request succeeds                CLOSED
    HALF_OPEN   its one request fails                   EJECTED, for twice the pause, up to the longest

Any other event changes only the count of failures. Requests that were sent before the present standing began do not
count, whether they succeed or fail. The functions read no clock: callers pass the time in monotonic seconds.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final


class EngineStanding(Enum):
    """Whether a worker sends an engine requests; the names are those of a circuit breaker."""

    CLOSED = "closed"  # the engine gets requests
    EJECTED = "ejected"  # the engine gets none
    HALF_OPEN = "half_open"  # the engine gets one at a time


class EngineFailure(StrEnum):
    """How an engine failed a request; also the reasons of an ejection in the metrics."""

    CONNECTION = "connection"  # it accepted no connection, or not in time
    LOST = "lost"  # it closed the connection before the first byte, or sent bytes that are not HTTP
    STATUS = "status"  # it answered 500, 502, 503 or 504
    TIMEOUT = "timeout"  # one request got no byte for `first_byte_seconds`
    SILENCE = "silence"  # it sent nothing at all for `engine_silent_seconds`, although a reply was due


# Statuses that mean that the engine itself is at fault; any other is an answer to the request.
FAILED_STATUSES: Final = frozenset((500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When an engine is ejected (failures in a row), and for how long, in seconds."""

    failures: int = 5
    pause_seconds: float = 5.0
    longest_pause_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One engine's standing with one worker, since when (monotonic seconds), and its recent failures."""

    standing: EngineStanding = EngineStanding.CLOSED
    since: float = 0.0
    failures: int = 0
    pause_seconds: float = 0.0  # length of the last ejection; 0 once the engine has recovered


WELL: Final = Health()


def after_failure(health: Health, failure: EngineFailure, rules: Rules, *, sent_at: float, now: float) -> Health:
    """Return the health after a failed request that was sent at `sent_at`."""
    if health.standing is EngineStanding.EJECTED or sent_at < health.since:
        return health
    if health.standing is EngineStanding.HALF_OPEN:
        return _eject(min(health.pause_seconds * 2, rules.longest_pause_seconds), now)
    failures = health.failures + 1
    if failures >= rules.failures or failure is EngineFailure.SILENCE:
        return _eject(min(rules.pause_seconds, rules.longest_pause_seconds), now)
    return replace(health, failures=failures)


def after_success(health: Health, *, sent_at: float, now: float) -> Health:
    """Return the health after a successful request that was sent at `sent_at`."""
    if sent_at < health.since:
        return health
    if health.standing is EngineStanding.CLOSED:
        return replace(health, failures=0)
    return Health(since=now)


def after_pause(health: Health, now: float) -> Health:
    """Return the health at `now`: an ejected engine whose pause is over is half open."""
    if health.standing is EngineStanding.EJECTED and now - health.since >= health.pause_seconds:
        return replace(health, standing=EngineStanding.HALF_OPEN, since=now)
    return health


def _eject(pause_seconds: float, now: float) -> Health:
    return Health(standing=EngineStanding.EJECTED, since=now, pause_seconds=pause_seconds)
