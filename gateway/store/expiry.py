"""Delete texts of callers and engines when they expire, or when newer samples need their room."""

import contextlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, delete, exists, func, select

from gateway.store import spending
from gateway.store.errors import StoreError
from gateway.store.schema import counters, pair_words
from gateway.store.schema import sample_texts as texts
from gateway.store.schema import samples as queue
from gateway.store.sql import Store

# Half an hour at ten samples a second, and the disk space (1 GiB) that a small machine can spare.
MAX_SAMPLES: Final = 20_000
MAX_BYTES: Final = 1 << 30
# Rows deleted in one transaction, so that other writers do not wait long.
BATCH: Final = 500
# A reader that takes longer than this delays wiping the file until the next call.
WIPE_MILLISECONDS: Final = 250
TURN: Final = "forgetting"
# The states of a sample in the queue.
OPEN: Final = 0
FAILED: Final = 1


def make_room(connection: Connection, sizes: Sequence[int], most_samples: int, most_bytes: int) -> int:
    """Delete judged and failed samples to make room for new ones; returns how many of the new ones, in order, fit.

    Args:
        connection: A connection in the transaction that stores the samples.
        sizes: Bytes of each new sample.
        most_samples, most_bytes: The limits of what is kept at a time.
    """
    n, size = connection.execute(select(func.count(), func.coalesce(func.sum(texts.c.size), 0))).one()
    room = (most_samples - n, most_bytes - int(size))
    missing = (len(sizes) - room[0], sum(sizes) - room[1])
    if max(missing) > 0:
        freed = _drop_judged(connection, *missing)
        room = (room[0] + freed[0], room[1] + freed[1])
    fits, used = 0, 0
    for each in sizes:
        used += each
        if fits >= room[0] or used > room[1]:
            break
        fits += 1
    return fits


def _drop_judged(connection: Connection, samples: int, size: int) -> tuple[int, int]:
    """Delete texts of judged and failed samples, the soonest to expire first; returns their number and bytes."""
    is_waiting = exists().where(queue.c.id == texts.c.id, queue.c.state == OPEN)
    query = select(texts.c.id, texts.c.size).where(~is_waiting).order_by(texts.c.expires).limit(BATCH)
    freed = [0, 0]
    ids = []
    for id_, each in connection.execute(query.with_for_update(skip_locked=True, of=texts)).all():
        if freed[0] >= samples and freed[1] >= size:
            break
        ids.append(id_)
        freed[0] += 1
        freed[1] += each
    connection.execute(delete(texts).where(texts.c.id.in_(ids)))
    # Rows that are locked are skipped: `forget` may hold them, waits for the texts, and deletes both itself.
    failed = select(queue.c.id).where(queue.c.id.in_(ids)).with_for_update(skip_locked=True)
    connection.execute(delete(queue).where(queue.c.id.in_(set(connection.scalars(failed)))))
    return freed[0], freed[1]


def forget(store: Store, now: float) -> int:
    """Delete expired texts, also of samples that still wait, and the words of pairs; returns the number of texts.

    Raises:
        StoreError: Only part of it was deleted; call again.
    """
    total = 0
    goes_on = True
    while goes_on:
        deleted, goes_on = store.run_write(lambda connection: _forget_some(connection, now))
        total += deleted
    store.run_write(spending.forget)
    if store.database.is_sqlite:
        with contextlib.suppress(StoreError):  # the texts are deleted; the next call wipes the rest
            _wipe(store)
    return total


def _forget_some(connection: Connection, now: float) -> tuple[int, bool]:
    """Delete one batch; returns the number of texts deleted, and whether there may be more."""
    turn = select(counters.c.value).where(counters.c.name == TURN).with_for_update()
    connection.execute(turn)  # two gateways that delete at once would wait for each other
    words = select(pair_words.c.sample).where(pair_words.c.expires <= now).limit(BATCH)
    n_words = connection.execute(delete(pair_words).where(pair_words.c.sample.in_(words))).rowcount
    query = select(texts.c.id).where(texts.c.expires <= now).order_by(texts.c.expires).limit(BATCH)
    found = set(connection.scalars(query))
    if not found:
        return 0, n_words == BATCH
    # Samples that an evaluator is storing right now are left for the next call, so that neither waits for the other.
    waiting = select(queue.c.id).where(queue.c.id.in_(found))
    busy = set(connection.scalars(waiting)) - set(connection.scalars(waiting.with_for_update(skip_locked=True)))
    ids = found - busy
    connection.execute(delete(queue).where(queue.c.id.in_(ids)))
    deleted = connection.execute(delete(texts).where(texts.c.id.in_(ids))).rowcount
    return deleted, (len(found) == BATCH and deleted > 0) or n_words == BATCH


def _wipe(store: Store) -> None:
    """Truncate SQLite's write-ahead log, which still holds the pages as they were before the deletion."""
    database = store.database
    session = database.session()
    try:
        database.ask(session, f"PRAGMA busy_timeout={WIPE_MILLISECONDS}")
        database.ask(session, "PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        session.close()
