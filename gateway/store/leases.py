"""Leases: exclusive rights, limited in time by the database's clock, that hold over all machines on a store."""

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.store.clock import now_of
from gateway.store.schema import turns as table
from gateway.store.sql import Store


class Leases:
    """The leases in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Take or prolong a lease; returns False while another holder has it.

        Args:
            name: What the lease is for, such as an engine's URL.
            holder: The unique name of the process that asks.
            seconds: How long the lease lasts unless it is released before.
        """

        def work(connection: Connection) -> bool:
            until = now_of(connection) + seconds
            is_free = or_(table.c.holder == holder, table.c.until <= now_of(connection))
            change = update(table).where(table.c.name == name, is_free).values(holder=holder, until=until)
            if connection.execute(change).rowcount:
                return True
            if connection.scalar(select(table.c.name).where(table.c.name == name)) is not None:
                return False
            connection.execute(insert(table).values(name=name, holder=holder, until=until))
            return True

        try:
            return self._store.run_write(work)
        except IntegrityError:  # another holder inserted it first
            return False

    def release(self, name: str, holder: str) -> None:
        """End a lease; does nothing if it belongs to another holder."""
        statement = delete(table).where(table.c.name == name, table.c.holder == holder)
        self._store.run_write(lambda connection: connection.execute(statement))
