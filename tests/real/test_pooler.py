"""PostgreSQL behind a connection pooler: one that keeps sessions serves, one that lends them on is refused."""

import contextlib
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from gateway.records.state import Desired
from gateway.store.errors import SessionsNotKept, StoreUnavailable
from gateway.store.feed import Feed
from gateway.store.leader import Leader
from gateway.store.sql import open_store
from gateway.store.state_copy import save_copy
from tests.support.pooler import SmallPooler, ask, pgbouncer, running_pgbouncer

pytestmark = pytest.mark.real

PATIENCE_SECONDS = 20.0
Pooler = Callable[[str], AbstractContextManager[str]]


def real(mode: str, *more: str) -> Pooler:
    return lambda where: running_pgbouncer(where, mode, *more)


def small(mode: str) -> Pooler:
    @contextmanager
    def pooled(where: str) -> Iterator[str]:
        with SmallPooler(where, mode) as pooler:
            yield pooler.url

    return pooled


needs_pgbouncer = pytest.mark.skipif(pgbouncer() is None, reason="no PgBouncer here: apt-get install pgbouncer")
KEEPING = [
    pytest.param(real("session"), id="pgbouncer", marks=needs_pgbouncer),
    pytest.param(small("session"), id="ours"),
]
LENDING = [
    pytest.param(real("transaction"), id="pgbouncer-transaction", marks=needs_pgbouncer),
    pytest.param(real("transaction", "server_round_robin=1"), id="pgbouncer-round-robin", marks=needs_pgbouncer),
    pytest.param(real("transaction", "default_pool_size=1"), id="pgbouncer-one-session", marks=needs_pgbouncer),
    pytest.param(real("statement"), id="pgbouncer-statement", marks=needs_pgbouncer),
    pytest.param(small("transaction"), id="ours-transaction"),
    pytest.param(small("statement"), id="ours-statement"),
]


@pytest.mark.parametrize("pooler", KEEPING)
def test_a_pooler_in_session_mode_serves_store_leader_and_feed(where: str, pooler: Pooler) -> None:
    with pooler(where) as url:
        one, other = (open_store(url, now=time.time) for _ in range(2))
        told: queue.Queue[int] = queue.Queue()
        feed = Feed(one, told.put)
        feed.start()
        assert told.get(timeout=PATIENCE_SECONDS) == 0
        first, second = Leader(one, "first"), Leader(other, "second")
        assert first.step() == 1
        assert second.step() is None
        assert first.step() == 1
        assert other.write_state(Desired(), expected=0).version == 1
        assert told.get(timeout=PATIENCE_SECONDS) == 1
        session = one.database.session()
        assert one.database.ask(session, "SELECT current_setting('statement_timeout')") == ("4s",)
        session.close()
        first.resign()
        assert second.step() == 2
        second.resign()
        feed.stop()
        one.close()
        other.close()


@pytest.mark.parametrize("pooler", LENDING)
def test_a_pooler_that_lends_sessions_is_refused_at_the_first_call(where: str, pooler: Pooler) -> None:
    with pooler(where) as url:
        store = open_store(url, now=time.time)
        for _ in range(3):
            with pytest.raises(SessionsNotKept, match="`pool_mode = session`") as refused:
                store.read_state()
            assert "\n" not in str(refused.value)
        with pytest.raises(SessionsNotKept):
            store.database.session()
        store.close()


def test_what_a_refused_pooler_lends_on_has_none_of_our_settings(where: str) -> None:
    with SmallPooler(where, "transaction") as pooler:
        store = open_store(pooler.url, now=time.time)
        with pytest.raises(SessionsNotKept):
            store.read_state()
        until = time.monotonic() + PATIENCE_SECONDS
        while not pooler.idle:  # it takes them back when it sees that our connections have ended
            assert time.monotonic() < until
            time.sleep(0.01)
        for session in pooler.idle:
            assert ask(session, "SHOW statement_timeout") == b"0"
            assert ask(session, "SHOW application_name") == b""
        store.close()


def test_a_pooler_that_begins_to_lend_sessions_later_is_noticed_in_use(where: str) -> None:
    with SmallPooler(where, "transaction", is_sticky=True) as pooler:
        store = open_store(pooler.url, now=time.time)
        leader = Leader(store, "one")
        assert leader.step() == 1  # it is as good as session mode for so long
        pooler.is_sticky = False
        steps = (leader.step() for _ in range(20))
        with pytest.raises(SessionsNotKept):
            list(steps)
        pooler.mode = "session"
        with contextlib.suppress(StoreUnavailable):  # a connection of before may find out still
            leader.step()
        until = time.monotonic() + PATIENCE_SECONDS
        while True:  # and when it keeps them again, all goes on
            try:
                assert store.version() == 0
                break
            except StoreUnavailable:
                assert time.monotonic() < until
        leader.resign()
        store.close()


def test_a_pool_too_small_for_a_gateway_serves_and_says_so(where: str, caplog: pytest.LogCaptureFixture) -> None:
    if pgbouncer() is None:
        pytest.skip("no PgBouncer here: apt-get install pgbouncer")
    with running_pgbouncer(where, "session", "default_pool_size=1") as url:
        store = open_store(url, now=time.time, seconds=2)
        assert store.version() == 0
        assert "default_pool_size" in caplog.text
        store.close()


@pytest.mark.parametrize("command", ["serve", "evaluate"])
def test_a_command_ends_with_one_sentence_behind_a_pooler_that_lends_sessions(
    where: str, tmp_path: Path, command: str
) -> None:
    save_copy(tmp_path, Desired(version=7))  # a copy is for a store that is away, not for one that is set up wrongly
    with SmallPooler(where, "transaction") as pooler:
        arguments = [command, "--engine", "http://127.0.0.1:9", "--state", str(tmp_path)]
        if command == "serve":
            arguments += ["--port", "0", "--control-port", "0", "--config", str(_settings(tmp_path, pooler.url))]
        else:
            arguments += ["--store", pooler.url]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 2, done.stderr
    assert "pool_mode = session" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _settings(folder: Path, url: str) -> Path:
    path = folder / "loragate.yaml"
    path.write_text(f"store: {url}\nadapters:\n  registry: {folder / 'registry'}\n")
    return path
