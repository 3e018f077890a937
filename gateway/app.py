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

from gateway.decide.route import RouteTable
from gateway.errors import EngineUnavailable, RouteTableUnreadable
from gateway.mirror.queue import MirrorQueue
from gateway.observe.ledger import Ledger
from gateway.observe.tally import Tallies
from gateway.receive.body_memory import BodyMemory
from gateway.receive.cross_origin import CrossOrigin
from gateway.receive.deps import Deps, RequestIds
from gateway.receive.engine_fields import EngineFields
from gateway.receive.feedback_rates import FeedbackRates
from gateway.receive.known_callers import KnownCallers
from gateway.receive.placing import Placing
from gateway.receive.protocol import ClientConnection
from gateway.receive.rates import WorkerRates
from gateway.receive.recent_requests import RecentRequests
from gateway.receive.tap import Taps
from gateway.records.feedback import Feedback
from gateway.serve.upstream import EnginePools
from gateway.store.snapshot import to_table
from gateway.workers import channel
from gateway.workers.channel import (
    Applied,
    Collect,
    Configure,
    Configured,
    FeedbackGiven,
    Leave,
    Leaving,
    Mirrored,
    NewEngines,
    NewTable,
    Ping,
    Pong,
    Ready,
    Recall,
    Recalled,
    Spent,
    Start,
    Supplied,
    TableRefused,
    WorkerReport,
)
from gateway.workers.chores import BRIEF_DRAIN_SECONDS, CHORE_FAILED, Chores
from gateway.workers.supply import WorkerSupply

log = logging.getLogger("loragate.worker")

# How often deadlines are looked at; time-outs are whole seconds, so this is fine enough.
CHECK_SECONDS: Final = 0.5
# What is let in under limits is gathered for so long before the other workers are told.
SHARE_SECONDS: Final = 0.1
# How long the control plane may take to read what a worker says last.
FINAL_REPORT_SECONDS: Final = 1.0
# What may wait in the channel before no more copies of requests are put into it: all else has to get through.
MAX_UNREAD_BYTES: Final = 2 * 1024 * 1024
# For so long a worker serves from the table before one that it cannot read; revoked keys are good for no longer.
OLD_TABLE_SECONDS: Final = 4.0
# Pings, a second apart, within which deadlines have to be looked at, which they are twice a second.
MAX_UNCHECKED_PINGS: Final = 5


class Worker:
    """One worker's parts, and the ASGI lifespan that starts and stops them.

    Args:
        configure: What the control plane said first.
        reader, writer: The channel to it.
    """

    def __init__(self, configure: Configure, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._refused = 0  # the number of the newest table, while it is one that cannot be read
        self._is_behind = False  # and has been for too long
        self._is_leaving = False
        try:
            self._table = to_table(configure.table)
        except Exception:  # whatever is wrong with it: a later one may be better, until then nothing is served
            log.exception("the route table to begin with cannot be read; requests are refused")
            self._table, self._is_behind = RouteTable(), True
        self._chores = Chores(self._chore_failed)
        self._checks = self._unchecked_pings = 0
        self._checks_at_ping = -1
        self._may_start: asyncio.Future[None] | None = None
        self._reader = reader
        self._writer = writer
        self.ledger = Ledger()
        self.tallies = Tallies()
        self.rates = WorkerRates(self.ledger, self._share_soon)
        self.rates.adapt(self._table, monotonic())
        self.placing = Placing(configure.limits)
        self.placing.on_table(self._table)
        on_ended = self.placing.queue.on_place_free if configure.limits.engine_concurrency else None
        self.engines = EnginePools(
            configure.connect_seconds, monotonic, on_ended, self.placing.on_fault, configure.access
        )
        self.supply = WorkerSupply(lambda message: channel.write(writer, message))
        bounds = configure.mirror
        self.mirror = MirrorQueue(
            bounds,
            lambda copies: channel.write(writer, Mirrored(list(copies))),
            self._has_channel_room,
            self._chores.later,
        )
        self.recent = RecentRequests(bounds.recent_requests)
        self.deps = self._deps(configure)
        # Set by who runs the server: its connections, and how to stop it.
        self.connections: set[ClientConnection] = set()
        self.stop: Callable[[float], None] = lambda _drain_seconds: None
        self._drain_seconds = configure.drain_seconds
        self.exit_code = 0

    def _deps(self, configure: Configure) -> Deps:
        return Deps(
            table=self.table,
            engines=self.engines,
            supply=self.supply,
            ledger=self.ledger,
            limits=configure.limits,
            engine_fields=EngineFields(configure.engine_fields, self.ledger),
            body_memory=BodyMemory(configure.limits),
            host_names=frozenset(name.lower() for name in configure.host_names),
            placing=self.placing,
            ids=RequestIds(),
            clock=time,
            callers=KnownCallers(time),
            rates=self.rates,
            tallies=self.tallies,
            taps=Taps(self.mirror, configure.mirror.request_bytes, configure.mirror.reply_bytes),
            recent=self.recent,
            submit_feedback=self._submit_feedback,
            fingerprints={},
            cross_origin=CrossOrigin(configure.allowed_origins) if configure.allowed_origins else None,
            feedback_rates=FeedbackRates(configure.mirror.feedback_per_minute),
            is_leaving=lambda: self._is_leaving,
        )

    def table(self) -> RouteTable:
        """Return the current route table; a request reads it once.

        Raises:
            RouteTableUnreadable: There is a newer one, for some seconds already, and it cannot be read.
        """
        if self._is_behind:
            raise RouteTableUnreadable("This gateway worker cannot read the newest route table. Try again shortly.")
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
        self._may_start = asyncio.get_running_loop().create_future()
        self._chores.start("listen", self._listen())
        self._chores.start("check deadlines", self._check_deadlines())
        channel.write(self._writer, Configured())
        if self._is_behind:
            channel.write(self._writer, TableRefused(0))
        await self._may_start
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._abort_remaining()
        await self._chores.cancel()
        self.engines.close()
        self.mirror.close()
        await self._send_final_report()
        await send({"type": "lifespan.shutdown.complete"})

    async def _send_final_report(self) -> None:
        if self._writer.is_closing():
            return  # the node has gone first
        try:
            channel.write(self._writer, self._report(0))
        except Exception:  # the counts since the last collection are lost, and the worker still ends
            log.exception("a worker's last counts could not be told; this is a bug")
        self._writer.close()
        with suppress(OSError, TimeoutError):  # the counts lie behind the copies
            async with asyncio.timeout(FINAL_REPORT_SECONDS):
                await self._writer.wait_closed()

    def announce(self) -> None:
        """Tell the control plane that connections are accepted."""
        channel.write(self._writer, Ready())

    def leave(self) -> None:
        """Tell the control plane that no more connections are accepted."""
        if not self._writer.is_closing():
            channel.write(self._writer, Leaving())

    def _chore_failed(self) -> None:
        self.exit_code = CHORE_FAILED
        self._end(BRIEF_DRAIN_SECONDS)

    def _end(self, drain_seconds: float) -> None:
        self.stop(drain_seconds)
        if self._may_start is not None and not self._may_start.done():
            self._may_start.set_result(None)

    async def _listen(self) -> None:
        while (message := await channel.read_as_worker(self._reader)) is not None:
            if isinstance(message, NewTable):
                self._take_table(message)
            elif isinstance(message, NewEngines):
                self._serve_from(replace(self._table, engines=message.engines))
            elif isinstance(message, Ping):
                self._answer_ping()
            elif isinstance(message, Supplied):
                self.supply.on_supplied(message)
            elif isinstance(message, Collect):
                channel.write(self._writer, self._report(message.number))
            elif isinstance(message, Spent):
                self.rates.apply_shared(message.spendings, monotonic())
            elif isinstance(message, Recall):
                channel.write(self._writer, Recalled(message.number, self.recent.about(message.wanted)))
            elif isinstance(message, Leave):
                self._stop_keep_alive()
            elif isinstance(message, Start) and self._may_start is not None and not self._may_start.done():
                self._may_start.set_result(None)
        self._end(self._drain_seconds)
        await asyncio.Event().wait()  # the node is gone; until the drain is over

    def _stop_keep_alive(self) -> None:
        """Say on every reply that its connection ends, and on `/healthz` that this gateway is leaving."""
        self._is_leaving = True
        for connection in tuple(self.connections):
            connection.is_draining = True

    def _take_table(self, message: NewTable) -> None:
        """Serve from a new table and say so; or say that it cannot be read, and serve nothing before long."""
        before = self._table
        try:
            self._serve_from(to_table(message.table))
        except Exception:  # whatever is wrong with it: the node knows whether others read it
            self._table = before
            log.exception("the route table cannot be read; requests are refused in %g s", OLD_TABLE_SECONDS)
            if not self._refused:
                self._chores.later(OLD_TABLE_SECONDS, self._fall_behind)
            self._refused = message.number
            channel.write(self._writer, TableRefused(message.number))
        else:
            self._refused = 0
            self._is_behind = False
            channel.write(self._writer, Applied(message.number))

    def _fall_behind(self) -> None:
        self._is_behind = self._refused > 0

    def _answer_ping(self) -> None:
        """Say that all is well, unless deadlines have not been looked at since several pings ago."""
        self._unchecked_pings = self._unchecked_pings + 1 if self._checks == self._checks_at_ping else 0
        self._checks_at_ping = self._checks
        if self._unchecked_pings >= MAX_UNCHECKED_PINGS:
            raise RuntimeError("deadlines are not looked at any more")
        channel.write(self._writer, Pong())

    def _report(self, number: int) -> WorkerReport:
        rollouts = {route.rollout.id for route in self._table.routes.values() if route.rollout is not None}
        return WorkerReport(
            number,
            self.ledger.cells(),
            self.placing.counts,
            self.tallies.report(rollouts),
            self.tallies.outcomes(),
            self.mirror.counts,
        )

    def _has_channel_room(self) -> bool:
        """Whether the control plane reads what it is sent: else it would pile up here."""
        return not self._writer.is_closing() and self._writer.transport.get_write_buffer_size() < MAX_UNREAD_BYTES

    def _submit_feedback(self, feedback: Feedback) -> bool:
        if not self._has_channel_room():
            return False
        channel.write(self._writer, FeedbackGiven(feedback))
        return True

    def _share_soon(self) -> None:
        self._chores.later(SHARE_SECONDS, self._share)

    def _share(self) -> None:
        if not self._writer.is_closing():
            channel.write(self._writer, Spent(self.rates.take_unshared()))

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
            self._checks += 1
            now = monotonic()
            self.engines.sweep(now)
            self.placing.tick(now)
            for connection in tuple(self.connections):
                try:
                    connection.check(now)
                except Exception:  # one connection's fault must not leave all others without time-outs
                    log.exception("a connection could not be checked; this is a bug")

    def _abort_remaining(self) -> None:
        error = EngineUnavailable("The gateway is shutting down and could not finish this reply. Try again.")
        for connection in tuple(self.connections):
            try:
                connection.break_off(error)
            except Exception:  # the others are told all the same
                log.exception("a connection could not be broken off; this is a bug")
