"""Keep N workers running: start them, feed them tables, add up their counts, drain them."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from gateway.decide.route import EngineView
from gateway.mirror.feedback import About, Feedback, Named
from gateway.mirror.taken import Taken
from gateway.observe.engine_counts import PlacementCounts, added_up
from gateway.observe.ledger import Cell, merged
from gateway.observe.mirror_counts import MirrorCounts
from gateway.observe.mirror_counts import added_up as all_copies
from gateway.observe.tally import Tally, summed
from gateway.receive.limits import Limits
from gateway.workers import channel
from gateway.workers.channel import (
    Applied,
    Collect,
    Configure,
    FromWorker,
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
    ToWorker,
    Used,
    Want,
)
from gateway.workers.sharing import Sharing

log = logging.getLogger("loragate.workers")

# A worker that keeps dying is started again after 0.5, 1, 2, … seconds, at most this.
LONGEST_PAUSE_SECONDS: Final = 30.0
# A worker that does not answer in this time is busy or stuck; its last report stands.
ANSWER_SECONDS: Final = 2.0
# Beyond the drain, before a worker is killed.
GRACE_SECONDS: Final = 3.0
# What workers let in under limits is gathered for so long before the others are told.
SHARE_SECONDS: Final = 0.1
# Stages of rollouts whose counts outlive the worker that counted them.
MOST_PAST_TALLIES: Final = 256


class Depot(Protocol):
    """Where the workers' wishes for versions go."""

    async def supply(self, version: str) -> str | None:
        """Have a version loaded somewhere; returns why it cannot be, or None when it is ready."""

    async def look_for(self, version: str, engine: str) -> tuple[str | None, bool]:
        """Have it looked for where it should be; returns as `supply` does, and whether it was there."""

    def used(self, recent: Mapping[str, float]) -> None:
        """Take note of when versions were last sent a request, in monotonic seconds."""


class Listener(Protocol):
    """Where copies of requests and feedback go; nothing of it waits or raises."""

    def take(self, copies: Sequence[Taken]) -> None:
        """Take over copies of requests."""

    def hear(self, feedback: Feedback) -> None:
        """Take over what a caller says of a reply."""


class Deaf:
    """Takes nothing."""

    def take(self, copies: Sequence[Taken]) -> None:
        """Drop copies of requests."""

    def hear(self, feedback: Feedback) -> None:
        """Drop what a caller says of a reply."""


class _Slot:
    """One of the N places for a worker, through its restarts."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.channel: socket.socket | None = None  # of a process that has been told nothing yet
        self.writer: asyncio.StreamWriter | None = None
        self.is_ready = asyncio.Event()
        self.answers: dict[int, asyncio.Future[None]] = {}
        self.cells: list[Cell] = []
        self.placement = PlacementCounts()
        self.tallies: list[Tally] = []
        self.mirror = MirrorCounts()
        self.recalled: dict[int, dict[Named, About]] = {}


class WorkerPool:
    """The workers of one gateway replica.

    Args:
        listener: The app port, bound and listening.
        size: How many workers.
        configure: Returns the first message for a worker, given the newest table; set before `run`.
        depot: Set before `run`.
    """

    def __init__(self, listener: socket.socket, size: int) -> None:
        self._listener = listener
        self._slots = [_Slot() for _ in range(size)]
        self.configure: Callable[[bytes], Configure]
        self._table = b""
        self._engines: NewEngines | None = None  # newer than the table's
        self.depot: Depot
        self.listener: Listener = Deaf()
        self._number = 0
        self._past: list[Cell] = []
        self._past_placement = PlacementCounts()
        self._past_tallies: list[Tally] = []
        self._past_mirror = MirrorCounts()
        self._sharing = Sharing(size)
        self._is_sharing = False
        self._tasks: asyncio.TaskGroup
        self._is_stopping = False
        self.restarts = 0

    @property
    def ready(self) -> int:
        """How many workers accept connections."""
        return sum(slot.is_ready.is_set() for slot in self._slots)

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return len(self._slots)

    def pids(self) -> list[int]:
        """Return the processes that run now."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    async def start(self) -> None:
        """Start the processes already: they import what they need while the rest of the gateway is made for `run`."""
        for slot in self._slots:
            await self._start(slot)

    async def run(self) -> None:
        """Keep every worker running until `stop` has ended them."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for slot in self._slots:
                tasks.create_task(self._keep(slot))

    async def publish(self, table: bytes) -> bool:
        """Give every worker a new table; returns whether all of them serve from it now."""
        self._table = table
        self._engines = None
        # Those that still start are told too: one may accept connections before it has read this.
        return await self._ask_all(lambda number: NewTable(number, table), self._slots)

    def publish_engines(self, engines: tuple[EngineView, ...]) -> None:
        """Tell every worker what the engines have ready now; nobody waits for it."""
        self._engines = NewEngines(engines)
        self._tell_all(self._engines)

    def _tell_all(self, message: ToWorker) -> None:
        for slot in self._slots:
            if slot.writer is not None:
                channel.write(slot.writer, message)

    async def collect(self) -> list[Cell]:
        """Return the sums over all workers, those that have ended included."""
        await self._ask_all(Collect, [slot for slot in self._slots if slot.is_ready.is_set()])
        return merged([self._past, *(slot.cells for slot in self._slots)])

    @property
    def placement(self) -> PlacementCounts:
        """The sums of what `collect` has brought of engines and queues."""
        return added_up([self._past_placement, *(slot.placement for slot in self._slots)])

    def tallies(self) -> list[Tally]:
        """Return what `collect` has last brought of rollouts, a stage's workers added up, ended ones included."""
        return summed([self._past_tallies, *(slot.tallies for slot in self._slots)])

    @property
    def mirror(self) -> MirrorCounts:
        """The sums of what `collect` has brought of copies of requests."""
        return all_copies([self._past_mirror, *(slot.mirror for slot in self._slots)])

    async def recall(self, requests: Sequence[Named]) -> dict[Named, About]:
        """Return what served those of the requests that a worker remembers."""
        wanted = tuple(requests)
        ready = [slot for slot in self._slots if slot.is_ready.is_set()]
        asked: list[int] = []

        def ask(number: int) -> Recall:
            asked.append(number)
            return Recall(number, wanted)

        await self._ask_all(ask, ready)
        found: dict[Named, About] = {}
        for slot in self._slots:
            for number in asked[:1]:  # another call's answers are that call's
                found |= slot.recalled.pop(number, {})
        return found

    async def stop(self, drain_seconds: float) -> None:
        """Let every worker finish what it has, for so long, then end it."""
        self._is_stopping = True
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(drain_seconds + GRACE_SECONDS):
                for process in running:
                    await process.wait()
        except TimeoutError:
            for process in running:
                _signal(process, signal.SIGKILL)

    async def _ask_all(self, message: Callable[[int], NewTable | Collect | Recall], slots: Sequence[_Slot]) -> bool:
        self._number += 1
        number = self._number
        answers: list[asyncio.Future[None]] = []
        for slot in slots:
            if slot.writer is not None:
                answer = slot.answers[number] = asyncio.get_running_loop().create_future()
                answers.append(answer)
                channel.write(slot.writer, message(number))
        if answers:
            _, late = await asyncio.wait(answers, timeout=ANSWER_SECONDS)
            for slot in slots:
                slot.answers.pop(number, None)
            return not late
        return True

    async def _keep(self, slot: _Slot) -> None:
        pause = 0.5
        while not self._is_stopping:
            started = asyncio.get_running_loop().time()
            await self._run_once(slot)
            if self._has_been_stopped():
                return
            if asyncio.get_running_loop().time() - started > LONGEST_PAUSE_SECONDS:
                pause = 0.5
            self.restarts += 1
            log.warning("a worker ended unexpectedly; starting another in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _has_been_stopped(self) -> bool:
        return self._is_stopping

    async def _run_once(self, slot: _Slot) -> None:
        """Run one worker process to its end."""
        if slot.channel is None:
            await self._start(slot)
        ours, slot.channel = slot.channel, None
        if slot.process is None or ours is None:
            return
        if self._is_stopping:  # `stop` came before there was a process to signal
            _signal(slot.process, signal.SIGTERM)
        reader, writer = await asyncio.open_connection(sock=ours)
        slot.writer = writer
        configure = self.configure(self._table)
        limits = share_of(configure.limits, self._slots.index(slot), len(self._slots))
        channel.write(writer, msgspec.structs.replace(configure, limits=limits))
        if self._engines is not None:
            channel.write(writer, self._engines)
        channel.write(writer, Spent(self._sharing.under_way(self._slots.index(slot))))
        try:
            while (message := await channel.read_from_worker(reader)) is not None:
                self._take(slot, message)
        finally:
            slot.is_ready.clear()
            slot.writer = None
            writer.close()
            for answer in slot.answers.values():
                if not answer.done():
                    answer.set_result(None)
            await slot.process.wait()
            self._bury(slot)

    async def _start(self, slot: _Slot) -> None:
        """Start a process that waits for its first message."""
        ours, theirs = socket.socketpair()
        descriptors = (self._listener.fileno(), theirs.fileno())
        try:
            slot.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.workers.worker", *map(str, descriptors),
                pass_fds=descriptors, start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # no memory or no descriptors now; the others go on
            ours.close()
            log.warning("a worker cannot be started: %s", error.strerror)
        else:
            slot.channel = ours
        finally:
            theirs.close()

    def _take(self, slot: _Slot, message: FromWorker) -> None:
        if isinstance(message, Ready):
            slot.is_ready.set()
        elif isinstance(message, Report):
            slot.cells = message.cells
            slot.placement = message.placement
            slot.tallies = message.tallies
            slot.mirror = message.mirror
        elif isinstance(message, Mirrored):
            self.listener.take(message.copies)
        elif isinstance(message, Heard):
            self.listener.hear(message.feedback)
        elif isinstance(message, Recalled):
            if message.number in slot.answers:  # else it is too late
                slot.recalled[message.number] = message.about
        elif isinstance(message, Spent):
            self._sharing.told(self._slots.index(slot), message.spendings)
            self._share()
        elif isinstance(message, Want):
            self.depot.used(message.recent)
            self._tasks.create_task(self._supply(slot, message))
        elif isinstance(message, Used):
            self.depot.used(message.recent)
        if isinstance(message, Applied | Report | Recalled):
            answer = slot.answers.get(message.number)
            if answer is not None and not answer.done():
                answer.set_result(None)

    def _share(self) -> None:
        """Soon pass on what workers have told of limits."""
        if not self._is_sharing and len(self._slots) > 1:
            self._is_sharing = True
            asyncio.get_running_loop().call_later(SHARE_SECONDS, self._pass_on)

    def _pass_on(self) -> None:
        self._is_sharing = False
        for slot, others in zip(self._slots, self._sharing.passed_on(), strict=True):
            if slot.writer is not None:
                channel.write(slot.writer, Spent(others))

    async def _supply(self, slot: _Slot, want: Want) -> None:
        was_there = False
        problem: str | None
        try:
            if want.missing_at is None:
                problem = await self.depot.supply(want.version)
            else:
                problem, was_there = await self.depot.look_for(want.version, want.missing_at)
        except Exception:  # those who wait get an answer, and the workers go on
            log.exception("%s cannot be supplied; this is a bug", want.version)
            problem = f"`{want.version}` cannot be loaded now."
        if slot.writer is not None:
            channel.write(slot.writer, Supplied(want.version, problem, was_there))

    def _bury(self, slot: _Slot) -> None:
        """Keep the counts of a worker that has ended, without what was in flight."""
        for cell in slot.cells:
            cell.in_flight = 0
        self._past = merged([self._past, slot.cells])
        slot.cells = []
        slot.placement.forget_now()
        self._past_placement.add(slot.placement)
        slot.placement = PlacementCounts()
        self._past_tallies = summed([self._past_tallies, slot.tallies])[-MOST_PAST_TALLIES:]
        slot.tallies = []
        self._past_mirror.add(slot.mirror)
        slot.mirror = MirrorCounts()
        self._sharing.ended(self._slots.index(slot))
        self._share()
        slot.process = None


def share_of(limits: Limits, place: int, size: int) -> Limits:
    """Return the limits of one worker of `size`: what an engine may have at once is shared out, at least 1 each."""
    whole = limits.engine_concurrency
    if not whole:
        return limits
    return replace(limits, engine_concurrency=max(1, whole // size + (place < whole % size)))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
