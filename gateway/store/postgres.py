"""Connections to PostgreSQL: how each is set up, and that each has a session of its own.

Leases are advisory locks and changes are told by NOTIFY, and both belong to a session of the server. A pooler that
lends a session for a transaction only (PgBouncer's `pool_mode = transaction`) gives the locks of one gateway to
another and loses notifications. So it is recognised at the first connection, and each later use of a connection
looks whether it still has the session that it began with.

Nothing but what every pooler knows is sent while connecting (no `options`); the rest is set afterwards.
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

# Of a statement's and a lock's time within the time that a call may take: so the server's own time-outs come first.
SHARE: Final = 0.8
# A pooler may by chance lend the same session several times running; between looks another connection uses it.
LOOKS: Final = 8
# For what one more connection may be waited when the first is there: less than a call may take.
_WAIT_SHARE: Final = 0.3
# What a gateway holds at most (`pool_size`, `max_overflow` below, its leader's and its feed's).
MAX_CONNECTIONS: Final = 8
# A pooler may be put in between, or get another mode, while a gateway runs.
RECHECK_SECONDS: Final = 60.0
# A setting that PostgreSQL does not know, which a session keeps until it ends.
_MARK: Final = "loragate.session"
_WHOSE: Final = f"SELECT pg_backend_pid(), current_setting('{_MARK}', true)"
_PID: Final = "SELECT pg_backend_pid()"

Connect = Callable[[], Any]


class Sessions:
    """Sets new connections up, and tells when one no longer has its session.

    Args:
        settings: Of each session, by name.
        label: The database, for messages.
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
        # What tells a connection's session from all others: the server's process, and the mark that we left.
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
                    # Before anything is set: what is set in a session that is lent on would hold for its next user.
                    self._check_pooler(raw, connect)
                    self._checked_at = self._clock()
            self._set_up(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def check(self, raw: Any) -> None:
        """Look whether a connection, which is in no transaction, answers and has its session still.

        Raises:
            SessionsNotKept: It has another.
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
        """Look whether another connection, in a transaction, is given the session of the first, or ousts it."""
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
            # A pooler that lends sessions would have lent it the first one's, which is idle.
            log.warning(
                "the store `%s` gave one connection and let a second wait for %g s; a gateway uses up to %d: raise the "
                "pooler's `default_pool_size`, or the server's `max_connections`",
                self._label,
                waited.interval,
                MAX_CONNECTIONS,
            )
        finally:
            waited.cancel()
            with contextlib.suppress(Exception):  # it may be broken; what it was for is over
                second.close()

    def _not_kept(self) -> SessionsNotKept:
        return SessionsNotKept(
            f"the store `{self._label}` is behind a connection pooler that lends a session of PostgreSQL for one "
            "transaction or statement at a time, which loses locks and notifications: set PgBouncer's "
            "`pool_mode = session` for this database, or connect to the server itself"
        )


def cut_connection(raw: Any) -> None:
    """Make whoever waits on a connection stop waiting."""
    with socket.socket(fileno=os.dup(raw.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def _ask(raw: Any, statement: str, *values: object) -> Any:
    """Return the row that a statement gives outside of transactions."""
    if raw.autocommit:  # it may not be set within a transaction, not even to what it is
        return raw.execute(statement, values).fetchone()
    raw.autocommit = True
    try:
        return raw.execute(statement, values).fetchone()
    finally:
        raw.autocommit = False


def _begin(raw: Any) -> bool:
    """Begin a transaction; False if that is not allowed, as it is not where a pooler lends statement by statement."""
    import psycopg

    try:
        raw.execute("BEGIN")
    except psycopg.Error as error:
        if "pooling" not in str(error):
            raise
        return False
    return True


def engine_for(url: URL, seconds: float, label: str) -> tuple[sqlalchemy.Engine, Sessions]:
    """Return an engine whose connections are set up, and what looks after their sessions.

    Args:
        url: Of the database.
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
        "prepare_threshold": None,  # a prepared statement is of a session, too, and saves us nothing
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
            raw.rollback()  # what the library asked when it connected
            sessions.check(raw)
        except SessionsNotKept:
            raise
        except Exception as error:
            # It has broken, and so have most likely those beside it: the pool connects anew.
            raise exc.InvalidatePoolError from error

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", check_session)
    return engine, sessions
