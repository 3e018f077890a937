"""The queue of samples that wait to be judged: each is stored once, claimed by one evaluator at a time, judged once.

The texts of a sample are in another table than its row in the queue, which is read and changed all the time. A claim
is a lease by the database's clock: when an evaluator dies, its claims run out and its samples are free again. These
transactions never lock the row of `state`, so they do not delay changes of the state.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Table, case, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from evaluators.observation import ScoredPair
from gateway.records.sample import Sample
from gateway.store import spending
from gateway.store.clock import now_of
from gateway.store.expiry import FAILED, MAX_BYTES, MAX_SAMPLES, OPEN, forget, make_room
from gateway.store.pairs import find_judged, insert_pair, is_stored
from gateway.store.schema import sample_texts as texts
from gateway.store.schema import samples as queue
from gateway.store.sql import Store

# A sample fails after this many claims ran out, since as many evaluators have died or hung while judging it.
MAX_DEATHS: Final = 3
# The longest that a sample waits if its route's retention is 0, which keeps no texts after judging.
WAIT_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A sample that an evaluator holds until its lease ends; `attempt` counts its claims by all evaluators, from 1."""

    sample: Sample
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """The number of samples in the queue, by state.

    Attributes:
        pending: Samples without a claim, or whose claim ran out.
        claimed: Samples that an evaluator holds.
        failed: Samples that will not be tried again; they stay until they expire or newer samples need their room.
        oldest_at: When the oldest pending or claimed sample was answered, Unix seconds; None if there is none.
        by_alias: The same numbers for each alias that has samples.
    """

    pending: int = 0
    claimed: int = 0
    failed: int = 0
    oldest_at: float | None = None
    by_alias: Mapping[str, "Depth"] = field(default_factory=dict)


class Samples:
    """The samples in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
        most_samples, most_bytes: Limits of what is kept at a time, waiting or judged; approximate, since gateways do
            not wait for each other.
    """

    def __init__(self, store: Store, *, most_samples: int = MAX_SAMPLES, most_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._most_samples = most_samples
        self._most_bytes = most_bytes

    def put(self, samples: Sequence[Sample], retention_seconds: float) -> int:
        """Store samples, each once; returns how many, counted from the end, were refused for lack of room.

        To make room, judged and failed samples are deleted, starting with those that expire soonest.

        Args:
            samples: The samples, the oldest first; those stored before are left alone.
            retention_seconds: How long texts are kept; 0 deletes them as soon as they were judged.
        """
        each_once = {each.id: each for each in samples}
        contents = {id_: msgspec.msgpack.encode(each) for id_, each in each_once.items()}

        def work(connection: Connection) -> int:
            stored_ids = set(connection.scalars(select(texts.c.id).where(texts.c.id.in_(contents))))
            stored_ids |= find_judged(connection, list(contents))
            new = [each for id_, each in each_once.items() if id_ not in stored_ids]
            sizes = [len(contents[each.id]) for each in new]
            fits = make_room(connection, sizes, self._most_samples, self._most_bytes) if new else 0
            _insert(connection, new[:fits], contents, retention_seconds)
            return len(new) - fits

        return self._store.run_write(work)

    def claim(self, holder: str, most: int, lease_seconds: float, *, skipping: Collection[str] = ()) -> list[Claimed]:
        """Claim the oldest free samples, at most `most` of them.

        Args:
            holder: The unique name of the evaluator that asks.
            most: The largest number of samples to claim.
            lease_seconds: How long the claims last; see `extend`.
            skipping: Aliases to leave out, such as those whose budget is spent.
        """

        def find_due(connection: Connection) -> Sequence[Row[str, str, int]]:
            query = select(queue.c.id, queue.c.holder, queue.c.died).order_by(queue.c.at).limit(most)
            query = query.where(queue.c.state == OPEN, queue.c.ready <= now_of(connection))
            if skipping:
                query = query.where(queue.c.alias.not_in(skipping))
            return connection.execute(query.with_for_update(skip_locked=True)).all()

        def work(connection: Connection) -> list[Claimed]:
            found = find_due(connection)
            dying = {each.id for each in found if each.holder and each.died + 1 >= MAX_DEATHS}
            _fail(connection, dying, "abandoned")
            return _take(connection, [each.id for each in found if each.id not in dying], holder, lease_seconds)

        # Reading first spares SQLite's other writers a wait when there is nothing to claim.
        if self._store.database.is_sqlite and not self._store.run_read(find_due):
            return []
        return self._store.run_write(work)

    def extend(self, holder: str, ids: Collection[str], seconds: float) -> set[str]:
        """Prolong claims to `seconds` from now; returns the ids that the holder still has."""

        def work(connection: Connection) -> set[str]:
            change = update(queue).where(queue.c.id.in_(ids), queue.c.holder == holder, queue.c.state == OPEN)
            change = change.values(ready=now_of(connection) + seconds)
            return set(connection.scalars(change.returning(queue.c.id)))

        return self._store.run_write(work) if ids else set()

    def finish(self, holder: str, scored_pair: ScoredPair, tokens: int) -> bool:
        """Store the scored pair of a claimed sample and remove the sample from the queue, in one transaction.

        Returns False if the claim was lost: another evaluator judges the sample, or has judged it. A call whose answer
        was lost may be repeated safely, and returns what the first call would have returned.

        Args:
            holder: The evaluator that has claimed the sample.
            judged: The pair; the store assigns its number.
            tokens: The tokens spent on judging it.
        """

        def work(connection: Connection) -> bool:
            here = (queue.c.id == scored_pair.sample, queue.c.holder == holder, queue.c.state == OPEN)
            taken_off = delete(queue).where(*here).returning(queue.c.keeps, queue.c.expires, now_of(connection))
            ours = connection.execute(taken_off).one_or_none()
            if ours is None:
                return is_stored(connection, scored_pair)
            keeps, expires, at = ours
            if not keeps:
                connection.execute(delete(texts).where(texts.c.id == scored_pair.sample))
            spending.add(connection, scored_pair.alias, holder, tokens, at)
            insert_pair(connection, scored_pair, expires if keeps else None)
            return True

        try:
            return self._store.run_write(work)
        except IntegrityError:  # the sample was judged before, and then stored once more
            statement = delete(queue).where(queue.c.id == scored_pair.sample)
            self._store.run_write(lambda connection: connection.execute(statement))
            return self._store.run_read(lambda connection: is_stored(connection, scored_pair))

    def give_up(
        self, holder: str, sample: str, reason: str, *, again_after_seconds: float | None, tokens: int = 0
    ) -> bool:
        """Give back a claimed sample; returns False if the claim was lost.

        Args:
            holder: The evaluator that has claimed the sample.
            sample: The sample's id.
            reason: Why, in one word.
            again_after_seconds: When it may be claimed again; None for never, which makes it a failed sample.
            tokens: The tokens spent on it so far.
        """

        def work(connection: Connection) -> bool:
            here = (queue.c.id == sample, queue.c.holder == holder, queue.c.state == OPEN)
            change = update(queue).where(*here).values(holder="", reason=reason)
            if again_after_seconds is None:
                change = change.values(state=FAILED)
            else:
                change = change.values(ready=now_of(connection) + again_after_seconds)
            ours = connection.execute(change.returning(queue.c.alias, now_of(connection))).one_or_none()
            if ours is not None and tokens:
                alias, at = ours
                spending.add(connection, alias, holder, tokens, at)
            return ours is not None

        return self._store.run_write(work)

    def tokens_spent(self, alias: str, seconds: float = 3600.0) -> int:
        """Return the tokens spent on judging an alias's samples in the last `seconds` seconds, to the minute."""
        return self._store.run_read(lambda connection: spending.total(connection, alias, seconds))

    def depth(self) -> Depth:
        """Return the number of samples in the queue, in total and by alias."""

        def work(connection: Connection) -> Sequence[Row[str, int, int, int, float | None]]:
            is_open = queue.c.state == OPEN
            is_claimed = is_open & (queue.c.holder != "") & (queue.c.ready > now_of(connection))
            query = select(
                queue.c.alias,
                func.count(),
                func.sum(case((is_claimed, 1), else_=0)),
                func.sum(case((is_open, 0), else_=1)),
                func.min(case((is_open, queue.c.at))),
            )
            return connection.execute(query.group_by(queue.c.alias)).all()

        by_alias = {
            alias: Depth(pending=n - claimed - failed, claimed=claimed, failed=failed, oldest_at=oldest)
            for alias, n, claimed, failed, oldest in self._store.run_read(work)
        }
        ages = [each.oldest_at for each in by_alias.values() if each.oldest_at is not None]
        return Depth(
            pending=sum(each.pending for each in by_alias.values()),
            claimed=sum(each.claimed for each in by_alias.values()),
            failed=sum(each.failed for each in by_alias.values()),
            oldest_at=min(ages, default=None),
            by_alias=by_alias,
        )

    def expire(self, now: float) -> int:
        """Delete texts that expire by `now` (Unix seconds), with their samples; returns the number of samples.

        The words of pairs are deleted, too; the pairs stay. On SQLite no trace remains in the files, unless a long read
        prevents wiping them; then the next call does it.
        """
        return forget(self._store, now)


def _insert(
    connection: Connection, samples: Sequence[Sample], contents: Mapping[str, bytes], retention_seconds: float
) -> None:
    keeps = retention_seconds > 0
    seconds = retention_seconds if keeps else WAIT_SECONDS
    expires = connection.scalar(select(now_of(connection) + seconds))
    common = {"state": OPEN, "ready": 0.0, "holder": "", "attempt": 0, "died": 0, "keeps": keeps, "reason": ""}
    # Sorted by id, so that two gateways that store the same samples cannot deadlock.
    rows = [
        {"id": each.id, "alias": each.alias, "at": each.at, "expires": expires, **common}
        for each in sorted(samples, key=lambda each: each.id)
    ]
    new = set(connection.scalars(_insert_if_absent(connection, queue).returning(queue.c.id), rows)) if rows else ()
    held = [{"id": id_, "expires": expires, "size": len(contents[id_]), "content": contents[id_]} for id_ in new]
    if held:
        connection.execute(_insert_if_absent(connection, texts), sorted(held, key=lambda row: str(row["id"])))


def _insert_if_absent(connection: Connection, table: Table) -> Any:
    """Return an INSERT that skips rows whose key exists already."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_postgres  # loaded already, with the connection

        return insert_postgres(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.sqlite import insert as insert_sqlite

    return insert_sqlite(table).on_conflict_do_nothing()


def _fail(connection: Connection, ids: Collection[str], reason: str) -> None:
    change = update(queue).where(queue.c.id.in_(ids)).values(state=FAILED, holder="", reason=reason)
    if ids:
        connection.execute(change)


def _take(connection: Connection, ids: Collection[str], holder: str, lease_seconds: float) -> list[Claimed]:
    """Assign samples to the holder; returns them, the oldest first. A damaged sample is marked as failed instead."""
    if not ids:
        return []
    change = (
        update(queue)
        .where(queue.c.id.in_(ids))
        .values(
            died=queue.c.died + case((queue.c.holder != "", 1), else_=0),
            attempt=queue.c.attempt + 1,
            holder=holder,
            ready=now_of(connection) + lease_seconds,
        )
    )
    connection.execute(change)
    query = select(queue.c.id, queue.c.attempt, texts.c.content).join(texts, texts.c.id == queue.c.id)
    found = connection.execute(query.where(queue.c.id.in_(ids)).order_by(queue.c.at)).all()
    claimed, damaged = [], []
    for id_, attempt, content in found:
        try:
            claimed.append(Claimed(sample=msgspec.msgpack.decode(content, type=Sample), attempt=attempt))
        except (msgspec.DecodeError, UnicodeDecodeError):
            damaged.append(id_)
    _fail(connection, damaged, "unreadable")
    return claimed
