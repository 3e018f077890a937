"""The feed tells of every change, soon, and goes on by itself when the store comes back."""

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from gateway.records.state import Desired
from gateway.store.feed import Feed
from gateway.store.sql import Store, open_store
from tests.support.patience import PATIENCE_SECONDS, until

CHANGES = 30


@contextmanager
def fed(store: Store, poll_seconds: float | None = None) -> Iterator[tuple[Feed, "queue.Queue[tuple[int, float]]"]]:
    """A feed, and what it tells with the time of telling."""
    told: queue.Queue[tuple[int, float]] = queue.Queue()
    feed = Feed(store, lambda version: told.put((version, time.monotonic())), poll_seconds=poll_seconds)
    feed.start()
    try:
        yield feed, told
    finally:
        feed.stop()


def test_the_feed_tells_the_version_at_first_and_after_each_change(where: str) -> None:
    reader, writer = (open_store(where, now=time.time) for _ in range(2))
    with fed(reader) as (feed, told):
        assert told.get(timeout=PATIENCE_SECONDS)[0] == 0
        delays = []
        for version in range(CHANGES):
            writer.write_state(Desired(), expected=version)
            began = time.monotonic()
            found, when = told.get(timeout=PATIENCE_SECONDS)
            assert found == version + 1
            delays.append(when - began)
        assert feed.seen == CHANGES
        assert feed.silent_seconds() < PATIENCE_SECONDS
    delays.sort()
    print(f"told after: median {delays[CHANGES // 2] * 1000:.1f} ms, worst {delays[-1] * 1000:.1f} ms")
    for store in (reader, writer):
        store.close()


def test_a_change_without_a_notification_is_found_by_looking(store: Store) -> None:
    store.prepare()
    with fed(store, poll_seconds=0.1) as (_, told):
        assert told.get(timeout=PATIENCE_SECONDS)[0] == 0
        store.run_write(lambda connection: connection.execute(text("UPDATE state SET version = 7")))
        assert told.get(timeout=PATIENCE_SECONDS)[0] == 7


def test_what_changes_no_version_tells_nothing(store: Store) -> None:
    store.prepare()
    with fed(store, poll_seconds=0.05) as (feed, told):
        assert told.get(timeout=PATIENCE_SECONDS)[0] == 0
        looked_at = feed._contact
        store.append([{"what": "a remark"}])
        until(lambda: feed._contact > looked_at)
        store.write_state(Desired(), expected=0)
        assert told.get(timeout=PATIENCE_SECONDS)[0] == 1, "and it was not told of the remark before"


def test_a_feed_that_stops_tells_no_more(store: Store) -> None:
    with fed(store) as (feed, told):
        told.get(timeout=PATIENCE_SECONDS)
    store.write_state(Desired(), expected=0)
    until(lambda: not feed._thread.is_alive())
    assert told.empty()
