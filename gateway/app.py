"""The data plane put together: what one worker process runs.

uvicorn gives the lifespan and the connections; this builds what they share, keeps the
one mutable cell (the route table), asks every connection once in a while whether its
time is up, and talks to the control plane.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Final

import msgspec

from gateway.decide.route import RouteTable
from gateway.errors import EngineUnavailable
from gateway.observe.ledger import Ledger
from gateway.receive.deps import Deps, RequestIds
from gateway.receive.protocol import ClientConnection
from gateway.serve.upstream import EnginePools
from gateway.store.snapshot import to_table
from gateway.workers import channel
from gateway.workers.channel import Applied, Collect, Configure, NewEngines, NewTable, Ready, Report, Supplied
from gateway.workers.supply import WorkerSupply

log = logging.getLogger("loragate.worker")

# How often deadlines are looked at; time-outs are whole seconds, so this is fine enough.
CHECK_SECONDS: Final = 0.5


class Worker:
    """One worker's parts, and the ASGI lifespan that starts and stops them.

    Args:
        configure: What the control plane said first.
        reader, writer: The channel to it.
    """

    def __init__(self, configure: Configure, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._table = to_table(configure.table)
        self._reader = reader
        self._writer = writer
        self.ledger = Ledger()
        self.engines = EnginePools(configure.connect_seconds, monotonic)
        self.supply = WorkerSupply(lambda message: channel.write(writer, message))
        self.deps = Deps(
            table=self.table,
            engines=self.engines,
            supply=self.supply,
            ledger=self.ledger,
            limits=configure.limits,
            ids=RequestIds(secrets.token_hex(8)),
            fingerprints={},
        )
        # Set by who runs the server: its connections, and how to stop it.
        self.connections: set[ClientConnection] = set()
        self.stop: Callable[[], None] = lambda: None

    def table(self) -> RouteTable:
        """Return the current route table; a request reads it once."""
        return self._table

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """ASGI: only the lifespan; requests never come this way."""
        if scope["type"] != "lifespan":
            raise RuntimeError(f"the worker serves `{scope['type']}` through its protocol class, not through ASGI")
        await receive()
        scope["state"]["deps"] = self.deps
        async with asyncio.TaskGroup() as tasks:
            chores = [tasks.create_task(self._listen()), tasks.create_task(self._check_deadlines())]
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._break_off_the_rest()
            for chore in chores:
                chore.cancel()
        self.engines.close()
        channel.write(self._writer, Report(0, self.ledger.cells()))
        self._writer.close()
        await send({"type": "lifespan.shutdown.complete"})

    def announce(self) -> None:
        """Tell the control plane that connections are accepted."""
        channel.write(self._writer, Ready())

    async def _listen(self) -> None:
        while (message := await channel.read_as_worker(self._reader)) is not None:
            if isinstance(message, NewTable):
                try:
                    self._serve_from(to_table(message.table))
                except msgspec.DecodeError:  # keep the last good one; no acknowledgement says so
                    continue
                channel.write(self._writer, Applied(message.number))
            elif isinstance(message, NewEngines):
                self._serve_from(replace(self._table, engines=message.engines))
            elif isinstance(message, Supplied):
                self.supply.on_supplied(message)
            elif isinstance(message, Collect):
                channel.write(self._writer, Report(message.number, self.ledger.cells()))
        self.stop()

    def _serve_from(self, table: RouteTable) -> None:
        self._table = table
        for engine in table.engines:
            if not engine.is_up:
                self.deps.fingerprints.pop(engine.url, None)  # what comes back may be another

    async def _check_deadlines(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.supply.tell_recent()
            now = monotonic()
            for connection in tuple(self.connections):
                try:
                    connection.check(now)
                except Exception:  # one connection's fault must not leave all others without time-outs
                    log.exception("a connection could not be checked; this is a bug")

    def _break_off_the_rest(self) -> None:
        error = EngineUnavailable("The gateway is shutting down and could not finish this reply. Try again.")
        for connection in tuple(self.connections):
            connection.break_off(error)
