"""Under load, with faults at random: no worker serves from an old table for more than 5 s, and nothing else is lost."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.decide.route import EngineState
from gateway.records.state import KeyRecord
from gateway.workers import pool as pool_module
from gateway.workers.pool import WorkerPool
from tests.fakes.engine import FakeEngine
from tests.support.faulty_worker import FAULTS, MODULE, break_worker
from tests.support.worker_pools import keyed, running_pool, table_of

WORKERS = 4
CLIENTS = 24
FAULTS_IN_CHORES = 30
STOPS = 10
PROMISE_SECONDS = 5.0
PUBLISH_EACH_SECONDS = 0.3
FAULT_EACH_SECONDS = 0.7
LONG_SECONDS = 120.0
SEED = 20261130
STREAM = b'{"model":"base","prompt":"a","stream":true,"fake":{"events":10,"cadence_ms":10}}'


def worker_of(port: int, pids: set[int]) -> int | None:
    """Return which process holds the connection that a client has from `port`."""
    inodes = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int((fields := line.split())[2].partition(":")[2], 16) == port
    }
    for pid in pids:
        with contextlib.suppress(OSError):
            for each in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(each).removeprefix("socket:[").removesuffix("]") in inodes:
                        return pid
    return None


def serving(pool: WorkerPool) -> set[int]:
    return {slot.process.pid for slot in pool._slots if slot.process is not None and slot.is_ready.is_set()}


class Keys:
    """One key is good at a time: each table revokes the last one's.

    Seconds are the pool's, which pass while the node has been able to look at its workers: the promise is of a node
    that is awake, and on a busy machine this one is held up, with all the clients in its process.
    """

    def __init__(self) -> None:
        self._made: list[tuple[KeyRecord, str, float]] = []
        self.now: Callable[[], float] = lambda: 0.0

    def next(self) -> KeyRecord:
        record, key = keyed()
        self._made.append((record, key, self.now()))
        return record

    def newest(self) -> str:
        return self._made[-1][1]

    def revoked(self) -> str | None:
        """Return the newest of those that no worker may serve any more: revoked longer ago than is promised."""
        latest = self.now() - PROMISE_SECONDS
        over = [key for (_, key, _), (_, _, since) in zip(self._made, self._made[1:], strict=False) if since < latest]
        return over[-1] if over else None


class Clients:
    """Callers on kept connections, and what has become of their requests."""

    def __init__(self, url: str, keys: Keys, pool: WorkerPool) -> None:
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._keys = keys
        self._pool = pool
        self.pids: set[int] = set()
        self.broken: set[int] = set()
        self.served = 0
        self.served_revoked: list[str] = []
        self.lost: list[str] = []

    async def ask_for_ever(self) -> None:
        while True:
            began = time.monotonic()
            reader, writer = await asyncio.open_connection(*self._address)
            port, pid = writer.get_extra_info("sockname")[1], None
            try:
                while await self._ask(reader, writer):
                    if pid is None:
                        pid = worker_of(port, set(self._pool.pids()))
            except (OSError, asyncio.IncompleteReadError) as error:
                if not (self.broken if pid is None else pid in self.broken):
                    self.lost.append(f"{error!r} of worker {pid} after {time.monotonic() - began:.1f} s")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """A stream with a good key, then the models with one that is none any more; whether there can be a next."""
        key = self._keys.newest()
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (key.encode(), len(STREAM), STREAM)
        )
        status, body, is_kept = await self._reply(reader)
        if status == 200:
            self.served += 1
            if b"data: [DONE]" not in body:
                raise ConnectionError("a stream without its end")
        elif status not in (401, 503):  # another key may be the good one by now
            raise AssertionError(f"{status} {body!r}")
        revoked = self._keys.revoked()
        if is_kept and revoked is not None:
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n\r\n" % revoked.encode())
            status, body, is_kept = await self._reply(reader)
            if status == 200:
                self.served_revoked.append(revoked)
        await asyncio.sleep(0.02)
        return is_kept

    async def _reply(self, reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = b""
        if b"transfer-encoding: chunked" in head:
            while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        return int(head.split()[1]), body, b"\r\nconnection: close" not in head


@pytest.mark.simulation
def test_faults_at_random_and_stopped_workers_under_load_cost_only_their_own_connections(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    monkeypatch.setattr(pool_module, "MAX_PAUSE_SECONDS", 0.5)  # 40 faults one after the other
    draw = random.Random(SEED)
    faults = [draw.choice(sorted(FAULTS)) for _ in range(FAULTS_IN_CHORES)] + ["stop"] * STOPS
    draw.shuffle(faults)
    keys = Keys()

    async def publish_for_ever(pool: WorkerPool) -> None:
        views = (EngineState(url=engine.url, is_up=True, versions=frozenset()),)
        publishing: set[asyncio.Task[bool]] = set()
        while True:
            publishing.add(asyncio.create_task(pool.publish(table_of([keys.next()], engines=views))))
            await asyncio.sleep(PUBLISH_EACH_SECONDS)
            publishing = {each for each in publishing if not each.done()}

    async def break_workers(pool: WorkerPool, clients: Clients) -> None:
        for fault in faults:
            async with asyncio.timeout(LONG_SECONDS):
                while not (well := serving(pool) - clients.broken) or pool.ready < 2:
                    await asyncio.sleep(0.05)
            pid = draw.choice(sorted(well))
            clients.broken.add(pid)
            if fault == "stop":
                os.kill(pid, signal.SIGSTOP)
            else:
                await asyncio.to_thread(break_worker, pid, fault)
            await asyncio.sleep(FAULT_EACH_SECONDS)
        async with asyncio.timeout(LONG_SECONDS):
            while pool.ready < pool.size or clients.broken & set(pool.pids()):
                await asyncio.sleep(0.05)

    async def collect_for_ever(pool: WorkerPool) -> None:
        while True:
            await pool.collect()
            await asyncio.sleep(0.5)

    async def main() -> tuple[Clients, int]:
        async with running_pool(WORKERS, table_of([keys.next()]), MODULE) as (pool, url):
            keys.now = lambda: pool._awake.now
            clients = Clients(url, keys, pool)
            tasks = [asyncio.create_task(publish_for_ever(pool)), asyncio.create_task(collect_for_ever(pool))]
            tasks += [asyncio.create_task(clients.ask_for_ever()) for _ in range(CLIENTS)]
            try:
                await break_workers(pool, clients)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            return clients, pool.restarts.total()

    clients, restarts = asyncio.run(main())
    assert clients.served_revoked == []
    assert clients.lost == []
    assert clients.served > 10 * len(faults)
    assert restarts == len(faults)
