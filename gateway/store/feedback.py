"""What callers said of replies, each word once, and how often it was bad by stage and arm."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Subquery, case, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.records.feedback import About, Feedback
from gateway.store import rows
from gateway.store.schema import feedback as table
from gateway.store.sql import Store

T = TypeVar("T")

PAGE: Final = 1000
# Rows deleted in one transaction: so that no writer waits long.
BATCH: Final = 1000


class Feedbacks:
    """The feedback in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, given: Feedback) -> None:
        """Store it, in the place of what the same account said of the same request before."""
        self._write(lambda connection: _put(connection, given))

    def get(self, request_id: str, account: str) -> Feedback | None:
        """Return what an account said of a request."""
        query = select(table.c.record).where(table.c.id == _id(request_id, account))
        record = self._store.run_read(lambda connection: connection.scalar(query))
        return None if record is None else rows.decode(record, Feedback, table.name)

    def resolve(self, request_id: str, account: str, about: About, *, comment: str | None = None) -> bool:
        """Note what it is about; returns False if there is none.

        Args:
            request_id, account: Which.
            about: What served the request.
            comment: In the place of its comment; None leaves that.
        """

        def work(connection: Connection) -> bool:
            query = select(table.c.record).where(table.c.id == _id(request_id, account))
            record = connection.scalar(query.with_for_update())
            if record is None:
                return False
            given = msgspec.structs.replace(rows.decode(record, Feedback, table.name), about=about)
            _put(connection, given if comment is None else msgspec.structs.replace(given, comment=comment))
            return True

        return self._write(work)

    def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._store.run_write(work)
        except IntegrityError:  # another gateway has stored the same word meanwhile: that one gives way
            return self._store.run_write(work)

    def drop(self, request_id: str, account: str) -> None:
        """Delete it, if it is there."""
        gone = delete(table).where(table.c.id == _id(request_id, account))
        self._store.run_write(lambda connection: connection.execute(gone))

    def unresolved(self, limit: int = PAGE, *, newest: bool = False) -> list[Feedback]:
        """Return the oldest of those of which it is not known yet what they are about; or the newest, those first."""
        order = table.c.at.desc() if newest else table.c.at
        query = select(table.c.record).where(table.c.is_resolved.is_(False)).order_by(order).limit(limit)
        records = self._store.run_read(lambda connection: connection.scalars(query).all())
        return [rows.decode(record, Feedback, table.name) for record in records]

    def counts(self, rollout: str, stage: int) -> dict[str, tuple[int, int]]:
        """Return by arm how many units gave scores or thumbs, and of how many the first is bad; labels do not count."""
        firsts = _firsts(rollout, stage)
        query = select(firsts.c.arm, func.count(), _n_bad(firsts)).where(firsts.c.place == 1).group_by(firsts.c.arm)
        found = self._store.run_read(lambda connection: connection.execute(query).all())
        return {arm: (n, int(bad)) for arm, n, bad in found}

    def counts_by_account(self, rollout: str, stage: int, most: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the same by account and arm, of the accounts that gave the most; at most so many rows."""
        firsts = _firsts(rollout, stage)
        query = select(firsts.c.account, firsts.c.arm, func.count(), _n_bad(firsts)).where(firsts.c.place == 1)
        query = query.group_by(firsts.c.account, firsts.c.arm)
        query = query.order_by(func.count().desc(), firsts.c.account).limit(most)
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for account, arm, n, bad in self._store.run_read(lambda connection: connection.execute(query).all()):
            found.setdefault(account, {})[arm] = (n, int(bad))
        return found

    def expire(self, before: float) -> int:
        """Delete what was given before then (Unix seconds); returns how many."""
        old = select(table.c.id).where(table.c.at < before).limit(BATCH)
        gone = 0
        while True:
            deleted = self._store.run_write(
                lambda connection: connection.execute(delete(table).where(table.c.id.in_(old))).rowcount
            )
            gone += deleted
            if deleted < BATCH:
                return gone


def _firsts(rollout: str, stage: int) -> Subquery:
    """Return what a stage's units said, each with its place among what the unit has said: the first is what counts."""
    place = func.row_number().over(partition_by=(table.c.account, table.c.unit), order_by=(table.c.at, table.c.id))
    query = select(table.c.account, table.c.arm, table.c.is_bad, place.label("place"))
    query = query.where(table.c.rollout == rollout, table.c.stage == stage)
    return query.where(table.c.is_bad.is_not(None), table.c.is_resolved.is_(True)).subquery()


def _n_bad(firsts: Subquery) -> ColumnElement[int]:
    return func.sum(case((firsts.c.is_bad, 1), else_=0))


def _id(request_id: str, account: str) -> str:
    return Feedback(request_id=request_id, account=account).id


def _put(connection: Connection, given: Feedback) -> None:
    about = given.about
    row: dict[str, Any] = {
        "rollout": about.rollout if about else "",
        "stage": about.stage if about else 0,
        "arm": about.arm if about else "",
        "account": given.account,
        "unit": about.unit if about else "",
        "is_bad": given.is_bad,
        "is_resolved": about is not None,
        "at": given.at,
        "record": rows.encode(given),
    }
    connection.execute(delete(table).where(table.c.id == given.id))
    connection.execute(insert(table).values(id=given.id, **row))
