"""Decides which workers have not answered for too long. No I/O, no clock.

No worker may serve from an old route table for more than 5 s. These include the time that a worker has to confirm a
table, the interval between two looks, and the time to kill a worker that is stuck.

A node that was itself stopped, suspended or blocked must not take that for its workers' silence: their answers are only
unread. So all times here are of a clock that advances only while the node looks at it.
"""

from typing import Final

# How often workers are checked.
LOOK_SECONDS: Final = 0.25
# The most by which one look advances the clock: if more time has passed, the node itself was blocked.
MAX_LOOK_SECONDS: Final = 2 * LOOK_SECONDS
# A worker that has not answered for this long is reported as unresponsive (`/readyz`, `status`, a metric): it may be
# busy or stuck.
SILENT_SECONDS: Final = 2.0
# A worker that has not confirmed a table for this long is killed: it could serve revoked keys and versions.
CONFIRM_SECONDS: Final = 3.5
# How often a worker is pinged, and after how long without an answer it is killed. That is longer than for a table, as
# no change depends on it; but all connections of a stuck worker hang.
PING_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
# How long a process may take from its start until it accepts connections: usually a second, 30 on a loaded machine.
START_SECONDS: Final = 120.0


class AwakeClock:
    """A clock of the seconds during which this process was running: it advances at each look, by a bounded step.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self.now = 0.0

    def look(self, now: float) -> float:
        """Advance to `now` (monotonic seconds), by `MAX_LOOK_SECONDS` at most; return this clock's time."""
        self.now += min(max(0.0, now - self._looked_at), MAX_LOOK_SECONDS)
        self._looked_at = now
        return self.now


class Liveness:
    """What one worker was asked and has not answered yet. All times are of an `AwakeClock`.

    Args:
        now: When the worker was started.
    """

    def __init__(self, now: float) -> None:
        self._started = now
        self._accepts = False
        self._tables: dict[int, float] = {}  # unconfirmed tables: number → when it was sent
        self._pinged: float | None = None
        self._ping_at = now

    def on_ready(self, now: float) -> None:
        """The worker accepts connections: for tables that it was sent while it started, time counts from now."""
        self._accepts = True
        self._tables = dict.fromkeys(self._tables, now)
        self._ping_at = now + PING_SECONDS

    def on_table_sent(self, table: int, now: float) -> None:
        """The worker was sent a table."""
        self._tables[table] = now

    def on_confirmed(self, table: int) -> None:
        """The worker has answered for a table, and so for all tables before it."""
        self._tables = {number: since for number, since in self._tables.items() if number > table}

    def ping_is_due(self, now: float) -> bool:
        """Whether to ping the worker now; if so, the ping counts as sent."""
        if not self._accepts or self._pinged is not None or now < self._ping_at:
            return False
        self._pinged = now
        return True

    def on_pong(self, now: float) -> None:
        """The worker has answered a ping."""
        self._pinged = None
        self._ping_at = now + PING_SECONDS

    def is_silent(self, now: float) -> bool:
        """Whether the worker has not answered for `SILENT_SECONDS`, so that it is reported as unresponsive."""
        since = min(self._tables.values(), default=now) if self._accepts else now
        return now - min(since, now if self._pinged is None else self._pinged) >= SILENT_SECONDS

    def overdue(self, now: float) -> str:
        """Return why the worker has to be killed, as the predicate of a sentence; empty if it does not."""
        if not self._accepts:
            return f"has not started within {START_SECONDS:g} s" if now - self._started >= START_SECONDS else ""
        if now - min(self._tables.values(), default=now) >= CONFIRM_SECONDS:
            return f"has not confirmed a route table within {CONFIRM_SECONDS:g} s"
        if self._pinged is not None and now - self._pinged >= ANSWER_SECONDS:
            return f"has given no sign of life for {ANSWER_SECONDS:g} s"
        return ""
