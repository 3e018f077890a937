"""Which worker has not answered for too long: what was asked, since when, and what that means. No I/O, no clock.

No worker may serve from an old route table for more than 5 s. Within that fall the time that a worker has to confirm
a table, a look at the watch, and the end of the worker, which is killed if it stands still.

A node that was itself stopped, suspended or held up must not take that for its workers' silence: their answers lie
unread. So all times here are of a clock that passes only while the node looks at it.
"""

from typing import Final

# How often workers are looked at.
LOOK_SECONDS: Final = 0.25
# What one look may count for at most: longer than that the node itself was away.
MAX_LOOK_SECONDS: Final = 2 * LOOK_SECONDS
# A worker that has answered nothing for so long is told of (`/readyz`, `status`, a metric): it may be busy or stuck.
SILENT_SECONDS: Final = 2.0
# A worker that has not confirmed a table for so long is killed; it could serve revoked keys and versions.
CONFIRM_SECONDS: Final = 3.5
# A worker is asked for a sign of life so often, and killed after so long without; nothing has changed meanwhile, so it
# gets longer, but every connection that it holds stands still.
PING_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
# How long a process may take from its start until it accepts connections: a second, or 30 on a loaded machine.
START_SECONDS: Final = 120.0


class AwakeClock:
    """Seconds that this process has been awake for, as far as it has looked.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self.now = 0.0

    def look(self, now: float) -> float:
        """Let it go on to `now`, monotonic seconds, but not by longer than a node that is awake takes between looks."""
        self.now += min(max(0.0, now - self._looked_at), MAX_LOOK_SECONDS)
        self._looked_at = now
        return self.now


class Liveness:
    """What one worker has been asked and has not answered; times are an `AwakeClock`'s.

    Args:
        now: When it was started.
    """

    def __init__(self, now: float) -> None:
        self._started = now
        self._accepts = False
        self._tables: dict[int, float] = {}  # not confirmed: number → since when
        self._pinged: float | None = None
        self._ping_at = now

    def on_ready(self, now: float) -> None:
        """It accepts connections; what it was sent while it started counts from now."""
        self._accepts = True
        self._tables = dict.fromkeys(self._tables, now)
        self._ping_at = now + PING_SECONDS

    def on_table_sent(self, table: int, now: float) -> None:
        """It has been sent a table."""
        self._tables[table] = now

    def on_confirmed(self, table: int) -> None:
        """It has answered about a table, and so about those before."""
        self._tables = {number: since for number, since in self._tables.items() if number > table}

    def ping_is_due(self, now: float) -> bool:
        """Whether to ask for a sign of life; then it has been asked."""
        if not self._accepts or self._pinged is not None or now < self._ping_at:
            return False
        self._pinged = now
        return True

    def on_pong(self, now: float) -> None:
        """It has given a sign of life."""
        self._pinged = None
        self._ping_at = now + PING_SECONDS

    def is_silent(self, now: float) -> bool:
        """Whether it has left something unanswered for so long that it has to be told of."""
        since = min(self._tables.values(), default=now) if self._accepts else now
        return now - min(since, now if self._pinged is None else self._pinged) >= SILENT_SECONDS

    def overdue(self, now: float) -> str:
        """Return what it has to be killed for, as a sentence goes on behind its name; empty if nothing."""
        if not self._accepts:
            return f"has not started within {START_SECONDS:g} s" if now - self._started >= START_SECONDS else ""
        if now - min(self._tables.values(), default=now) >= CONFIRM_SECONDS:
            return f"has not confirmed a route table within {CONFIRM_SECONDS:g} s"
        if self._pinged is not None and now - self._pinged >= ANSWER_SECONDS:
            return f"has given no sign of life for {ANSWER_SECONDS:g} s"
        return ""
