"""Real gateway workers under a pool, without a node: the table is the test's own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from gateway.decide.authenticate import Role
from gateway.decide.route import Base, EngineState
from gateway.receive.limits import Limits
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired, KeyRecord
from gateway.rollout.record import StoredRollout
from gateway.store.keys import create_key
from gateway.store.snapshot import encode, of_state
from gateway.workers.channel import Configure
from gateway.workers.pool import WorkerPool
from gateway.workers.unit_book import UnitBook
from tests.fakes.engine import FakeEngine
from tests.support.patience import PATIENCE_SECONDS


class VersionSupplier:
    """Has every version that it is asked for, or none."""

    async def supply(self, version: str) -> str | None:
        return f"`{version}` cannot be loaded: the test has taken it away."

    async def look_for(self, version: str, engine: str) -> tuple[str | None, bool]:
        return await self.supply(version), False

    def note_use(self, recent: Mapping[str, float]) -> None:
        assert all(recent)


def load_on(engine: FakeEngine, version: str, folder: Path) -> None:
    """Load an adapter on an engine, under a name of the test's choice."""
    body = {"lora_name": version, "lora_path": str(folder)}
    reply = httpx.post(engine.url + "/v1/load_lora_adapter", json=body)
    assert reply.status_code == 200, reply.text


def keyed(role: Role = Role.APP, *, requests_per_minute: int | None = None) -> tuple[KeyRecord, str]:
    """Return a key's record and the key."""
    _, record, key = create_key(Desired(), role, 0.0, requests_per_minute=requests_per_minute)
    return record, key


def table_of(
    keys: Sequence[KeyRecord] = (),
    routes: Sequence[RouteRecord] = (),
    rollouts: Sequence[StoredRollout] = (),
    engines: Sequence[EngineState] = (),
    replicas: int = 1,
) -> bytes:
    """Return a route table; the engines' base is `base`, and what they have is registered."""
    desired = Desired(keys=tuple(keys), routes=tuple(routes), rollouts=tuple(rollouts))
    made = of_state(
        desired, version=1, base=Base(name="base"), engines=tuple(engines), with_keys=True, replicas=replicas
    )
    versions = tuple(sorted({version for engine in engines for version in engine.versions}))
    return encode(msgspec.structs.replace(made, versions=versions))


@contextlib.asynccontextmanager
async def running_pool(
    size: int, table: bytes, module: str = "gateway.workers.worker"
) -> AsyncIterator[tuple[WorkerPool, str]]:
    """A pool of `size` workers that serve from `table`, and its URL; `module` is what they run."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)

    def configure(newest: bytes) -> Configure:
        return Configure(
            limits=Limits(),
            connect_seconds=5.0,
            drain_seconds=1.0,
            certificate=None,
            private_key=None,
            table=newest or table,
        )

    pool = WorkerPool(listener, size, module)
    pool.configure, pool.supplier, pool.units = configure, VersionSupplier(), UnitBook(lambda: 0.0)
    task = asyncio.create_task(pool.run())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while pool.ready < size:
                await asyncio.sleep(0.02)
        host, port = listener.getsockname()[:2]
        yield pool, f"http://{host}:{port}"
    finally:
        await pool.stop(1.0)
        await task
        listener.close()


def configuration(table: bytes = b"") -> Configure:
    """What a worker is started with, where no test waits for its limits."""
    return Configure(
        limits=Limits(),
        connect_seconds=1.0,
        drain_seconds=1.0,
        certificate=None,
        private_key=None,
        table=table or table_of(),
    )
