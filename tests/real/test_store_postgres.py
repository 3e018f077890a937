"""PostgreSQL that is stopped, restarted, hangs, or takes no writes; what all stores share is in tests/unit."""

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, text

from gateway.records.state import Desired
from gateway.store.database import cut
from gateway.store.errors import StoreUnavailable
from gateway.store.feed import Feed
from gateway.store.leader import Leader
from gateway.store.pairs import Pairs
from gateway.store.samples import Samples
from gateway.store.sql import Store, open_store
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.postgres import RunningPostgres
from tests.support.samples import judged, sample
from tests.support.state_records import key

pytestmark = pytest.mark.real

SECONDS = 2.0
# What a machine may need beyond the limit; one that is busy gets another try, for without the limit none succeeds.
GRACE_SECONDS = 1.0
TRIES = 5


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    store = open_store(where, now=time.time, seconds=SECONDS)
    store.write_state(Desired(keys=(key(1),)), expected=0)
    yield store
    store.close()


def calls_of_evaluators(store: Store) -> list[Callable[[], object]]:
    samples = Samples(store)
    return [
        lambda: samples.put([sample(1)], 60),
        lambda: samples.claim("one", 1, 60),
        lambda: samples.finish("one", judged(sample(1)), 0),
        lambda: Pairs(store).since(0),
    ]


def test_a_server_that_was_restarted_is_used_again_without_a_failed_call(server: RunningPostgres, store: Store) -> None:
    for _ in range(3):
        server.stop()
        with pytest.raises(StoreUnavailable):
            store.read_state()
        server.start()
        assert store.read_state().version == 1
    server.stop()
    server.start()
    assert store.write_state(Desired(), expected=1).version == 2


def test_a_server_that_hangs_fails_every_call_within_the_limit(server: RunningPostgres, store: Store) -> None:
    server.hang()
    try:
        for call in (
            store.read_state,
            store.version,
            lambda: store.write_state(Desired(), expected=1),
            *calls_of_evaluators(store),
        ):
            tries: list[float] = []
            while not tries or (min(tries) > SECONDS + GRACE_SECONDS and len(tries) < TRIES):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    call()
                tries.append(time.monotonic() - began)
            print(f"failed after {min(tries):.2f} s, limit {SECONDS:g} s")
            assert min(tries) < SECONDS + GRACE_SECONDS
    finally:
        server.go_on()
    # Whether the last write was done is for a reader to see.
    version = store.version()
    assert version in (1, 2)
    assert store.write_state(Desired(), expected=version).version == version + 1


@pytest.mark.parametrize("trouble", ["restart", "hang", "cut"])
def test_the_feed_goes_on_by_itself_and_misses_nothing(server: RunningPostgres, where: str, trouble: str) -> None:
    reader, writer = (open_store(where, now=time.time, seconds=SECONDS) for _ in range(2))
    told: queue.Queue[int] = queue.Queue()
    feed = Feed(reader, told.put)
    feed.start()
    assert told.get(timeout=PATIENCE_SECONDS) == 0
    if trouble == "restart":
        server.stop()
        until(lambda: feed.trouble)
        server.start()
    elif trouble == "hang":
        server.hang()
        until(lambda: feed.trouble)
        server.go_on()
    else:
        assert feed._watch is not None
        cut(feed._watch._session)
    writer.write_state(Desired(), expected=0)
    began = time.monotonic()
    assert told.get(timeout=PATIENCE_SECONDS) == 1
    print(f"{trouble}: told {time.monotonic() - began:.2f} s after the change")
    until(lambda: not feed.trouble)
    feed.stop()
    for store in (reader, writer):
        store.close()


def test_a_server_that_takes_no_writes_reads_and_refuses_changes(server: RunningPostgres, where: str) -> None:
    name = where.rpartition("/")[2]
    store = open_store(where, now=time.time)
    store.write_state(Desired(keys=(key(1),)), expected=0)
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store.close()
    assert store.read_state().keys == (key(1),)
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.write_state(Desired(), expected=1)
    server.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    store.close()
    assert store.write_state(Desired(), expected=1).version == 2
    store.close()


def test_tables_that_vanish_under_a_running_gateway_are_not_made_anew(server: RunningPostgres, store: Store) -> None:
    store.run_write(lambda connection: connection.execute(text("DROP SCHEMA public CASCADE")))
    with pytest.raises(StoreUnavailable, match="loragate_schema"):
        store.read_state()


def test_a_leader_keeps_its_fence_through_a_restart_if_nobody_else_stands(
    server: RunningPostgres, store: Store
) -> None:
    leader = Leader(store, "only")
    assert leader.step() == 1
    server.stop()
    with pytest.raises(StoreUnavailable):
        leader.step()
    server.start()
    assert leader.step() == 1
    leader.resign()


def test_a_leader_that_is_cut_off_is_followed_and_knows_it_later(server: RunningPostgres, where: str) -> None:
    one, two = (open_store(where, now=time.time, seconds=SECONDS) for _ in range(2))
    first, second = Leader(one, "first", lease_seconds=0.5), Leader(two, "second", lease_seconds=0.5)
    assert first.step() == 1
    assert second.step() is None
    cut(first._lock._session)  # type: ignore[attr-defined]
    until(lambda: second.step() is not None)
    assert second.fence == 2
    assert first.step() is None
    for leader, store in ((first, one), (second, two)):
        leader.resign()
        store.close()


def endless() -> None:
    time.sleep(10 * PATIENCE_SECONDS)


def test_a_client_that_is_paused_within_a_transaction_holds_up_others_for_a_while_only(
    server: RunningPostgres, where: str
) -> None:
    store = open_store(where, now=time.time, seconds=SECONDS)
    store.prepare()
    pid = os.fork()
    if pid == 0:
        paused = open_store(where, now=time.time, seconds=SECONDS)

        def begin(connection: Connection) -> None:
            connection.execute(text("UPDATE state SET fence = 9"))
            endless()

        paused.run_write(begin)
        os._exit(0)

    def is_written() -> bool:
        try:
            return store.write_state(Desired(), expected=0).version == 1
        except StoreUnavailable:
            return False

    try:
        within = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        until(lambda: server.sql(within) == "1")
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        until(is_written)
        print(f"written after {time.monotonic() - began:.1f} s")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    store.close()
