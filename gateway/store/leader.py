"""Election of the leader, the one gateway that advances rollouts, by a lock and a growing number called the fence.

The lock shows at once that a leader's process has ended; a pulse that stops shows that it was paused or cut off.
Neither is relied on for safety: each write of a leader carries its fence, and the store refuses the write once another
leader has a higher one. So two gateways may believe that they lead, but only one of them can write.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Connection, select, update

from gateway.store import schema
from gateway.store.errors import StoreUnavailable
from gateway.store.sql import Store

log = logging.getLogger("loragate.leader")

# A leader that is silent for this long is replaced: longer than a pause of the garbage collector or of a busy
# disk, shorter than a step of a rollout.
LEASE_SECONDS: Final = 3.0
# Any number, the same in every release; the advisory locks are named (this number, fence).
_LOCK_CLASS: Final = 0x10_7A


class Lock(Protocol):
    """Locks named by numbers; each is held by at most one process and is free when that process ends."""

    def take(self, number: int) -> bool:
        """Whether this process has lock `number` now."""

    def holds(self, number: int) -> bool:
        """Whether this process still has lock `number`."""

    def beat(self, number: int) -> None:
        """Change the pulse of lock `number`."""

    def pulse(self, number: int) -> object:
        """Return a value that differs after each beat of the lock's holder."""

    def drop_all_but(self, number: int | None) -> None:
        """Free all locks of this process except lock `number`."""


class Leader:
    """A gateway that takes part in the election. Call `step` at least three times in `lease_seconds`.

    Args:
        store: The store.
        holder: The gateway's name, for operators.
        lease_seconds: How long a leader may be silent before another takes over.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._clock = clock
        database = store.database
        self._lock: Lock = _FileLock(Path(database.url.database or "")) if database.is_sqlite else _SessionLock(store)
        self._pulse: object = None
        self._pulse_at = clock()
        self.fence: int | None = None

    def step(self) -> int | None:
        """Keep the lead, or try to take it; returns the fence to write with, or None without the lead.

        Raises:
            StoreUnavailable: The store cannot say who leads; a leader could not write to it either.
        """
        current = self._store.run_read(lambda connection: connection.scalar(select(schema.state.c.fence)) or 0)
        if self.fence is None:
            return self._try_to_lead(current)
        if self.fence != current or not (self._lock.holds(self.fence) or self._lock.take(self.fence)):
            log.warning("%s leads no more: leader %d has taken over from %d", self._holder, current, self.fence)
            self.resign()
            return None
        self._lock.beat(self.fence)
        return self.fence

    def resign(self) -> None:
        """Give up the lead; another gateway takes over at its next step."""
        self.fence = None
        with contextlib.suppress(StoreUnavailable):
            self._lock.drop_all_but(None)

    def _try_to_lead(self, current: int) -> int | None:
        if not self._lock.take(current) and not self._is_silent(current):
            return None
        # The lock of the next fence lets only one go on of several gateways that find the leader gone.
        if self._lock.take(current + 1) and self._store.run_write(
            lambda connection: self._raise_fence(connection, current)
        ):
            self.fence = current + 1
            log.info("%s leads as number %d", self._holder, self.fence)
        self._lock.drop_all_but(self.fence)
        return self.fence

    def _is_silent(self, current: int) -> bool:
        """Whether the leader's pulse has not changed for the lease's time, by this process's clock."""
        pulse = (current, self._lock.pulse(current))
        if pulse != self._pulse:
            self._pulse, self._pulse_at = pulse, self._clock()
        return self._clock() - self._pulse_at >= self._lease_seconds

    def _raise_fence(self, connection: Connection, current: int) -> bool:
        state = schema.state
        result = connection.execute(update(state).where(state.c.fence == current).values(fence=current + 1))
        if result.rowcount == 1:
            connection.execute(update(schema.leader).values(holder=self._holder))
        return result.rowcount == 1


class _FileLock:
    """Lock files beside an SQLite database; each file contains its holder's pulse."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._held: dict[int, int] = {}
        self._beats = 0

    def _path(self, number: int) -> Path:
        return self._database.with_name(f"{self._database.name}.leader-{number}")

    def take(self, number: int) -> bool:
        if number in self._held:
            return True
        try:
            descriptor = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"`{self._path(number)}` cannot be made ({error.strerror}); make room") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._held[number] = descriptor
        return True

    def holds(self, number: int) -> bool:
        return number in self._held

    def beat(self, number: int) -> None:
        self._beats += 1
        with contextlib.suppress(OSError):  # on a full disk this leader may lose the lead, which does no harm
            os.pwrite(self._held[number], b"%020d" % self._beats, 0)

    def pulse(self, number: int) -> object:
        with contextlib.suppress(OSError):
            return self._path(number).read_bytes()
        return b""

    def drop_all_but(self, number: int | None) -> None:
        for each in [each for each in self._held if each != number]:
            # Another process may have just opened the file, which does no harm: the fence decides.
            self._path(each).unlink(missing_ok=True)
            os.close(self._held.pop(each))


class _SessionLock:
    """Advisory locks of a PostgreSQL session, and a pulse in a table."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._session: Any = None
        self._held: set[int] = set()

    def take(self, number: int) -> bool:
        if self._session is None:
            self._session = self._store.database.session()
        if number not in self._held and self._ask("SELECT pg_try_advisory_lock(%s, %s)", number):
            self._held.add(number)
        return number in self._held

    def holds(self, number: int) -> bool:
        """Check that the session still works: a broken one has lost its locks."""
        if number not in self._held:
            return False
        try:
            self._ask("SELECT %s = %s OR true", number)
        except StoreUnavailable:
            return False
        return True

    def beat(self, number: int) -> None:
        leader = schema.leader
        self._store.run_write(lambda connection: connection.execute(update(leader).values(beats=leader.c.beats + 1)))

    def pulse(self, number: int) -> object:
        return self._store.run_read(lambda connection: connection.scalar(select(schema.leader.c.beats)))

    def drop_all_but(self, number: int | None) -> None:
        for each in self._held - {number}:
            self._ask("SELECT pg_advisory_unlock(%s, %s)", each)
            self._held.discard(each)
        if number is None:
            self._close()

    def _ask(self, statement: str, number: int) -> bool:
        try:
            row = self._store.database.ask(self._session, statement, _LOCK_CLASS, number)
        except StoreUnavailable:
            self._close()
            raise
        return bool(row and row[0])

    def _close(self) -> None:
        session, self._session = self._session, None
        self._held.clear()
        if session is not None:
            with contextlib.suppress(Exception):  # the session may be broken, which may be why it is closed
                session.close()
