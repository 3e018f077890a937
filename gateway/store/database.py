"""One database, SQLite or PostgreSQL: connections, transactions, time-outs, and errors made ours."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy
from sqlalchemy import Connection, event, exc
from sqlalchemy.engine import URL, make_url

from gateway.store.deadline import Deadline, TimeIsOver
from gateway.store.errors import StoreUnavailable, StoreUnreadable
from gateway.store.postgres import SHARE, Sessions, cut_connection, engine_for

T = TypeVar("T")

DATABASE_FILE: Final = "state.db"
# Of a connection to SQLite: which file it has open.
_FILE: Final = "loragate_file"
# What SQLite says of a file that is not a database, or no longer.
_DAMAGED: Final = ("file is not a database", "database disk image is malformed")


class InvalidUrl(ValueError):
    """Not the address of a database that we can use."""


def address_of(where: str | Path) -> URL:
    """Return the database's address; a path is that of a state folder, and means SQLite in it.

    Raises:
        InvalidUrl: Neither SQLite in a file nor PostgreSQL.
    """
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where / DATABASE_FILE))
    try:
        url = make_url(where)
    except exc.ArgumentError:
        raise InvalidUrl(
            "the store's address is no URL; expected `sqlite:////folder/file.db` or `postgresql://user@host/database`"
        ) from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise InvalidUrl(
        f"`{url.render_as_string()}` is no store; "
        "expected `sqlite:////folder/file.db` or `postgresql://user@host/database`"
    )


class Database:
    """Connections to one database, made when first needed.

    Args:
        url: As `address_of` returns it.
        seconds: The longest that any call may take.
    """

    def __init__(self, url: URL, seconds: float) -> None:
        self.url = url
        self.deadline = Deadline(seconds)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._sessions: Sessions | None = None
        # Without the password, for messages.
        self.label = url.database or "" if self.is_sqlite else url.set(drivername="postgresql").render_as_string()
        try:
            if self.is_sqlite:
                self._engine = _sqlite(url, seconds)
            else:
                self._engine, self._sessions = engine_for(url, seconds, self.label)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("psycopg"):
                raise
            raise InvalidUrl("PostgreSQL needs its driver: pip install 'loragate[postgres]'") from None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads, all of it at one moment.

        Raises:
            StoreUnavailable: It could not be read within the time allowed.
            StoreUnreadable: The file is no database.
        """
        if self.is_sqlite:
            return self._run(work, {"loragate_begin": "BEGIN"})
        return self._run(work, {"isolation_level": "REPEATABLE READ"})

    def write(self, work: Callable[[Connection], T], seconds: float | None = None) -> T:
        """Do `work` in one transaction: whole, or not at all; returns what it returns.

        Raises:
            StoreUnavailable: It was not done within the time allowed, or nobody knows whether it was.
            StoreUnreadable: The file is no database.
        """
        return self._run(work, {"loragate_begin": "BEGIN IMMEDIATE"}, seconds)

    def session(self) -> Any:
        """Return a connection of the driver's, in autocommit, that belongs to the caller, who closes it.

        Raises:
            StoreUnavailable: No connection within the time allowed.
        """

        given_up = threading.Event()

        def connect() -> Any:
            lent = self._engine.raw_connection()
            raw: Any = lent.driver_connection
            lent.detach()
            if given_up.is_set():
                raw.close()
            elif not self.is_sqlite:
                raw.autocommit = True
            return raw

        with self.translate_errors():
            return self.deadline.run(connect, given_up.set)

    def ask(self, session: Any, statement: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row that a statement gives on a session.

        Raises:
            StoreUnavailable: It gives none within the time allowed, or the session is no longer its own; close it.
        """

        def ask() -> tuple[Any, ...] | None:
            if self._sessions is not None:
                self._sessions.check(session)
            cursor = session.execute(statement, values)
            row: tuple[Any, ...] | None = cursor.fetchone() if cursor.description else None
            return row

        with self.translate_errors():
            return self.deadline.run(ask, lambda: cut(session))

    def dispose(self) -> None:
        """Close what is idle."""
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], options: dict[str, Any], seconds: float | None = None) -> T:
        lent: list[Any] = []
        given_up = threading.Event()

        def check_waiting() -> None:
            # What was told to have failed must not be done later, when the database answers again.
            if given_up.is_set():
                raise TimeIsOver("nobody waits any more")

        def run() -> T:
            with self._engine.connect().execution_options(**options) as connection:
                lent.append(connection.connection.driver_connection)
                check_waiting()
                with connection.begin():
                    check_waiting()
                    outcome = work(connection)
                    check_waiting()
                    return outcome

        def give_up() -> None:
            given_up.set()
            cut(*lent[:1])

        with self.translate_errors():
            return self.deadline.run(run, give_up, seconds)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the errors of database and driver into ours."""
        try:
            yield
        except TimeIsOver as error:
            raise self._unavailable(str(error)) from None
        except exc.IntegrityError:
            raise  # a mistake of ours, not the database's state
        except exc.DBAPIError as error:
            raise self._translate(error.orig or error) from None
        except (exc.SQLAlchemyError, OSError) as error:
            raise self._unavailable(_first_line(error)) from None
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("sqlite3", "psycopg"):
                raise
            raise self._translate(error) from None

    def _translate(self, error: BaseException) -> StoreUnavailable | StoreUnreadable:
        reason = _first_line(error)
        if any(sign in reason for sign in _DAMAGED):
            return StoreUnreadable(
                f"`{self.label}` cannot be read ({reason}); restore it from a backup, or move it away to begin anew"
            )
        return self._unavailable(reason)

    def _unavailable(self, reason: str) -> StoreUnavailable:
        hint = "free space on its disk, or see who may write it" if self.is_sqlite else "see whether the server is up"
        return StoreUnavailable(
            f"the store `{self.label}` does not work ({reason}); what is served goes on, changes must wait: {hint}"
        )


def cut(session: Any = None) -> None:
    """Make whoever waits on a connection of a driver's stop waiting."""
    with contextlib.suppress(Exception):
        if hasattr(session, "interrupt"):
            session.interrupt()
        elif session is not None:
            cut_connection(session)


def identity_of(url: URL) -> tuple[int, int] | None:
    """Return what tells an SQLite file from another that was put in its place; None if there is none."""
    try:
        found = Path(url.database or "").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _sqlite(url: URL, seconds: float) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(
        url, connect_args={"timeout": seconds * SHARE}, pool_timeout=seconds * SHARE, max_overflow=0
    )

    def prepare(_dialect: object, _record: object, arguments: Any, _options: object) -> None:
        path = Path(arguments[0])
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # It holds the digests of keys. SQLite gives its other files the rights of this one.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def configure(raw: Any, record: Any) -> None:
        record.info[_FILE] = identity_of(url)
        raw.isolation_level = None  # transactions begin where we say, not at the first change
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")  # what was answered as done stays done when the power goes
        raw.execute("PRAGMA secure_delete=ON")  # callers' words that were deleted must not lie on in the file

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("loragate_begin", "BEGIN"))

    def check_file(_raw: object, record: Any, _proxy: object) -> None:
        if record.info.get(_FILE) != identity_of(url):
            raise exc.DisconnectionError("the file was removed or replaced")  # the pool connects to what is there

    event.listen(engine, "do_connect", prepare)
    event.listen(engine, "checkout", check_file)
    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine
