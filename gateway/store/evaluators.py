"""The running evaluators and their counts; one that is silent for long, by the database's clock, counts as dead."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from gateway.store import rows
from gateway.store.clock import now_of
from gateway.store.schema import evaluators as table
from gateway.store.sql import Store

# The same as for gateways, which beat every second and may miss three beats in a row, with room to spare.
SILENT_SECONDS: Final = 10.0
# The row of an evaluator that died without removing it is deleted after this long.
GONE_SECONDS: Final = 600.0


class Evaluators:
    """The evaluators that share a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def beat(self, evaluator: str, record: Mapping[str, Any]) -> None:
        """Record that an evaluator is alive, and its counts.

        Args:
            evaluator: The evaluator's id, new at each start.
            record: The counts, as JSON values.
        """

        def work(connection: Connection) -> None:
            row = {"seen": now_of(connection), "record": rows.encode(dict(record))}
            if connection.execute(update(table).where(table.c.id == evaluator).values(row)).rowcount == 0:
                # Rows of dead evaluators are deleted at a first beat only: they pile up when evaluators are restarted.
                connection.execute(delete(table).where(table.c.seen < now_of(connection) - GONE_SECONDS))
                connection.execute(insert(table).values(id=evaluator, **row))

        self._store.run_write(work)

    def alive(self, within_seconds: float = SILENT_SECONDS) -> dict[str, dict[str, Any]]:
        """Return the last record of each evaluator that has beaten within `within_seconds`, by its id."""

        def work(connection: Connection) -> list[tuple[str, str]]:
            query = select(table.c.id, table.c.record).where(table.c.seen > now_of(connection) - within_seconds)
            return [(id_, record) for id_, record in connection.execute(query.order_by(table.c.id))]

        return {id_: rows.decode(record, dict[str, Any], table.name) for id_, record in self._store.run_read(work)}

    def leave(self, evaluator: str) -> None:
        """Remove an evaluator that ends."""
        self._store.run_write(lambda connection: connection.execute(delete(table).where(table.c.id == evaluator)))
