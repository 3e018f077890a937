"""Workers are started before they are configured, so that a gateway serves soon."""

import asyncio
import socket

from gateway.workers.pool import WorkerPool
from gateway.workers.unit_book import UnitBook
from tests.support.patience import PATIENCE_SECONDS
from tests.support.worker_pools import configuration


def test_the_processes_that_were_started_early_are_the_ones_that_serve() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            pool = WorkerPool(listener, 2)
            await pool.start()
            early = pool.pids()
            assert len(early) == 2
            pool.configure, pool.units = configuration, UnitBook(lambda: 0.0)
            running = asyncio.get_running_loop().create_task(pool.run())
            async with asyncio.timeout(PATIENCE_SECONDS):
                while pool.ready < 2:
                    await asyncio.sleep(0.02)
            assert pool.pids() == early
            await pool.stop(1.0)
            await running
            assert pool.restarts.total() == 0

    asyncio.run(main())
