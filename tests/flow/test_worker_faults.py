"""Workers that break: none serves from an old route table for more than 5 s, and only its own connections are lost."""

import asyncio
import contextlib
import http.client
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.workers.pool import WorkerPool
from tests.fakes.engine import FakeEngine
from tests.support.faulty_worker import FAULTS, MODULE, break_worker
from tests.support.gateways import RunningGateway
from tests.support.worker_pools import keyed, running_pool, table_of

PROMISE_SECONDS = 5.0
# For what is waited for on a loaded machine.
LONG_SECONDS = 60.0
ASK = "GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n"


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(2 * LONG_SECONDS):
            await main()

    asyncio.run(in_time())


class Kept:
    """One kept connection, to whichever worker has taken it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def status(self, key: str) -> int:
        """Ask for the models with a key; 0 if the connection is closed or broken."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self._writer.write(ASK.format(key=key).encode())
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)
            return int(head.split()[1])
        return 0

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def kept(url: str) -> AsyncIterator[Kept]:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    connection = Kept(*await asyncio.open_connection(host, port))
    try:
        yield connection
    finally:
        connection.close()


async def until(holds: Callable[[], bool], seconds: float = LONG_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def new_status(url: str, key: str) -> int:
    async with kept(url) as connection:
        return await connection.status(key)


async def collect_for_ever(pool: WorkerPool) -> None:
    while True:
        await pool.collect()
        await asyncio.sleep(0.1)


async def replaced(pool: WorkerPool, pid: int) -> None:
    await until(lambda: pid not in pool.pids() and pool.ready == pool.size)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_with_a_broken_chore_is_replaced_and_serves_no_revoked_key_for_more_than_5_s(fault: str) -> None:
    (record, key), (other, other_key) = keyed(), keyed()

    async def main() -> None:
        async with running_pool(1, table_of([record]), MODULE) as (pool, url), kept(url) as connection:
            assert await connection.status(key) == 200
            (pid,) = pool.pids()
            break_worker(pid, fault)
            collecting = asyncio.create_task(collect_for_ever(pool))
            revoked_at = time.monotonic()
            await pool.publish(table_of([other]))
            served_at = revoked_at
            while time.monotonic() < revoked_at + PROMISE_SECONDS and pid in pool.pids():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        if await connection.status(key) == 200:
                            served_at = time.monotonic()
                        else:
                            break
            while pid in pool.pids():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        assert await new_status(url, key) != 200 or time.monotonic() < revoked_at + PROMISE_SECONDS
                await asyncio.sleep(0.05)
            await replaced(pool, pid)
            collecting.cancel()
            assert served_at - revoked_at < PROMISE_SECONDS
            assert pool.restarts == {FAULTS[fault]: 1}
            assert (await new_status(url, key), await new_status(url, other_key)) == (401, 200)
            assert pool.unresponsive == 0

    run(main)


def test_a_worker_that_stands_still_is_told_of_then_replaced_and_a_change_meanwhile_holds_when_it_is_answered() -> None:
    (record, key), (other, other_key) = keyed(), keyed()

    async def main() -> None:
        async with running_pool(2, table_of([record])) as (pool, url):
            stopped, well = pool.pids()
            os.kill(stopped, signal.SIGSTOP)
            publishing = asyncio.create_task(pool.publish(table_of([other])))
            await until(lambda: pool.unresponsive == 1)
            assert await new_status(url, other_key) == 200  # the other one did not wait for it
            assert await publishing
            await replaced(pool, stopped)
            assert well in pool.pids()
            assert (pool.restarts, pool.unresponsive) == ({"silent": 1}, 0)
            assert await new_status(url, key) == 401

    run(main)


def test_a_change_is_told_to_all_others_at_once_while_an_earlier_one_waits_for_a_worker_that_stands_still() -> None:
    (record, key), (other, _) = keyed(), keyed()

    async def main() -> None:
        async with running_pool(2, table_of([record])) as (pool, url):
            stopped, _ = pool.pids()
            os.kill(stopped, signal.SIGSTOP)
            first = asyncio.create_task(pool.publish(table_of([record])))
            await asyncio.sleep(0)
            second = asyncio.create_task(pool.publish(table_of([other])))
            await asyncio.sleep(0)
            async with kept(url) as connection:
                while await connection.status(key) == 200:
                    assert not first.done()
            assert await first
            assert await second

    run(main)


def test_a_worker_that_is_busy_for_2_s_lives_on() -> None:
    record, key = keyed()

    async def main() -> None:
        async with running_pool(1, table_of([record]), MODULE) as (pool, url):
            (pid,) = pool.pids()
            break_worker(pid, "the loop is busy for 2 s")
            assert await pool.publish(table_of([record]))
            assert await new_status(url, key) == 200
            assert (pool.pids(), pool.restarts.total()) == ([pid], 0)

    run(main)


def test_a_table_that_no_worker_can_read_ends_one_of_them_once_and_lets_in_nobody_until_there_is_a_better_one() -> None:
    record, key = keyed()

    async def main() -> None:
        async with running_pool(3, table_of([record])) as (pool, url):
            pids = set(pool.pids())
            for _ in range(3):
                assert not await pool.publish(b'{"version": 2, "no": "table"}')
            await until(lambda: pool.restarts.total() == 1 and pool.ready == 3 and pool.unresponsive == 3)
            assert len(pids & set(pool.pids())) == 2
            refused = 0  # for a few seconds those that have one serve from the last
            while refused < 20:
                refused = refused + 1 if await new_status(url, key) == 503 else 0
            assert await pool.publish(table_of([record]))
            assert [await new_status(url, key) for _ in range(20)] == [200] * 20
            assert (pool.restarts, pool.unresponsive) == ({"table": 1}, 0)

    run(main)


def test_workers_that_cannot_read_a_table_are_replaced_where_another_can() -> None:
    (record, key), (other, other_key) = keyed(), keyed()

    async def main() -> None:
        async with running_pool(3, table_of([record]), MODULE) as (pool, url):
            first, second, well = pool.pids()
            for pid in (first, second):
                break_worker(pid, "no table can be read")
            assert not await pool.publish(table_of([other]))
            await replaced(pool, first)
            await replaced(pool, second)
            assert well in pool.pids()
            assert pool.restarts == {"table": 2}
            assert [await new_status(url, key) for _ in range(10)] == [401] * 10
            assert await new_status(url, other_key) == 200

    run(main)


def test_when_no_worker_could_read_a_table_but_the_successor_of_one_can_the_others_are_replaced_too() -> None:
    record, key = keyed()

    async def main() -> None:
        async with running_pool(2, table_of([record]), MODULE) as (pool, url):
            pids = pool.pids()
            for pid in pids:
                break_worker(pid, "no table can be read")
            assert not await pool.publish(table_of([record]))
            for pid in pids:
                await replaced(pool, pid)
            assert (pool.restarts, pool.unresponsive) == ({"table": 2}, 0)
            assert await new_status(url, key) == 200

    run(main)


def test_a_worker_that_is_told_to_stop_hears_changes_until_it_has_ended(engine: FakeEngine) -> None:
    (record, key), (other, _) = keyed(), keyed()

    async def main() -> None:
        async with running_pool(1, table_of([record]), MODULE) as (pool, url):
            (pid,) = pool.pids()
            assert await new_status(url, key) == 200
            os.kill(pid, signal.SIGTERM)
            await until(lambda: pool.ready == 0)
            assert await pool.publish(table_of([other]))
            await replaced(pool, pid)
            assert pool.restarts == {"ended": 1}

    run(main)


def test_readyz_status_and_a_metric_tell_of_a_worker_that_stands_still_until_it_is_replaced(engine: FakeEngine) -> None:
    def workers() -> dict[str, int]:
        counts: dict[str, int] = gateway.status()["workers"]
        return counts

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG_SECONDS
        while not holds():
            assert time.monotonic() < deadline, gateway.log_path.read_text()
            time.sleep(0.02)

    with RunningGateway(engine.url, options=("--workers", "2")) as gateway:
        stopped, _ = gateway.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        wait(lambda: workers()["unresponsive"] == 1)
        ready = httpx.get(gateway.control_url + "/readyz")
        metrics = gateway.metrics()
        assert (ready.status_code, ready.json()["workers"]) == (503, "2 of 2 accept connections, 1 not responding")
        assert metrics["loragate_workers_unresponsive"] == 1
        assert gateway.status()["ready"] is False
        wait(lambda: workers() == {"running": 2, "wanted": 2, "restarts": 1, "unresponsive": 0})
        assert httpx.get(gateway.control_url + "/readyz").status_code == 200
        assert gateway.metrics()['loragate_worker_restarts_total{reason="silent"}'] == 1
        assert "has given no sign of life" in gateway.log_path.read_text()


def test_absurd_figures_of_an_engine_leave_its_worker_hearing(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        revoked = gateway.admin("POST", "keys", {"role": "app"}).json()
        connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=LONG_SECONDS)
        body = b'{"model":"base","prompt":"a","fake":{"usage":{"prompt_tokens":9223372036854775807}}}'
        headers = {"authorization": f"Bearer {revoked['key']}", "content-type": "application/json"}
        for _ in range(3):
            connection.request("POST", "/v1/completions", body, headers)
            assert connection.getresponse().read()
        before = gateway.worker_pids()
        assert gateway.admin("DELETE", f"keys/{revoked['id']}").status_code == 200
        connection.request("GET", "/v1/models", headers=headers)
        assert connection.getresponse().status == 401
        connection.close()
        assert gateway.worker_pids() == before
