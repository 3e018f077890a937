"""Tells when the state has changed, whoever changed it.

PostgreSQL wakes us (LISTEN/NOTIFY), and we look every second in case a wake-up is lost; SQLite
is looked at twenty times a second, which costs it next to nothing. A connection that breaks is
made anew, and then the version is looked at, so that no change is missed.
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

# Measured: 4 µs a look, as long as nothing has changed.
SQLITE_POLL_SECONDS: Final = 0.05
# Only finds what LISTEN has missed.
POSTGRES_POLL_SECONDS: Final = 1.0
SHORTEST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 2.0
_VERSION: Final = "SELECT version FROM state"


class Feed:
    """Calls back with the state's version, at first and whenever it is another, from a thread of its own.

    Args:
        store: What is watched.
        on_version: Called with the version; must be quick.
        poll_seconds: How often it looks; None for what suits the database.
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
        """Watch no more; returns soon, even if the store hangs."""
        self._stopping.set()
        watch = self._watch
        if watch is not None:
            watch.wake()
        self._thread.join(1.0)

    def silent_seconds(self) -> float:
        """Return how long ago the store last told its version, or since when it was asked."""
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
                    log.warning("changes are not seen for now: %s", error)
                self.trouble = str(error)
            if self._contact != contact:
                pause = SHORTEST_PAUSE_SECONDS  # it worked until just now
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
                    log.warning("changes are seen again")
                    self.trouble = ""
                if version != self.seen:
                    self.seen = version
                    self._on_version(version)
                watch.wait()


class _SqliteWatch:
    """Looks at a counter that SQLite changes with every commit of another connection."""

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
        """Wait until something was committed, or for the end."""
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
        """It looks at `stopping` itself."""

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class _PostgresWatch:
    """Listens; a notification only wakes, and what counts is what the table says."""

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
        """Wait for a notification, or until it is time to look."""
        # psycopg keeps the notifications that come with the answer to a query for this.
        with self._database.translate_errors():
            for _ in self._session.notifies(timeout=self._seconds, stop_after=1):
                pass

    def wake(self) -> None:
        """Make who waits stop waiting."""
        cut(self._session)

    def close(self) -> None:
        """Close the session."""
        with contextlib.suppress(Exception):  # it may be broken, which is why we close it
            self._session.close()
