"""The composition root of the data plane: what one worker process runs.

uvicorn provides the lifespan and the connections. `Worker` builds the parts that they share, holds the current route
table, checks every connection's time-outs twice a second, and exchanges messages with the node.
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

# How often time-outs are checked; they are whole seconds, so this is fine enough.
CHECK_SECONDS: Final = 0.5
# How long the use of rate limits is collected before it is sent to the other workers.
SHARE_SECONDS: Final = 0.1
# How long the node may take to read a worker's final report.
FINAL_REPORT_SECONDS: Final = 1.0
# If more bytes than this are unread in the channel, no mirrored requests are added: other messages have to get through.
MAX_UNREAD_BYTES: Final = 2 * 1024 * 1024
# If a worker cannot read the newest table, it serves from the previous one for this long, so that revoked keys are not
# accepted for longer.
OLD_TABLE_SECONDS: Final = 4.0
# The worker ends if this many pings, a second apart, have passed without a check of time-outs.
MAX_UNCHECKED_PINGS: Final = 5


class Worker:
    """One worker's parts, and the ASGI lifespan that starts and stops them.

    Args:
        configure: The node's first message.
        reader, writer: The channel to the node.
    """

    def __init__(self, configure: Configure, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._refused = 0  # the newest table's number if that table cannot be read, else 0
        self._is_behind = False  # it could not be read for `OLD_TABLE_SECONDS`, so requests are refused
        self._is_leaving = False
        try:
            self._table = to_table(configure.table)
        except Exception:  # whatever is wrong with it: requests are refused until a table comes that can be read
            log.exception("the first route table cannot be read; requests are refused")
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
        # Set by `workers/worker.py`: the server's connections, and the function that stops it.
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
            RouteTableUnreadable: A newer table came some seconds ago, and cannot be read.
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
        """Run the ASGI lifespan. Requests never come this way: the protocol class serves them."""
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
            return  # the node has gone already
        try:
            channel.write(self._writer, self._report(0))
        except Exception:  # the counts since the last collection are lost, but the worker must still end
            log.exception("a worker's final counts could not be reported; this is a bug")
        self._writer.close()
        with suppress(OSError, TimeoutError):  # wait until it is sent: mirrored requests are before it in the channel
            async with asyncio.timeout(FINAL_REPORT_SECONDS):
                await self._writer.wait_closed()

    def announce(self) -> None:
        """Tell the node that connections are accepted."""
        channel.write(self._writer, Ready())

    def leave(self) -> None:
        """Tell the node that no more connections are accepted."""
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
        await asyncio.Event().wait()  # the node has gone: this chore must not end before the drain is over

    def _stop_keep_alive(self) -> None:
        """Close each connection after its next reply, and answer `/healthz` with `stopping`."""
        self._is_leaving = True
        for connection in tuple(self.connections):
            connection.is_draining = True

    def _take_table(self, message: NewTable) -> None:
        """Use a new table and confirm it; or report that it cannot be read, and refuse requests some seconds later."""
        before = self._table
        try:
            self._serve_from(to_table(message.table))
        except Exception:  # whatever is wrong with it: the node knows whether other workers can read it
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
        """Answer a ping, unless time-outs have not been checked for several pings: then fail."""
        self._unchecked_pings = self._unchecked_pings + 1 if self._checks == self._checks_at_ping else 0
        self._checks_at_ping = self._checks
        if self._unchecked_pings >= MAX_UNCHECKED_PINGS:
            raise RuntimeError("time-outs are not checked any more")
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
        """Whether the node keeps up with reading the channel: else mirrored requests would pile up in memory."""
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
                self.deps.fingerprints.pop(engine.url, None)  # another engine may come up at this URL

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
                except Exception:  # a fault of one connection must not leave the others without time-outs
                    log.exception("a connection could not be checked; this is a bug")

    def _abort_remaining(self) -> None:
        error = EngineUnavailable("The gateway is shutting down and could not finish this reply. Try again.")
        for connection in tuple(self.connections):
            try:
                connection.break_off(error)
            except Exception:  # a fault of one connection must not keep the others open
                log.exception("a connection could not be broken off; this is a bug")
