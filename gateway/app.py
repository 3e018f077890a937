"""The data plane put together: what one worker process runs.

uvicorn gives the lifespan and the connections; this builds what they share, keeps the
one mutable cell (the route table), asks every connection once in a while whether its
time is up, and talks to the control plane.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic, time  # noqa: TID251 (the composition root gives the clock)
from typing import Any, Final

import msgspec

from gateway.decide.route import RouteTable
from gateway.errors import EngineUnavailable
from gateway.mirror.feedback import Feedback
from gateway.mirror.queue import MirrorQueue
from gateway.observe.ledger import Ledger
from gateway.observe.tally import Tallies
from gateway.receive.cross_origin import CrossOrigin
from gateway.receive.deps import Deps, RequestIds
from gateway.receive.feedback_rates import FeedbackRates
from gateway.receive.placing import Placing
from gateway.receive.protocol import ClientConnection
from gateway.receive.rates import WorkerRates
from gateway.receive.recent import Recent
from gateway.receive.tap import Taps
from gateway.serve.upstream import EnginePools
from gateway.store.snapshot import to_table
from gateway.workers import channel
from gateway.workers.channel import (
    Applied,
    Collect,
    Configure,
    Heard,
    Mirrored,
    NewEngines,
    NewTable,
    Ready,
    Recall,
    Recalled,
    Report,
    Spent,
    Supplied,
)
from gateway.workers.supply import WorkerSupply

log = logging.getLogger("loragate.worker")

# How often deadlines are looked at; time-outs are whole seconds, so this is fine enough.
CHECK_SECONDS: Final = 0.5
# What is let in under limits is gathered for so long before the other workers are told.
SHARE_SECONDS: Final = 0.1
# How long the control plane may take to read what a worker says last.
LAST_WORDS_SECONDS: Final = 1.0
# What may wait in the channel before no more copies of requests are put into it: all else has to get through.
MOST_UNREAD_BYTES: Final = 2 * 1024 * 1024


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
        self.tallies = Tallies()
        self.rates = WorkerRates(self.ledger, self._share_soon)
        self.rates.adapt(self._table, monotonic())
        self.placing = Placing(configure.limits)
        self.placing.on_table(self._table)
        on_ended = self.placing.queue.freed if configure.limits.engine_concurrency else None
        self.engines = EnginePools(configure.connect_seconds, monotonic, on_ended, self.placing.saw_fault)
        self.supply = WorkerSupply(lambda message: channel.write(writer, message))
        bounds = configure.mirror
        self.mirror = MirrorQueue(
            bounds, lambda copies: channel.write(writer, Mirrored(list(copies))), self._is_heard,
            lambda seconds, what: asyncio.get_running_loop().call_later(seconds, what),
        )  # fmt: skip
        self.recent = Recent(bounds.recent_requests)
        self.deps = Deps(
            table=self.table,
            engines=self.engines,
            supply=self.supply,
            ledger=self.ledger,
            limits=configure.limits,
            placing=self.placing,
            ids=RequestIds(),
            clock=time,
            rates=self.rates,
            tallies=self.tallies,
            taps=Taps(self.mirror, bounds.request_bytes, bounds.reply_bytes),
            recent=self.recent,
            hear=self._hear,
            fingerprints={},
            cross_origin=CrossOrigin(configure.allowed_origins) if configure.allowed_origins else None,
            feedback_rates=FeedbackRates(bounds.feedback_per_minute),
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
        self.mirror.close()
        channel.write(self._writer, self._report(0))
        self._writer.close()
        with suppress(OSError, TimeoutError):  # the counts lie behind the copies
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._writer.wait_closed()
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
                channel.write(self._writer, self._report(message.number))
            elif isinstance(message, Spent):
                self.rates.heard(message.spendings, monotonic())
            elif isinstance(message, Recall):
                channel.write(self._writer, Recalled(message.number, self.recent.about(message.wanted)))
        self.stop()

    def _report(self, number: int) -> Report:
        rollouts = {route.rollout.id for route in self._table.routes.values() if route.rollout is not None}
        return Report(
            number, self.ledger.cells(), self.placing.counts, self.tallies.report(rollouts), self.mirror.counts
        )

    def _is_heard(self) -> bool:
        """Whether the control plane reads what it is sent: else it would pile up here."""
        return not self._writer.is_closing() and self._writer.transport.get_write_buffer_size() < MOST_UNREAD_BYTES

    def _hear(self, feedback: Feedback) -> bool:
        if not self._is_heard():
            return False
        channel.write(self._writer, Heard(feedback))
        return True

    def _share_soon(self) -> None:
        asyncio.get_running_loop().call_later(SHARE_SECONDS, self._share)

    def _share(self) -> None:
        if not self._writer.is_closing():
            channel.write(self._writer, Spent(self.rates.taken()))

    def _serve_from(self, table: RouteTable) -> None:
        before, self._table = self._table, table
        if table.routes is not before.routes or table.keys is not before.keys:
            self.rates.adapt(table, monotonic())
        self.placing.on_table(table)
        for engine in table.engines:
            if not engine.is_up:
                self.deps.fingerprints.pop(engine.url, None)  # what comes back may be another

    async def _check_deadlines(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.supply.tell_recent()
            now = monotonic()
            self.engines.sweep(now)
            self.placing.tick(now)
            for connection in tuple(self.connections):
                try:
                    connection.check(now)
                except Exception:  # one connection's fault must not leave all others without time-outs
                    log.exception("a connection could not be checked; this is a bug")

    def _break_off_the_rest(self) -> None:
        error = EngineUnavailable("The gateway is shutting down and could not finish this reply. Try again.")
        for connection in tuple(self.connections):
            connection.break_off(error)
