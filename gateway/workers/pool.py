"""Keeps N worker processes running: starts, watches and drains them, sends them route tables, collects their counts."""

import asyncio
import logging
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from gateway.decide.route import EngineState
from gateway.observe.engine_counts import PlacementCounts
from gateway.observe.ledger import Cell
from gateway.observe.mirror_counts import MirrorCounts
from gateway.observe.tally import Tally, sum_tallies
from gateway.records.feedback import About, RequestKey
from gateway.workers import channel
from gateway.workers.channel import (
    Applied,
    Collect,
    Configure,
    Configured,
    FeedbackGiven,
    FromWorker,
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
    Used,
    Want,
    WorkerReport,
)
from gateway.workers.counts import Sums, WorkerCounts
from gateway.workers.ports import TakeCopies, TakeFeedback, VersionSupplier, drop
from gateway.workers.rate_sync import RateSync, share_of
from gateway.workers.slot import MESSAGE, SILENT, TABLE, Answer, Slot, wait_for_answers
from gateway.workers.unit_book import UnitBook
from gateway.workers.watch import CONFIRM_SECONDS, LOOK_SECONDS, AwakeClock, Liveness

log = logging.getLogger("loragate.workers")

# A worker that keeps dying is restarted after 0.5, 1, 2, … seconds, at most this.
MAX_PAUSE_SECONDS: Final = 30.0
# A worker that does not report its counts in this time is busy or stuck; its last report is used.
REPORT_SECONDS: Final = 2.0
# An operator's change waits at most this long, until every worker has confirmed it, or was killed because it did not.
PUBLISH_SECONDS: Final = CONFIRM_SECONDS + 1.5
# After the time to drain, before a worker is killed.
GRACE_SECONDS: Final = 3.0
# How long workers' use of rate limits is collected before it is sent to the other workers.
SHARE_SECONDS: Final = 0.1


class WorkerPool:
    """The workers of one gateway replica.

    Args:
        listener: The app port, bound and listening.
        size: How many workers to run.
        module: The Python module that a worker process runs.

    Set these before `run`: `configure`, which returns a worker's first message given the newest table; `supplier`; and
    `units`.
    """

    def __init__(self, listener: socket.socket, size: int, module: str = "gateway.workers.worker") -> None:
        self._listener = listener
        self._module = module
        self._slots = [Slot(place) for place in range(size)]
        self.configure: Callable[[bytes], Configure]
        self._table = b""
        self._engines: NewEngines | None = None  # set if newer than those in the table
        self.supplier: VersionSupplier
        self.units: UnitBook
        self.take_copies: TakeCopies = drop
        self.take_feedback: TakeFeedback = drop
        self._number = 0
        self._past = WorkerCounts()
        self._rate_sync = RateSync(size)
        self._is_sharing = False
        self._tasks: asyncio.TaskGroup
        self._awake = AwakeClock(0.0)
        self._is_leaving = False
        self._is_stopping = False
        self._is_tried = False  # a worker has been replaced although none could read the table; see `_replace`
        self.restarts: Counter[str] = Counter()  # by reason

    @property
    def ready(self) -> int:
        """How many workers accept connections."""
        return sum(slot.is_ready.is_set() for slot in self._slots)

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return len(self._slots)

    @property
    def unresponsive(self) -> int:
        """How many workers do not answer, or cannot read the newest table, so that they may serve from an old one."""
        now = self._awake.now
        return sum(slot.has_refused_table or slot.liveness.is_silent(now) for slot in self._slots)

    def pids(self) -> list[int]:
        """Return the ids of the worker processes that run now."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    async def start(self) -> None:
        """Start the processes early: they import their modules while the rest of the gateway is set up for `run`."""
        for slot in self._slots:
            await slot.start(self._listener, self._module)

    async def run(self) -> None:
        """Keep every worker running until `stop` has ended them."""
        self._awake = AwakeClock(asyncio.get_running_loop().time())
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            watch = tasks.create_task(self._watch())
            keepers = [tasks.create_task(self._keep(slot)) for slot in self._slots]
            await asyncio.wait(keepers)
            watch.cancel()

    # Messages to workers

    async def publish(self, table: bytes) -> bool:
        """Send every worker a new route table; return whether all workers that serve requests use it now.

        The messages are written before this first awaits. A worker that does not confirm is killed meanwhile, so that
        it serves nothing from an old table. A worker that is still starting gets the table before it accepts
        connections.
        """
        self._table = table
        self._engines = None
        waiting: dict[Answer, Slot] = {}
        number = self._next_number()
        for slot in self._slots:
            if slot.writer is not None:
                answer = slot.ask(number, lambda number: NewTable(number, table))
                slot.liveness.on_table_sent(number, self._awake.now)
                if slot.is_configured:
                    waiting[answer] = slot
        is_in_time = await wait_for_answers(waiting, PUBLISH_SECONDS)
        answers = {slot: answer.result() for answer, slot in waiting.items() if answer.done()}
        refused = [slot for slot, is_well in answers.items() if is_well is False]
        if refused:
            self._replace(refused, are_all=True not in answers.values())
        return is_in_time and not refused

    def _replace(self, refused: Sequence[Slot], *, are_all: bool) -> None:
        """Kill workers that cannot read the newest table; but if no worker can, only one of them, and once.

        The table itself may be at fault, so that new workers could not read it either. The successor of the one worker
        shows that: if it can read the table, the others are replaced too (`_on_ready`).
        """
        if are_all:
            log.error("no worker can read the newest route table; after 4 s they refuse requests; this is a bug")
            if self._is_tried:
                return
            self._is_tried, refused = True, refused[:1]
        for slot in refused:
            if slot.has_refused_table:
                slot.kill(TABLE, "cannot read the newest route table")

    def _on_ready(self, slot: Slot) -> None:
        """A worker accepts connections. By then it has read the newest table, or has reported that it cannot."""
        slot.liveness.on_ready(self._awake.now)
        slot.is_ready.set()
        others = [other for other in self._slots if other is not slot and other.is_configured]
        if not slot.has_refused_table:
            self._is_tried = False
            self._replace([other for other in others if other.has_refused_table], are_all=False)
        elif any(not other.has_refused_table for other in others):
            self._replace([slot], are_all=False)

    def publish_engines(self, engines: tuple[EngineState, ...]) -> None:
        """Send every worker the engines' present state, without waiting for confirmation."""
        self._engines = NewEngines(engines)
        for slot in self._slots:
            slot.tell(self._engines)

    async def collect(self) -> list[Cell]:
        """Collect all workers' counts, and return the metric cells' sums, with those of ended workers."""
        await self._ask(Collect)
        return self._sums().cells()

    @property
    def placement(self) -> PlacementCounts:
        """The counts of engines' failures and of queues, as last collected."""
        return self._sums().placement()

    def tallies(self, rollouts: Collection[str]) -> list[Tally]:
        """Return the counts of rollouts' stages as last collected, summed over workers and ended workers.

        Args:
            rollouts: The ids of open rollouts; units of others are forgotten.
        """
        return sum_tallies([self._sums().tallies(), self.units.tallies(rollouts)])

    @property
    def mirror(self) -> MirrorCounts:
        """The counts of mirrored requests, as last collected."""
        return self._sums().mirror()

    def _sums(self) -> Sums:
        return Sums([self._past, *(slot.counts for slot in self._slots)])

    async def recall(self, requests: Sequence[RequestKey]) -> dict[RequestKey, About]:
        """Return what served each of the requests that a worker still remembers."""
        wanted = tuple(requests)
        number = await self._ask(lambda number: Recall(number, wanted))
        found: dict[RequestKey, About] = {}
        for slot in self._slots:
            found |= slot.recalled.pop(number, {})
        return found

    async def _ask(self, message: Callable[[int], Collect | Recall]) -> int:
        """Ask all responsive workers, and wait for `REPORT_SECONDS` at most. Returns the question's number."""
        number, now = self._next_number(), self._awake.now
        waiting = {
            slot.ask(number, message): slot
            for slot in self._slots
            if slot.writer is not None and slot.is_ready.is_set() and not slot.liveness.is_silent(now)
        }
        await wait_for_answers(waiting, REPORT_SECONDS)
        for slot in waiting.values():
            slot.answers.pop(number, None)
        return number

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    # Starting and stopping workers

    def leave(self) -> None:
        """Have every worker serve on, but close each connection after its next reply: `stop` follows."""
        self._is_leaving = True
        for slot in self._slots:
            slot.tell(Leave())

    def kill(self) -> None:
        """Kill every worker at once; its requests are broken off."""
        self._is_stopping = True
        for slot in self._slots:
            slot.signal(signal.SIGKILL)

    async def stop(self, drain_seconds: float) -> None:
        """Let every worker finish its requests within `drain_seconds`, then kill those that still run."""
        self._is_stopping = True
        running = [slot.process for slot in self._slots if slot.process is not None]
        for slot in self._slots:
            slot.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(drain_seconds + GRACE_SECONDS):
                for process in running:
                    await process.wait()
        except TimeoutError:
            for slot in self._slots:
                slot.signal(signal.SIGKILL)

    async def _keep(self, slot: Slot) -> None:
        pause = 0.5
        while not self._is_stopping:
            started = asyncio.get_running_loop().time()
            reason = await self._run_once(slot)
            if self._has_been_stopped():
                return
            if asyncio.get_running_loop().time() - started > MAX_PAUSE_SECONDS:
                pause = 0.5
            self.restarts[reason] += 1
            log.warning("a worker ended unexpectedly (%s); starting another in %.1f s", reason, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _has_been_stopped(self) -> bool:
        return self._is_stopping

    async def _run_once(self, slot: Slot) -> str:
        """Run one worker process to its end; return the reason why it ended."""
        if slot.channel is None:
            await slot.start(self._listener, self._module)
        ours, slot.channel = slot.channel, None
        if slot.process is None or ours is None:
            return "ended"
        if self._is_stopping:  # `stop` came before there was a process to signal
            slot.signal(signal.SIGTERM)
        reader, slot.writer = await asyncio.open_connection(sock=ours)
        slot.liveness = Liveness(self._awake.now)
        configure = self.configure(self._table)
        slot.tell(msgspec.structs.replace(configure, limits=share_of(configure.limits, slot.place, self.size)))
        if self._engines is not None:
            slot.tell(self._engines)
        slot.tell(Spent(self._rate_sync.in_flight_elsewhere(slot.place)))
        if self._is_leaving:
            slot.tell(Leave())
        try:
            while (message := await channel.read_from_worker(reader)) is not None:
                self._handle(slot, message)
        except Exception:
            log.exception("what a worker says cannot be taken; this is a bug")
            slot.kill(MESSAGE, "has said what cannot be taken")
        reason = await slot.clean_up()
        self._past.absorb(slot.counts)
        slot.counts = WorkerCounts()
        self._rate_sync.forget_worker(slot.place)
        self._share()
        return reason

    async def _watch(self) -> None:
        """Ping workers, and kill those that have not answered for too long."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._awake.look(asyncio.get_running_loop().time())
            for slot in self._slots:
                if slot.writer is None:
                    continue
                why = slot.liveness.overdue(now)
                if why:
                    slot.kill(SILENT, why)
                elif slot.liveness.ping_is_due(now):
                    slot.tell(Ping())

    # Messages from workers

    def _handle(self, slot: Slot, message: FromWorker) -> None:
        match message:
            case Pong():
                slot.liveness.on_pong(self._awake.now)
            case Applied():
                slot.liveness.on_confirmed(message.number)
                slot.has_refused_table = self._is_tried = False
                slot.resolve(message.number, well=True)
            case TableRefused():
                slot.liveness.on_confirmed(message.number)
                slot.has_refused_table = True
                slot.resolve(message.number, well=False)
            case WorkerReport():
                slot.counts.take(message)
                self.units.take(message.outcomes)
                slot.resolve(message.number, well=True)
            case Recalled():
                if message.number in slot.answers:  # else the answer came too late
                    slot.recalled[message.number] = message.about
                slot.resolve(message.number, well=True)
            case Spent():
                self._rate_sync.record(slot.place, message.spendings)
                self._share()
            case Want():
                self.supplier.note_use(message.recent)
                self._tasks.create_task(self._supply(slot, message))
            case Used():
                self.supplier.note_use(message.recent)
            case Mirrored():
                self.take_copies(message.copies)
            case FeedbackGiven():
                self.take_feedback(message.feedback)
            case Configured():
                slot.is_configured = True
                slot.tell(Start())
            case Ready():
                self._on_ready(slot)
            case Leaving():
                slot.is_ready.clear()

    def _share(self) -> None:
        """Schedule sending each worker the other workers' use of rate limits."""
        if not self._is_sharing and len(self._slots) > 1:
            self._is_sharing = True
            asyncio.get_running_loop().call_later(SHARE_SECONDS, self._send_deltas)

    def _send_deltas(self) -> None:
        self._is_sharing = False
        for slot, others in zip(self._slots, self._rate_sync.deltas(), strict=True):
            slot.tell(Spent(others))

    async def _supply(self, slot: Slot, want: Want) -> None:
        was_there = False
        problem: str | None
        try:
            if want.missing_at is None:
                problem = await self.supplier.supply(want.version)
            else:
                problem, was_there = await self.supplier.look_for(want.version, want.missing_at)
        except Exception:  # waiting requests must get an answer, and the workers must go on
            log.exception("%s cannot be supplied; this is a bug", want.version)
            problem = f"`{want.version}` cannot be loaded now."
        slot.tell(Supplied(want.version, problem, was_there))
