"""A store that is gone, slow, full or read-only says so within the time allowed, and works again afterwards."""

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from gateway.records.state import Desired
from gateway.store.database import Database
from gateway.store.deadline import MAX_HANGING, Deadline, TimeIsOver
from gateway.store.errors import StoreUnavailable
from gateway.store.feed import Feed
from gateway.store.sql import open_store
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.state_records import key

SECONDS = 1.0
# What a machine may need beyond the limit; one that is busy gets another try, for without the limit none succeeds.
GRACE_SECONDS = 1.0
TRIES = 5


def fails_in_time(call: Callable[[], object], match: str) -> float:
    """Seconds until the call failed, which must be within the limit."""
    for _ in range(TRIES):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=match):
            call()
        took = time.monotonic() - began
        if took < SECONDS + GRACE_SECONDS:
            return took
    raise AssertionError(f"it failed after {took:.1f} s at best, limit {SECONDS:g} s")


def test_a_server_that_accepts_and_says_nothing_fails_within_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        store = open_store(f"postgresql://u:secret@127.0.0.1:{port}/d", now=time.time, seconds=SECONDS)
        for call in (store.read_state, lambda: store.write_state(Desired(), expected=0)):
            took = fails_in_time(call, r"postgresql://u:\*\*\*@127.0.0.1.*what is served goes on")
            print(f"failed after {took:.2f} s, limit {SECONDS:g} s")
        store.close()


def test_a_server_that_refuses_fails_at_once_and_hides_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"postgresql://u:secret@127.0.0.1:{taken.getsockname()[1]}/d"
        store = open_store(where, now=time.time, seconds=SECONDS)
        with pytest.raises(StoreUnavailable) as failure:
            store.read_state()
    assert "refused" in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_feed_of_a_store_that_is_gone_tells_its_trouble_and_stops_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        store = open_store(f"postgresql://u@127.0.0.1:{port}/d", now=time.time, seconds=SECONDS)
        feed = Feed(store, lambda _: None)
        feed.start()
        until(lambda: feed.trouble)
        assert "does not work" in feed.trouble
        assert feed.seen is None
        assert feed.silent_seconds() > SECONDS / 2
        feed.stop()


def test_a_database_that_another_process_keeps_locked_fails_within_the_limit_and_still_reads(tmp_path: Path) -> None:
    store = open_store(tmp_path, now=time.time, seconds=SECONDS)
    written = store.write_state(Desired(keys=(key(1),)), expected=0)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    # SQLite's own limit ends first where the machine is idle, and the store's where it is busy.
    fails_in_time(lambda: store.write_state(Desired(), expected=1), "locked|no answer within")
    assert store.read_state() == written
    other.execute("ROLLBACK")
    other.close()
    assert store.write_state(Desired(), expected=1).version == 2
    store.close()


def limit_pages(database: Database, pages: int) -> None:
    """Have the database take no more than so many pages: to SQLite, a full disk."""
    event.listen(database._engine, "checkout", lambda raw, *_: raw.execute(f"PRAGMA max_page_count={pages}") and None)


def test_a_full_disk_refuses_the_change_whole_and_takes_it_when_there_is_room(tmp_path: Path) -> None:
    store = open_store(tmp_path, now=time.time)
    written = store.write_state(Desired(keys=(key(1),)), expected=0, journal=[{"what": "one"}])
    limit_pages(store.database, 1)  # SQLite takes this as: no more than there are
    many = Desired(keys=tuple(key(number) for number in range(2000)))
    with pytest.raises(StoreUnavailable, match=r"full.*free space"):
        store.write_state(many, expected=1, journal=[{"what": "two"}])
    assert store.read_state() == written
    assert store.verify_journal() is None
    limit_pages(store.database, 100_000)
    assert len(store.write_state(many, expected=1, journal=[{"what": "two"}]).keys) == 2000
    assert store.read_state().version == 2
    store.close()


def test_a_read_only_store_reads_and_refuses_changes(tmp_path: Path) -> None:
    store = open_store(tmp_path, now=time.time)
    written = store.write_state(Desired(keys=(key(1),)), expected=0)
    event.listen(store.database._engine, "checkout", lambda raw, *_: raw.execute("PRAGMA query_only=1") and None)
    with pytest.raises(StoreUnavailable, match="readonly"):
        store.write_state(Desired(), expected=1)
    assert store.read_state() == written
    store.close()


def test_a_call_that_hangs_for_good_is_given_up_and_too_many_are_refused_at_once() -> None:
    deadline = Deadline(0.05)
    release = threading.Event()
    cuts: list[int] = []
    for number in range(MAX_HANGING):
        with pytest.raises(TimeIsOver, match="no answer within"):
            deadline.run(release.wait, lambda number=number: cuts.append(number))  # type: ignore[misc]
    assert cuts == list(range(MAX_HANGING))
    with pytest.raises(TimeIsOver, match="still hang"):  # and not "no answer within"
        deadline.run(lambda: 1, lambda: None)
    release.set()
    until(lambda: not deadline._hanging)
    deadline = Deadline(PATIENCE_SECONDS)
    assert deadline.run(lambda: 1, lambda: None) == 1


def test_a_change_that_was_given_up_is_not_made_when_the_database_answers_again(tmp_path: Path) -> None:
    patient = open_store(tmp_path, now=time.time, seconds=PATIENCE_SECONDS)
    patient.write_state(Desired(), expected=0)
    store = open_store(tmp_path, now=time.time, seconds=0.2)
    answers = threading.Event()

    def slowly(connection: Connection) -> None:
        connection.execute(text("UPDATE state SET version = 9"))
        answers.wait(PATIENCE_SECONDS)

    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.2 s"):
        store.run_write(slowly)
    answers.set()
    until(lambda: not store.database.deadline._hanging)
    assert patient.version() == 1
    store.close()
    patient.close()


def test_a_file_that_was_removed_or_replaced_takes_no_changes_that_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    store, other = (open_store(folder, now=time.time) for folder in (tmp_path, tmp_path / "other"))
    store.write_state(Desired(keys=(key(1),)), expected=0)
    other.write_state(Desired(keys=(key(2),)), expected=0)
    other.close()
    feed = Feed(store, lambda _: None, poll_seconds=0.01)
    feed.start()
    try:
        until(lambda: feed.seen == 1, "it watches the file")
        for path in tmp_path.glob("state.db*"):
            path.unlink()
        with pytest.raises(StoreUnavailable, match="no such table"):
            store.write_state(Desired(), expected=1)
        until(lambda: feed.trouble)
    finally:
        feed.stop()
    for path in (tmp_path / "other").glob("state.db*"):
        path.replace(tmp_path / path.name)
    assert store.read_state().keys == (key(2),), "it connects to what is there now"
    store.close()


def test_what_a_call_raises_is_raised_to_who_called() -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        Deadline(1.0).run(fail, lambda: None)


def test_a_store_whose_folder_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(tmp_path / "file" / "state", now=time.time)
    with pytest.raises(StoreUnavailable, match=os.fspath(tmp_path / "file" / "state" / "state.db")):
        store.read_state()
