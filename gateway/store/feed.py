"""Notices changes of the state, including those that other processes make.

PostgreSQL notifies the gateway (LISTEN/NOTIFY), which also polls every second in case a notification is lost. SQLite
is polled twenty times a second, at 4 µs a poll. After a broken connection is replaced, the version is read at once,
so that no change is missed.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.store.database import Database, cut, identity_of
from gateway.store.errors import StoreError
from gateway.store.schema import CHANNEL
from gateway.store.sql import Store

log = logging.getLogger("loragate.feed")

# A poll takes 4 µs (measured) as long as nothing has changed.
SQLITE_POLL_SECONDS: Final = 0.05
# Finds only changes whose notification was lost.
POSTGRES_POLL_SECONDS: Final = 1.0
SHORTEST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 2.0
_VERSION: Final = "SELECT version FROM state"


class Feed:
    """Reports the state's version at first and after each change, by a callback from a thread of its own.

    Args:
        store: The store to watch.
        on_version: Called with the version; must be quick.
        poll_seconds: The time between polls; None for the default of the kind of database.
    """

    def __init__(self, store: Store, on_version: Callable[[int], None], *, poll_seconds: float | None = None) -> None:
        self._store = store
        self._on_version = on_version
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loragate-feed", daemon=True)
        self._watch: _SqliteWatch | _PostgresWatch | None = None
        self._contact = time.monotonic()
        self.seen: int | None = None
        self.trouble = ""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns within a second, even if the store hangs."""
        self._stopping.set()
        watch = self._watch
        if watch is not None:
            watch.wake()
        self._thread.join(1.0)

    def silent_seconds(self) -> float:
        """Return the seconds since the version was last read, or since this feed was created."""
        return time.monotonic() - self._contact

    def _run(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not self._stopping.is_set():
            contact = self._contact
            try:
                self._follow()
            except StoreError as error:
                if self._stopping.is_set():
                    return
                if not self.trouble:
                    log.warning("changes of the state are not noticed until the store answers again: %s", error)
                self.trouble = str(error)
            if self._contact != contact:
                pause = SHORTEST_PAUSE_SECONDS  # the store answered until just now: try again soon
            self._stopping.wait(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _follow(self) -> None:
        self._store.prepare()
        database = self._store.database
        seconds = self._poll_seconds
        if database.is_sqlite:
            self._watch = _SqliteWatch(database, seconds or SQLITE_POLL_SECONDS, self._stopping)
        else:
            self._watch = _PostgresWatch(database, seconds or POSTGRES_POLL_SECONDS)
        with contextlib.closing(self._watch) as watch:
            while not self._stopping.is_set():
                version = watch.version()
                self._contact = time.monotonic()
                if self.trouble:
                    log.warning("the store answers again; changes of the state are noticed")
                    self.trouble = ""
                if version != self.seen:
                    self.seen = version
                    self._on_version(version)
                watch.wait()


class _SqliteWatch:
    """Polls `data_version`, a counter that SQLite changes with every commit of another connection."""

    def __init__(self, database: Database, seconds: float, stopping: threading.Event) -> None:
        self._database = database
        self._seconds = seconds
        self._stopping = stopping
        self._session = database.session()
        self._file = identity_of(database.url)
        self._counter = self._count()

    def version(self) -> int:
        """Return the state's version."""
        row = self._database.ask(self._session, _VERSION)
        return int(row[0]) if row else 0

    def wait(self) -> None:
        """Wait until another connection has committed, or until the feed stops."""
        while not self._stopping.wait(self._seconds):
            counter = self._count()
            if counter != self._counter:
                self._counter = counter
                return

    def _count(self) -> int:
        with self._database.translate_errors():
            if identity_of(self._database.url) != self._file:
                raise FileNotFoundError("the file was removed or replaced")
            return int(self._session.execute("PRAGMA data_version").fetchone()[0])

    def wake(self) -> None:
        """Do nothing: `wait` ends by itself when `stopping` is set."""

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class _PostgresWatch:
    """Waits for notifications; the version is always read from the table, not from the notification."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds
        self._session: Any = database.session()
        database.ask(self._session, f"LISTEN {CHANNEL}")

    def version(self) -> int:
        """Return the state's version."""
        row = self._database.ask(self._session, _VERSION)
        return int(row[0]) if row else 0

    def wait(self) -> None:
        """Wait for a notification, or until the next poll is due."""
        # psycopg queues notifications that arrive with the answer to a query, and `notifies` yields them.
        with self._database.translate_errors():
            for _ in self._session.notifies(timeout=self._seconds, stop_after=1):
                pass

    def wake(self) -> None:
        """Interrupt a `wait` in another thread."""
        cut(self._session)

    def close(self) -> None:
        """Close the session."""
        with contextlib.suppress(Exception):  # the session may be broken, which may be why it is closed
            self._session.close()
