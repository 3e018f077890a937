"""Writers that are killed, leaders that are paused: the store stays whole, and one writes."""

import contextlib
import os
import random
import signal
import time
from multiprocessing.connection import Connection

from gateway.store.errors import StaleWrite
from gateway.store.sql import Store, open_store
from tests.support import store_processes
from tests.support.fork_server import preload
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.store_listeners import heard, running
from tests.support.store_processes import with_another_key

CRASHES = 20
# At least so long, and long against what this machine does to a process that lives.
LEASE_SECONDS = 1.0
LEASE_GAPS = 20
# Longer than a test may take: who follows before it is over has not waited for it.
ENDLESS_SECONDS = 10 * PATIENCE_SECONDS

preload("tests.support.store_processes")


def news(told: Connection) -> object:
    """What is told next, but for changes that were written."""
    while told.poll(PATIENCE_SECONDS):
        what = told.recv()
        if "wrote" not in what:
            return what
    raise AssertionError("nothing was told")


def last_words(told: Connection) -> list[object]:
    """What a process that was killed has told until its end."""
    words: list[object] = []
    with contextlib.suppress(EOFError):
        while told.poll(PATIENCE_SECONDS):
            words.append(told.recv())
        raise AssertionError("it lives on")
    return words


def lease_seconds(where: str) -> float:
    """How long a lease must be, that a leader who lives keeps its lead here, as busy as the machine is."""
    with running(store_processes.lead, where, "trial", ENDLESS_SECONDS) as (_, told):
        assert news(told) == ("trial", "leads", 1)
        longest, last = 0.0, time.monotonic()
        for _ in range(20):
            assert told.poll(PATIENCE_SECONDS)
            told.recv()
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return max(LEASE_SECONDS, LEASE_GAPS * longest)


def pause_between_writes(pid: int, told: Connection) -> None:
    """Pause a leader that is not in a transaction, which would keep SQLite locked for everybody."""
    heard(told)
    assert "wrote" in told.recv()
    os.kill(pid, signal.SIGSTOP)


def test_a_writer_that_is_killed_leaves_the_state_before_or_after_its_change(where: str) -> None:
    chance = random.Random(7)
    store = open_store(where, now=time.time)
    done = 0
    for _ in range(CRASHES):
        with running(store_processes.write_for_ever, where) as (pid, told):
            assert told.poll(PATIENCE_SECONDS)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            done = max([done, *(each for each in last_words(told) if isinstance(each, int))])
        state = store.read_state()
        assert state.version in (done, done + 1)
        assert [record.id for record in state.keys] == [f"key-{number}" for number in range(1, state.version + 1)]
        head = store.journal_head()
        assert head is not None
        assert head.number == state.version
        assert store.verify_journal() is None
        done = state.version
    assert done >= CRASHES
    print(f"{CRASHES} kills in {done} changes")
    store.close()


def test_a_leader_that_was_paused_is_followed_and_then_fenced(where: str) -> None:
    store = open_store(where, now=time.time)
    store.prepare()
    lease = lease_seconds(where)
    with running(store_processes.lead, where, "first", lease) as (first, told_first):
        assert news(told_first) == ("first", "leads", 2)
        with running(store_processes.lead, where, "second", lease) as (_, told_second):
            version = store.version()
            time.sleep(1.3 * lease)
            assert heard(told_second) == []  # a leader that lives keeps its lead
            assert store.version() > version
            pause_between_writes(first, told_first)
            began = time.monotonic()
            assert news(told_second) == ("second", "leads", 3)
            print(f"followed after {time.monotonic() - began:.2f} s (lease {lease:.2f} s)")
            assert heard(told_first) == []
            os.kill(first, signal.SIGCONT)
            # It tries to write with its old fence before it tells that it leads no more.
            assert news(told_first) == ("first", "fenced", 2)
            written = len(store.journal())
            until(lambda: len(store.journal()) > written + 2)
            assert "fenced" not in str(heard(told_second))
    fences = [entry.record["fence"] for entry in store.journal()]
    assert fences == sorted(fences)
    assert set(fences) == {1, 2, 3}
    assert store.verify_journal() is None
    store.close()


def test_a_leader_that_was_killed_is_followed_before_its_lease_is_over(where: str) -> None:
    store = open_store(where, now=time.time)
    store.prepare()
    with running(store_processes.lead, where, "first", ENDLESS_SECONDS) as (first, told_first):
        assert news(told_first) == ("first", "leads", 1)
        with running(store_processes.lead, where, "second", ENDLESS_SECONDS) as (_, told_second):
            os.kill(first, signal.SIGKILL)
            began = time.monotonic()
            assert news(told_second) == ("second", "leads", 2)
            print(f"followed after {time.monotonic() - began:.2f} s")
    store.close()


def test_writers_in_several_processes_take_turns(store: Store, where: str) -> None:
    store.prepare()
    with running(store_processes.lead, where, "first", LEASE_SECONDS) as (_, told):
        assert news(told) == ("first", "leads", 1)
        patience = time.monotonic() + PATIENCE_SECONDS
        stale = 0
        while sum(entry.record["fence"] for entry in store.journal()) < 5:
            desired = store.read_state()
            try:
                store.write_state(with_another_key(desired), expected=desired.version, journal=[{"fence": 0}])
            except StaleWrite:
                stale += 1
            assert time.monotonic() < patience
            time.sleep(0.005)
    desired = store.read_state()
    assert len(desired.keys) == desired.version == len(store.journal())
    assert store.verify_journal() is None
    print(f"{desired.version} written, {stale} of ours stale")
