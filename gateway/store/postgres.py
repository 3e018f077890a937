"""Connections to PostgreSQL: setting them up, and checking that each has a session of its own.

Leadership uses advisory locks, and changes are announced by NOTIFY; both belong to a session of the server. A pooler
that lends a session for one transaction only (PgBouncer's `pool_mode = transaction`) gives the locks of one gateway to
another and loses notifications. So such a pooler is detected at the first connection, and each later use of a
connection checks that it still has the session that it began with.

Only parameters that every pooler accepts are sent while connecting (no `options`); settings are made afterwards.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.engine import URL

from gateway.store.errors import SessionsNotKept

log = logging.getLogger("loragate.store")

# The share of a call's time that statements and locks may take, so that the server's time-outs come first.
SHARE: Final = 0.8
# How often sessions are compared: a pooler may by chance lend the same session several times in a row.
LOOKS: Final = 8
# The share of a call's time to wait for a second connection while the first is open.
_WAIT_SHARE: Final = 0.3
# The most connections that a gateway opens (`pool_size` + `max_overflow` below, the leader's and the feed's).
MAX_CONNECTIONS: Final = 8
# The check is repeated, since a pooler may be put in between, or change its mode, while a gateway runs.
RECHECK_SECONDS: Final = 60.0
# A setting that PostgreSQL does not know, which a session keeps until it ends.
_MARK: Final = "loragate.session"
_WHOSE: Final = f"SELECT pg_backend_pid(), current_setting('{_MARK}', true)"
_PID: Final = "SELECT pg_backend_pid()"

Connect = Callable[[], Any]


class Sessions:
    """Sets up new connections, and checks that each still has its own session.

    Args:
        settings: The settings of each session, by name.
        label: The database's name in messages.
        seconds: The longest that a call may take.
        clock: Monotonic seconds.
    """

    def __init__(
        self, settings: Mapping[str, str], label: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = {**settings}
        self._label = label
        self._seconds = seconds
        self._clock = clock
        self._checked_at: float | None = None
        self._guard = threading.Lock()
        # The identity of each connection's session: the server's process id, and a random mark set in the session.
        self._known: weakref.WeakKeyDictionary[Any, tuple[int, str]] = weakref.WeakKeyDictionary()

    def connect(self, connect: Connect) -> Any:
        """Return a new connection that is set up.

        Raises:
            SessionsNotKept: A pooler lends its session to others.
        """
        raw = connect()
        try:
            with self._guard:
                if self._checked_at is None or self._clock() - self._checked_at > RECHECK_SECONDS:
                    # Before any setting is made: in a shared session it would apply to the session's next user, too.
                    self._check_pooler(raw, connect)
                    self._checked_at = self._clock()
            self._set_up(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def check(self, raw: Any) -> None:
        """Check that a connection, which must be in no transaction, answers and still has its session.

        Raises:
            SessionsNotKept: The connection now has another session.
        """
        found = _ask(raw, _WHOSE)
        if found != self._known.get(raw):
            raise self._not_kept()

    def _set_up(self, raw: Any) -> None:
        mark = secrets.token_hex(8)
        settings = {**self._settings, _MARK: mark}
        statement = ", ".join(["SELECT pg_backend_pid()", *("set_config(%s, %s, false)" for _ in settings)])
        row = _ask(raw, statement, *(each for setting in settings.items() for each in setting))
        self._known[raw] = (row[0], mark)

    def _check_pooler(self, first: Any, connect: Connect) -> None:
        """Check that a second connection, in a transaction, neither gets the session of the first nor displaces it."""
        own = _ask(first, _PID)
        second = connect()
        is_given_up = threading.Event()

        def give_up() -> None:
            is_given_up.set()
            cut_connection(second)

        waited = threading.Timer(self._seconds * _WAIT_SHARE, give_up)
        waited.start()
        try:
            second.autocommit = True
            for _ in range(LOOKS):
                if not _begin(second) or _ask(second, _PID) == own or _ask(first, _PID) != own:
                    raise self._not_kept()
                second.execute("ROLLBACK")
        except SessionsNotKept:
            raise
        except Exception:
            if not is_given_up.is_set():
                raise
            # No sharing pooler: that would have given the second connection the idle session of the first.
            log.warning(
                "the store `%s` gave one connection and let a second wait for %g s; a gateway uses up to %d: raise the "
                "pooler's `default_pool_size`, or the server's `max_connections`",
                self._label,
                waited.interval,
                MAX_CONNECTIONS,
            )
        finally:
            waited.cancel()
            with contextlib.suppress(Exception):  # the connection may be broken, and is not needed any more
                second.close()

    def _not_kept(self) -> SessionsNotKept:
        return SessionsNotKept(
            f"the store `{self._label}` is behind a connection pooler that lends a session of PostgreSQL for one "
            "transaction or statement at a time, which loses locks and notifications: set PgBouncer's "
            "`pool_mode = session` for this database, or connect to the server itself"
        )


def cut_connection(raw: Any) -> None:
    """Shut down a connection's socket, so that a thread that waits on it stops waiting."""
    with socket.socket(fileno=os.dup(raw.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def _ask(raw: Any, statement: str, *values: object) -> Any:
    """Run a statement outside of transactions; returns its first row."""
    if raw.autocommit:  # psycopg refuses to set it within a transaction, even to the same value
        return raw.execute(statement, values).fetchone()
    raw.autocommit = True
    try:
        return raw.execute(statement, values).fetchone()
    finally:
        raw.autocommit = False


def _begin(raw: Any) -> bool:
    """Begin a transaction; returns False if the pooler forbids it, as one in statement mode does."""
    import psycopg

    try:
        raw.execute("BEGIN")
    except psycopg.Error as error:
        if "pooling" not in str(error):
            raise
        return False
    return True


def engine_for(url: URL, seconds: float, label: str) -> tuple[sqlalchemy.Engine, Sessions]:
    """Return an SQLAlchemy engine for PostgreSQL, and the Sessions that set up and check its connections.

    Args:
        url: The database's address.
        seconds: The longest that any call may take.
        label: The database without its password, for messages.
    """
    milliseconds = int(seconds * SHARE * 1000)
    sessions = Sessions(
        {
            "statement_timeout": str(milliseconds),
            "lock_timeout": str(milliseconds),
            # A client that is paused within a transaction must not keep its row locks for long.
            "idle_in_transaction_session_timeout": str(milliseconds),
            "synchronous_commit": "on",
        },
        label,
        seconds,
    )
    arguments = {
        "connect_timeout": max(2, int(seconds)),  # libpq allows no less than 2
        "application_name": "loragate",
        "prepare_threshold": None,  # prepared statements belong to a session, too, and save nothing here
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
    }
    engine = sqlalchemy.create_engine(
        url, connect_args=arguments, pool_size=2, max_overflow=4, pool_timeout=seconds * SHARE
    )

    def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        return sessions.connect(lambda: dialect.connect(*arguments, **options))

    def check_session(raw: Any, _record: object, _proxy: object) -> None:
        try:
            raw.rollback()  # ends the transaction of SQLAlchemy's own queries at connecting
            sessions.check(raw)
        except SessionsNotKept:
            raise
        except Exception as error:
            # The connection is broken, and most likely all others of the pool are: the pool replaces them.
            raise exc.InvalidatePoolError from error

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", check_session)
    return engine, sessions
