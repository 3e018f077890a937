"""Feedback of callers on replies, and counts of bad feedback by rollout stage and arm."""

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
# Rows deleted in one transaction, so that other writers do not wait long.
BATCH: Final = 1000


class Feedbacks:
    """The feedback in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, feedback: Feedback) -> None:
        """Store feedback, replacing earlier feedback of the same account on the same request."""
        self._write(lambda connection: _put(connection, feedback))

    def get(self, request_id: str, account: str) -> Feedback | None:
        """Return an account's feedback on a request; None if there is none."""
        query = select(table.c.record).where(table.c.id == _id(request_id, account))
        record = self._store.run_read(lambda connection: connection.scalar(query))
        return None if record is None else rows.decode(record, Feedback, table.name)

    def resolve(self, request_id: str, account: str, about: About, *, comment: str | None = None) -> bool:
        """Record which version, arm and stage feedback is about; returns False if there is no such feedback.

        Args:
            request_id, account: The feedback to change.
            about: The version, arm and stage that served the request.
            comment: A new comment; None leaves the comment as it is.
        """

        def work(connection: Connection) -> bool:
            query = select(table.c.record).where(table.c.id == _id(request_id, account))
            record = connection.scalar(query.with_for_update())
            if record is None:
                return False
            feedback = msgspec.structs.replace(rows.decode(record, Feedback, table.name), about=about)
            _put(connection, feedback if comment is None else msgspec.structs.replace(feedback, comment=comment))
            return True

        return self._write(work)

    def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._store.run_write(work)
        except IntegrityError:  # another gateway has inserted the same feedback: replace it
            return self._store.run_write(work)

    def drop(self, request_id: str, account: str) -> None:
        """Delete feedback, if it is there."""
        statement = delete(table).where(table.c.id == _id(request_id, account))
        self._store.run_write(lambda connection: connection.execute(statement))

    def read_unresolved(self, limit: int = PAGE, *, newest: bool = False) -> list[Feedback]:
        """Return feedback whose request is not known yet, the oldest first; with `newest` the newest first."""
        order = table.c.at.desc() if newest else table.c.at
        query = select(table.c.record).where(table.c.is_resolved.is_(False)).order_by(order).limit(limit)
        records = self._store.run_read(lambda connection: connection.scalars(query).all())
        return [rows.decode(record, Feedback, table.name) for record in records]

    def counts(self, rollout: str, stage: int) -> dict[str, tuple[int, int]]:
        """Return by arm how many units gave scores or thumbs, and how many of these began with a bad one."""
        firsts = _firsts(rollout, stage)
        query = select(firsts.c.arm, func.count(), _n_bad(firsts)).where(firsts.c.place == 1).group_by(firsts.c.arm)
        found = self._store.run_read(lambda connection: connection.execute(query).all())
        return {arm: (n, int(bad)) for arm, n, bad in found}

    def counts_by_account(self, rollout: str, stage: int, most: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Return `counts` by account and arm, for the accounts with the most feedback; at most `most` rows."""
        firsts = _firsts(rollout, stage)
        query = select(firsts.c.account, firsts.c.arm, func.count(), _n_bad(firsts)).where(firsts.c.place == 1)
        query = query.group_by(firsts.c.account, firsts.c.arm)
        query = query.order_by(func.count().desc(), firsts.c.account).limit(most)
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for account, arm, n, bad in self._store.run_read(lambda connection: connection.execute(query).all()):
            found.setdefault(account, {})[arm] = (n, int(bad))
        return found

    def expire(self, before: float) -> int:
        """Delete feedback given before `before` (Unix seconds); returns how many were deleted."""
        old = select(table.c.id).where(table.c.at < before).limit(BATCH)
        total = 0
        while True:
            deleted = self._store.run_write(
                lambda connection: connection.execute(delete(table).where(table.c.id.in_(old))).rowcount
            )
            total += deleted
            if deleted < BATCH:
                return total


def _firsts(rollout: str, stage: int) -> Subquery:
    """Return the feedback of a stage, numbered (`place`) within each unit by time: only the first of a unit counts."""
    place = func.row_number().over(partition_by=(table.c.account, table.c.unit), order_by=(table.c.at, table.c.id))
    query = select(table.c.account, table.c.arm, table.c.is_bad, place.label("place"))
    query = query.where(table.c.rollout == rollout, table.c.stage == stage)
    return query.where(table.c.is_bad.is_not(None), table.c.is_resolved.is_(True)).subquery()


def _n_bad(firsts: Subquery) -> ColumnElement[int]:
    return func.sum(case((firsts.c.is_bad, 1), else_=0))


def _id(request_id: str, account: str) -> str:
    return Feedback(request_id=request_id, account=account).id


def _put(connection: Connection, feedback: Feedback) -> None:
    about = feedback.about
    row: dict[str, Any] = {
        "rollout": about.rollout if about else "",
        "stage": about.stage if about else 0,
        "arm": about.arm if about else "",
        "account": feedback.account,
        "unit": about.unit if about else "",
        "is_bad": feedback.is_bad,
        "is_resolved": about is not None,
        "at": feedback.at,
        "record": rows.encode(feedback),
    }
    connection.execute(delete(table).where(table.c.id == feedback.id))
    connection.execute(insert(table).values(id=feedback.id, **row))
