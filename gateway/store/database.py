"""Access to one database, SQLite or PostgreSQL: connections, transactions, time-outs, and translation of errors."""

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
# The entry of a pooled SQLite connection that identifies the file it has open.
_FILE: Final = "loragate_file"
# SQLite's messages about a file that is not a database, or is damaged.
_DAMAGED: Final = ("file is not a database", "database disk image is malformed")


class InvalidUrl(ValueError):
    """The address is not of a kind of database that Loragate can use."""


def address_of(where: str | Path) -> URL:
    """Return the database's address; a path names a state folder and means the SQLite file in it.

    Raises:
        InvalidUrl: The address is neither of SQLite in a file nor of PostgreSQL.
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
    """Access to one database; connections are opened when first needed.

    Args:
        url: As `address_of` returns it.
        seconds: The longest that any call may take.
    """

    def __init__(self, url: URL, seconds: float) -> None:
        self.url = url
        self.deadline = Deadline(seconds)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._sessions: Sessions | None = None
        # The address without its password, for messages.
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
        """Run `work` in a read transaction, which sees the data of one moment; returns its result.

        Raises:
            StoreUnavailable: The database did not answer within the time allowed.
            StoreUnreadable: The file is not a database.
        """
        if self.is_sqlite:
            return self._run(work, {"loragate_begin": "BEGIN"})
        return self._run(work, {"isolation_level": "REPEATABLE READ"})

    def write(self, work: Callable[[Connection], T], seconds: float | None = None) -> T:
        """Run `work` in one transaction, which is applied wholly or not at all; returns its result.

        Raises:
            StoreUnavailable: It was not committed within the time allowed, or it is unknown whether it was.
            StoreUnreadable: The file is not a database.
        """
        return self._run(work, {"loragate_begin": "BEGIN IMMEDIATE"}, seconds)

    def session(self) -> Any:
        """Return a new connection of the driver, in autocommit mode; the caller has to close it.

        Raises:
            StoreUnavailable: There was no connection within the time allowed.
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
        """Run a statement on a connection from `session`; returns its first row, or None.

        Raises:
            StoreUnavailable: There was no answer within the time allowed, or a pooler has changed the connection's
                session; close it.
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
        """Close idle connections."""
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], options: dict[str, Any], seconds: float | None = None) -> T:
        lent: list[Any] = []
        given_up = threading.Event()

        def check_waiting() -> None:
            # The caller has been told that the call failed, so it must not take effect when the database answers again.
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
        """Translate errors of the database and its driver into StoreError."""
        try:
            yield
        except TimeIsOver as error:
            raise self._unavailable(str(error)) from None
        except exc.IntegrityError:
            raise  # violates a constraint, which callers handle: the database works
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
    """Interrupt a driver's connection, so that a thread that waits on it stops waiting."""
    with contextlib.suppress(Exception):
        if hasattr(session, "interrupt"):
            session.interrupt()
        elif session is not None:
            cut_connection(session)


def identity_of(url: URL) -> tuple[int, int] | None:
    """Return device and inode of an SQLite file, to notice when another file replaces it; None if there is no file."""
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
        # The file holds digests of keys. SQLite creates its other files with the permissions of this one.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def configure(raw: Any, record: Any) -> None:
        record.info[_FILE] = identity_of(url)
        raw.isolation_level = None  # transactions begin explicitly (`begin` below), not at the first change
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")  # a committed change survives a loss of power
        raw.execute("PRAGMA secure_delete=ON")  # deleted words of callers must not remain in the file

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("loragate_begin", "BEGIN"))

    def check_file(_raw: object, record: Any, _proxy: object) -> None:
        if record.info.get(_FILE) != identity_of(url):
            raise exc.DisconnectionError("the file was removed or replaced")  # makes the pool open the new file

    event.listen(engine, "do_connect", prepare)
    event.listen(engine, "checkout", check_file)
    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine
