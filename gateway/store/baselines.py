"""Baselines: the traffic figures of a version at its promotion, with which its later traffic is compared."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from gateway.store import rows
from gateway.store.clock import now_of
from gateway.store.schema import baselines as table
from gateway.store.sql import Store


class Baselines:
    """The baselines in a store, one for each version. Every method blocks, and may raise StoreError.

    It keeps the table's SQL out of the drift monitor, as every table's SQL is in `gateway/store`. A body is plain JSON
    values, so that the store need not import the baseline's type from `gateway/admin`.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, version: str, body: Mapping[str, Any]) -> None:
        """Store a version's baseline, replacing an earlier one."""

        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.version == version))
            at = now_of(connection)
            connection.execute(insert(table).values(version=version, at=at, record=rows.encode(dict(body))))

        self._store.run_write(work)

    def get(self, version: str) -> dict[str, Any] | None:
        """Return a version's baseline; None if the version has none."""
        query = select(table.c.record).where(table.c.version == version)
        record = self._store.run_read(lambda connection: connection.scalar(query))
        return None if record is None else rows.decode(record, dict[str, Any], table.name)
