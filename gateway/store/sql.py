"""The store: the desired state with its history and journal, in SQLite or PostgreSQL.

Its calls block, and are made from threads of the admin side; the processes that serve requests never call it. Every
call ends within the time allowed. A change and the journal entry that explains it are written in one transaction,
before anything acts on the change.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, func, select, text, update

from gateway.records.routes import RouteVersion
from gateway.records.state import Desired
from gateway.rollout import journal as chain
from gateway.rollout.record import StoredRollout
from gateway.store import rows, schema
from gateway.store.database import Database, address_of
from gateway.store.errors import Fenced, StaleWrite, StoreTooNew
from gateway.store.migrate import check_is_known, create_or_migrate, revision_of

T = TypeVar("T")

# The longest that a call may take by default: longer than it takes to notice the failover of a database.
CALL_SECONDS: Final = 5.0
# A migration may rewrite tables, and happens once a release.
MIGRATION_SECONDS: Final = 120.0
PAGE: Final = 1000


def open_store(where: str | Path, *, now: Callable[[], float], seconds: float = CALL_SECONDS) -> "Store":
    """Return the store at `where`, without connecting to it yet.

    Args:
        where: `sqlite:////folder/file.db`, `postgresql://user@host/database`, or a state folder for SQLite in it.
        now: Returns the time in Unix seconds.
        seconds: The longest that any call may take.

    Raises:
        InvalidUrl: `where` is none of these.
    """
    return Store(Database(address_of(where), seconds), now)


class Store:
    """The desired state with its history, rollouts and journal.

    Every method may raise StoreUnavailable, StoreUnreadable and StoreTooNew.

    Args:
        database: The database that holds it.
        now: Returns the time in Unix seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self.database = database
        self.now = now
        self._is_prepared = False
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Create or migrate the tables if needed; the first call of any other method does this, too."""
        with self._preparing:
            # Only once: a database that is suddenly empty must not become a new store under a running gateway.
            if self._is_prepared:
                return
            found = self.database.read(revision_of)
            check_is_known(found)
            if found != schema.HEAD:
                self.database.write(_migrate, MIGRATION_SECONDS)
            self._is_prepared = True

    def read_state(self) -> Desired:
        """Return the desired state; an empty one before the first change."""
        return self.run_read(rows.read_all)

    def version(self) -> int:
        """Return the state's version."""
        return self.run_read(lambda connection: connection.scalar(select(schema.state.c.version)) or 0)

    def write_state(
        self,
        desired: Desired,
        *,
        expected: int,
        journal: Sequence[Mapping[str, Any]] = (),
        fence: int | None = None,
        by: str = "",
        reason: str = "",
    ) -> Desired:
        """Replace the state and append to the journal; returns the state with its new version, without closed rollouts.

        Args:
            desired: The new state; its `version` is ignored.
            expected: The version that the change was made from.
            journal: The journal records that explain the change, as JSON values.
            fence: The leader's fence; None for a change that an operator makes.
            by, reason: Who made the change and why, for the history of the changed routes.

        Raises:
            StaleWrite: The state is no longer at version `expected`.
            Fenced: Another leader has taken over.
        """
        mark = RouteVersion(
            alias="", number=0, state=expected + 1, at=int(self.now()), route=None, by=by, reason=reason
        )

        def work(connection: Connection) -> None:
            _advance(connection, expected, fence)
            rows.write_keys(connection, desired.keys)
            rows.write_adapters(connection, desired.adapters)
            rows.write_routes(connection, desired.routes, mark)
            rows.write_rollouts(connection, desired.rollouts)
            rows.write_journal(connection, journal)
            _notify(connection, expected + 1)

        self.run_write(work)
        still_open = tuple(rollout for rollout in desired.rollouts if rollout.is_open)
        return msgspec.structs.replace(desired, version=expected + 1, rollouts=still_open)

    def append(self, journal: Sequence[Mapping[str, Any]], *, fence: int | None = None) -> None:
        """Append to the journal without changing the state; its version stays the same.

        Raises:
            Fenced: Another leader has taken over.
        """

        def work(connection: Connection) -> None:
            _hold(connection, fence)
            rows.write_journal(connection, journal)

        self.run_write(work)

    def history(self, alias: str, *, before: int | None = None, limit: int = PAGE) -> tuple[RouteVersion, ...]:
        """Return the versions of an alias's route below number `before`, the newest first."""
        table = schema.route_versions
        query = select(table.c.record).where(table.c.alias == alias)
        if before is not None:
            query = query.where(table.c.number < before)
        query = query.order_by(table.c.number.desc()).limit(limit)
        return self.run_read(
            lambda connection: tuple(rows.decode(each, RouteVersion, table.name) for each in connection.scalars(query))
        )

    def rollouts(
        self, alias: str | None = None, *, before: str | None = None, limit: int = PAGE
    ) -> tuple[StoredRollout, ...]:
        """Return open and closed rollouts of an alias, or of all, the newest first.

        Args:
            alias: The alias whose rollouts to return; None for all.
            before: The id of a rollout: only older ones are returned.
            limit: The largest number of rollouts to return.
        """
        table = schema.rollouts
        query = select(table.c.record).order_by(table.c.position.desc()).limit(limit)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        if before is not None:  # rollouts are never removed
            query = query.where(
                table.c.position < select(table.c.position).where(table.c.id == before).scalar_subquery()
            )
        return self.run_read(lambda connection: tuple(rows.decode_rollout(each) for each in connection.scalars(query)))

    def journal(
        self, *, after: int = 0, limit: int = PAGE, about: str = "", newest: bool = False
    ) -> tuple[chain.JournalEntry, ...]:
        """Return journal entries after number `after`, the oldest first; only those that contain the JSON text `about`.

        Args:
            after, limit, about: Which entries; with `newest` the last `limit` of them, else the first.
        """
        return self.run_read(lambda connection: rows.read_journal(connection, after, limit, about, newest=newest))

    def journal_head(self) -> chain.JournalHead | None:
        """Return number and hash of the newest journal entry as noted beside the state; None before the first."""
        return self.run_read(rows.read_head)

    def verify_journal(self) -> chain.Break | None:
        """Return the first place where the journal was tampered with; None if it is intact."""

        def ends(connection: Connection) -> tuple[chain.JournalHead | None, int, int]:
            number = schema.journal.c.number
            first, last = connection.execute(select(func.min(number), func.max(number))).one()
            return rows.read_head(connection), 1 if first is None else first, last or 0

        head, first, last = self.run_read(ends)
        if first < 1:
            return chain.Break(number=first, reason=f"entry {first} was put in from outside: the first is 1")
        end = head.number if head is not None else 0
        if last > end:
            return chain.Break(number=end + 1, reason=f"entry {end + 1} was put in from outside: the end is {end}")
        return chain.verify(self._entries(end), head=head)

    def _entries(self, end: int) -> Iterator[chain.JournalEntry]:
        """Yield the entries up to number `end`; entries that are appended meanwhile are left out."""
        after = 0
        while after < end and (page := self.journal(after=after)):
            yield from (entry for entry in page if entry.number <= end)
            after = page[-1].number

    def run_read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction, which sees the data of one moment; returns its result."""
        self.prepare()
        return self.database.read(_check_schema_first(work))

    def run_write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction; returns its result."""
        self.prepare()
        return self.database.write(_check_schema_first(work))

    def close(self) -> None:
        self.database.dispose()


def _check_schema_first(work: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """Return `work` preceded by a check of the schema, which another release may have migrated while this one runs."""

    def check_and_work(connection: Connection) -> T:
        found = connection.scalar(select(schema.revision.c.version_num))
        if found != schema.HEAD:
            check_is_known(found)
            raise StoreTooNew(f"the store went back to schema `{found}` while this gateway ran; start it again")
        return work(connection)

    return check_and_work


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = '{MIGRATION_SECONDS:.0f}s'"))
    create_or_migrate(connection)


def _advance(connection: Connection, expected: int, fence: int | None) -> None:
    """Lock the row of `state`, for which all writers queue, and raise the version by one."""
    state = schema.state
    change = update(state).where(state.c.version == expected).values(version=expected + 1)
    if fence is not None:
        change = change.where(state.c.fence == fence)
    if connection.execute(change).rowcount == 1:
        return
    version, current = connection.execute(select(state.c.version, state.c.fence)).one()
    if fence is not None and fence != current:
        raise _takeover_error(fence, current)
    raise StaleWrite(
        f"the state is at version {version}, and the change was made from version {expected}; read it again and repeat"
    )


def _hold(connection: Connection, fence: int | None) -> None:
    rows.hold(connection)
    current = connection.scalar(select(schema.state.c.fence)) or 0
    if fence is not None and fence != current:
        raise _takeover_error(fence, current)


def _takeover_error(fence: int, current: int) -> Fenced:
    return Fenced(f"leader {current} has taken over from leader {fence}, which writes no more; it has to stand again")


def _notify(connection: Connection, version: int) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(schema.CHANNEL, str(version))))
