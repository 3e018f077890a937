"""Tokens that evaluators have spent, by alias and minute; written in the transactions of `samples.py`."""

from typing import Final

from sqlalchemy import Connection, Double, Integer, cast, delete, func, insert, select, update

from gateway.store.clock import now_of
from gateway.store.schema import spending as table
from gateway.store.sql import Store

SLOT_SECONDS: Final = 60
# Budgets are counted by the hour; a day is kept so that operators can look back.
KEEP_SECONDS: Final = 86_400


def add(connection: Connection, alias: str, holder: str, tokens: int, at: float) -> None:
    """Record tokens that an evaluator has spent, at a time by the database's clock."""
    slot = int(at) // SLOT_SECONDS
    # Only the holder itself writes this row, so no other process can insert it between update and insert.
    here = (table.c.alias == alias, table.c.slot == slot, table.c.holder == holder)
    change = update(table).where(*here).values(tokens=table.c.tokens + tokens)
    if connection.execute(change).rowcount == 0:
        connection.execute(insert(table).values(alias=alias, slot=slot, holder=holder, tokens=tokens))


def note(store: Store, alias: str, holder: str, tokens: int) -> None:
    """Record tokens that an evaluator has spent just now outside of any stored sample; blocks."""

    def work(connection: Connection) -> None:
        add(connection, alias, holder, tokens, float(connection.scalar(select(now_of(connection))) or 0.0))

    store.run_write(work)


def total(connection: Connection, alias: str, seconds: float) -> int:
    """Return the tokens spent on an alias in the last `seconds` seconds."""
    since = cast((now_of(connection) - seconds) / SLOT_SECONDS, Double)
    query = select(func.sum(table.c.tokens)).where(table.c.alias == alias, table.c.slot > since)
    return int(connection.scalar(query) or 0)


def forget(connection: Connection) -> None:
    """Delete counts that are older than KEEP_SECONDS."""
    until = cast(now_of(connection) / SLOT_SECONDS, Integer) - KEEP_SECONDS // SLOT_SECONDS
    connection.execute(delete(table).where(table.c.slot < until))
