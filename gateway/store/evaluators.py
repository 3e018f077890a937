"""Evaluators that run, what each has counted, and who has fallen silent: by the database's clock."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from gateway.store import rows
from gateway.store.clock import now_of
from gateway.store.schema import evaluators as table
from gateway.store.sql import Store

# As gateways, which beat every second: three missed in a row with room.
SILENT_SECONDS: Final = 10.0
# A row that nobody removed, because its evaluator died, is removed after so long.
GONE_SECONDS: Final = 600.0


class Evaluators:
    """The evaluators that work on a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def beat(self, evaluator: str, record: Mapping[str, Any]) -> None:
        """Say that an evaluator lives, and what it has counted.

        Args:
            evaluator: Its name, made anew at each start.
            record: Anything that is JSON.
        """

        def work(connection: Connection) -> None:
            row = {"seen": now_of(connection), "record": rows.encode(dict(record))}
            if connection.execute(update(table).where(table.c.id == evaluator).values(row)).rowcount == 0:
                # At its first beat only, since that is when the dead of before are many.
                connection.execute(delete(table).where(table.c.seen < now_of(connection) - GONE_SECONDS))
                connection.execute(insert(table).values(id=evaluator, **row))

        self._store.run_write(work)

    def alive(self, within_seconds: float = SILENT_SECONDS) -> dict[str, dict[str, Any]]:
        """Return what each evaluator said last that has been heard of within so many seconds."""

        def work(connection: Connection) -> list[tuple[str, str]]:
            query = select(table.c.id, table.c.record).where(table.c.seen > now_of(connection) - within_seconds)
            return [(id_, record) for id_, record in connection.execute(query.order_by(table.c.id))]

        return {id_: rows.decode(record, dict[str, Any], table.name) for id_, record in self._store.run_read(work)}

    def leave(self, evaluator: str) -> None:
        """Say that an evaluator ends."""
        self._store.run_write(lambda connection: connection.execute(delete(table).where(table.c.id == evaluator)))
