"""The composition root of the node: one machine's workers, control plane and engines, from start to stop."""

import asyncio
import contextlib
import importlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn

from gateway import node_views
from gateway.admin.adapters.intake import Intake
from gateway.admin.adapters.operations import AdapterOperations
from gateway.admin.operations import Operations
from gateway.admin.rollouts.conductor import Conductor
from gateway.admin.shadow.metrics_collector import ShadowMetricsCollector
from gateway.admin.state import Conflict, LiveState
from gateway.admin.store_sync import StoreContact
from gateway.evaluate.supervise import EvaluatorChild, encode_config, is_wanted
from gateway.factories import fleet_of, intake_rules
from gateway.mirror.feedback_service import FeedbackService
from gateway.mirror.intake import MirrorIntake
from gateway.mirror.memory_queue import InMemorySamples
from gateway.mirror.node_side import mirror_reading, policies, policy_of
from gateway.mirror.retention import Retention
from gateway.observe.loads import LoadCounts
from gateway.observe.tally import Tally
from gateway.records.state import Desired
from gateway.serve.vllm_process import EngineProcess, VllmCommand
from gateway.settings import Settings
from gateway.sockets import CONTROL_SOCKET, ListeningSockets, address, make_folder
from gateway.store.errors import SessionsNotKept, StoreError, StoreUnavailable
from gateway.store.feedback import Feedbacks
from gateway.store.fingerprints import FingerprintStore
from gateway.store.leader import Leader
from gateway.store.pairs import Pairs
from gateway.store.replicas import Replica, Replicas
from gateway.store.samples import Samples
from gateway.store.snapshot import read_base
from gateway.store.sql import Store, open_store
from gateway.store.state_copy import COPY_FILE, read_copy, save_copy
from gateway.workers.channel import Configure
from gateway.workers.pool import WorkerPool
from gateway.workers.unit_book import UnitBook

log = logging.getLogger("loragate")

# How often workers' counts are collected even if nobody scrapes: a worker that dies loses this much at most.
COLLECT_SECONDS: Final = 5.0
# How often the results of engines' checks are written to the catalog.
REVIEW_SECONDS: Final = 1.0
DAY_SECONDS: Final = 86_400.0
# How long mirrored requests that workers have just sent may take to be stored when the gateway ends.
MIRROR_DRAIN_SECONDS: Final = 2.0


def _first_state(store: Store, records: FingerprintStore, folder: Path) -> tuple[Desired, bool]:
    """Return the state to start with, and whether it is current: read from the store, not from the copy on disk.

    Raises:
        StoreError: The store is damaged, or it is unavailable and there is no copy.
    """
    copy = read_copy(folder)
    try:
        records.load()
        stored = store.read_state()
    except SessionsNotKept:
        raise  # the store is available, but has to be configured differently
    except StoreUnavailable as error:
        if copy is None:
            raise
        log.warning("%s; this gateway serves its last copy, version %d", error, copy.version)
        return copy, False
    if stored.version == 0 and copy is not None and copy.version > 0:
        log.error(
            "the store %s is empty, and this gateway last served version %d: it serves that copy, and changes are "
            "refused; restore the store, or remove `%s` to begin anew",
            store.database.label,
            copy.version,
            folder / COPY_FILE,
        )
        return copy, False
    try:
        save_copy(folder, stored)
    except OSError as error:
        log.warning("the copy of the state for a start without a store is not saved: %s", error.strerror)
    return stored, True


class Node:
    """The gateway on one machine.

    Args:
        settings: The settings.
        engine_urls: The engines to use. If this machine runs the first itself, call `own` before `run`.
        sockets: The listening sockets.
        pool: The workers, on the socket for applications; they may have been started.
    """

    def __init__(
        self, settings: Settings, engine_urls: Sequence[str], sockets: ListeningSockets, pool: WorkerPool
    ) -> None:
        self.settings = settings
        self._engine_urls = tuple(engine_urls)
        self.folder = settings.state_folder()
        self.sockets = sockets
        self.loads = LoadCounts()
        self.store = open_store(settings.store or self.folder, now=time.time)  # noqa: TID251 (the composition root gives the clock)
        records = FingerprintStore(self.store)
        desired, is_current = _first_state(self.store, records, self.folder)
        self.engines = fleet_of(settings, self._engine_urls, records, self.loads, read_base(self.folder))
        self.pool = pool
        self.pool.configure, self.pool.supplier = self._configure, self.engines
        self.pool.units = UnitBook(time.time)  # noqa: TID251 (the composition root gives the clock)
        self.state = LiveState(
            self.folder,
            self.store,
            desired,
            self.pool,
            self.engines,
            with_keys=settings.auth,
            now=time.time,  # noqa: TID251 (the composition root gives the clock)
            rollback_seconds=settings.adapters.rollback_days * DAY_SECONDS,
        )
        intake = Intake(self.folder, intake_rules(settings), self.engines.base_folder)
        registry = settings.registry_folder()
        make_folder(registry)
        self.started = int(time.time())  # noqa: TID251 (the composition root gives the clock)
        replica = Replica(id=secrets.token_hex(8), name=f"{socket.gethostname()}:{os.getpid()}", started=self.started)
        self.contact = StoreContact(
            self.state,
            records,
            Replicas(self.store, replica, time.monotonic),
            lambda: msgspec.structs.replace(replica, url=self.app_url, workers=self.pool.ready),
            self._tallies,
        )
        self.operations = Operations(
            self.state,
            AdapterOperations(self.state, intake, records, registry, most_rank=settings.engine.max_lora_rank),
            self.contact.tallies,
            self.contact.everywhere,
            lambda: mirror_reading(self.mirror, self.feedback, self.pool.mirror).counts,
        )
        if is_current:
            self.operations.adapters.sweep(is_shared=settings.store is not None)
        self._keep_samples()
        self.pool.take_copies, self.pool.take_feedback = self.mirror.take, self.feedback.hear
        self.conductor = Conductor(self.operations.rollouts, Leader(self.store, replica.name))
        self.shadow = ShadowMetricsCollector(self.store, self.operations.rollouts, lambda: self.conductor.is_leader)
        self.engines.watch(self.state, self._engines_changed, self.state.publish_engines)
        self.evaluator = self._own_evaluator()
        self.engine: EngineProcess | None = None
        self._control: uvicorn.Server | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # stop without the time that lets load balancers notice
        self._is_draining = False

    def _keep_samples(self) -> None:
        bounds = self.settings.mirror
        self.memory_queue = InMemorySamples(
            bounds.held_items, bounds.held_bytes, bounds.straight_seconds, time.monotonic
        )
        self.mirror = MirrorIntake(
            Samples(self.store),
            self.memory_queue,
            lambda alias: policy_of(self.state.desired, alias),
            bounds,
            self.state.now,
        )
        self.feedback = FeedbackService(
            Feedbacks(self.store),
            self.pool.recall,
            lambda: policies(self.state.desired),
            bounds.feedback_seconds,
            self.state.now,
            redactor=self.mirror.redactor,
        )
        self.retention = Retention(
            Samples(self.store), (Pairs(self.store), Feedbacks(self.store)), bounds.results_seconds, self.state.now
        )

    def _own_evaluator(self) -> EvaluatorChild:
        return EvaluatorChild(
            lambda: encode_config(
                self.settings,
                [each.status.url for each in self.engines.watches],
                self.folder / CONTROL_SOCKET,
                self.engines.base(),
            ),
            lambda: is_wanted(self.state.desired),
            self.settings.evaluator.drain_seconds,
        )

    def own(self, command: VllmCommand, on_progress: Callable[[float | None], None]) -> None:
        """Run the first engine as a process of this machine."""
        self.engine = EngineProcess(command, self.engines.watches[0].on_lost, on_progress)

    @property
    def app_url(self) -> str:
        """The URL for applications."""
        return f"{'https' if self.settings.tls_key else 'http'}://{address(self.sockets.app)}"

    @property
    def control_url(self) -> str:
        """The URL for operators and Prometheus."""
        return f"http://{address(self.sockets.control)}"

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has asked it to stop."""
        return self._stop.is_set()

    def _on_signal(self, number: signal.Signals) -> None:
        """Stop after `lame_duck_seconds`; Ctrl-C or a second signal skips that time, and one more kills the workers."""
        if self._is_draining:
            log.warning("a signal while draining: replies under way are broken off")
            self.pool.kill()
        elif number == signal.SIGINT or self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until a signal.

        Raises:
            EngineNotStarted: The engine that this machine runs did not come up.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        await self.state.publish()
        workers = loop.create_task(self.pool.run())
        chores: list[asyncio.Task[Any]] = [
            loop.create_task(self._serve_control()),
            loop.create_task(self._collect()),
            loop.create_task(self._review()),
            loop.create_task(self.contact.run()),
            loop.create_task(self.conductor.run()),
            loop.create_task(self.mirror.run()),
            loop.create_task(self.retention.run()),
            loop.create_task(self.shadow.run()),
            loop.create_task(self.feedback.run()),
            *(loop.create_task(watch.run()) for watch in self.engines.watches),
        ]
        if self.settings.evaluator.enabled:
            chores.append(loop.create_task(self.evaluator.run()))
        if self.engine is not None:
            chores.append(loop.create_task(self.engine.run()))
        ready = loop.create_task(self._announce(on_ready))
        stopped = loop.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*chores, workers, stopped], return_when=asyncio.FIRST_COMPLETED)
            if done == {stopped}:
                done = await self._serve_as_lame_duck([*chores, workers])
            for task in done - {stopped}:
                task.result()  # raises the error of a part that ended by itself
        finally:
            ready.cancel()
            await self._wind_down(workers, chores)

    async def _serve_as_lame_duck(self, parts: Sequence[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        """Serve on for `lame_duck_seconds`, not ready and without keep-alive, so that load balancers turn away.

        Returns the parts that have ended meanwhile.
        """
        seconds = 0.0 if self._hurry.is_set() else self.settings.lame_duck_seconds
        if not seconds:
            return set()
        log.info("stopping: not ready from now on, and draining in %g s", seconds)
        self.pool.leave()
        hurried = asyncio.get_running_loop().create_task(self._hurry.wait())
        done, _ = await asyncio.wait([*parts, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        return done - {hurried}

    async def _wind_down(self, workers: asyncio.Task[None], chores: list[asyncio.Task[Any]]) -> None:
        self._is_draining = True
        self.sockets.app.close()  # the workers' copies close as they drain: new connections are refused at once
        await asyncio.gather(self.pool.stop(self.settings.drain_seconds), self.evaluator.stop())
        await asyncio.wait([workers], timeout=5)
        if self.engine is not None:
            await self.engine.stop()
        if self._control is not None:
            self._control.should_exit = True
        else:
            chores[0].cancel()  # the control plane is still importing its modules
        await asyncio.wait(chores[:1], timeout=5)
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        # Requests that a redactor has not processed by then are lost: else a redactor that hangs would delay the end.
        asyncio.get_running_loop().call_later(MIRROR_DRAIN_SECONDS, self.mirror.redactor.close)
        await self.mirror.finish(MIRROR_DRAIN_SECONDS)
        self.mirror.redactor.close()
        (self.folder / CONTROL_SOCKET).unlink(missing_ok=True)

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        while self.pool.ready < self.pool.size or self._control is None or not self._control.started:
            await asyncio.sleep(0.01)
        on_ready()

    async def _engines_changed(self) -> None:
        with contextlib.suppress(Conflict):  # a worker that has not confirmed this table gets the next one
            await self.state.publish()

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_SECONDS)
            await self.pool.collect()

    async def _tallies(self) -> list[Tally]:
        rollouts = {each.id for each in self.state.desired.rollouts}
        if rollouts:
            await self.pool.collect()
        return self.pool.tallies(rollouts)

    async def _review(self) -> None:
        while True:
            await asyncio.sleep(REVIEW_SECONDS)
            try:
                await self.operations.adapters.review(self.engines.version_failures(), self.engines.ready())
            except (OSError, Conflict, StoreError) as error:  # the store or a worker does not answer: tried again soon
                log.warning("the catalog cannot be brought up to date: %s", error)

    def _configure(self, table: bytes) -> Configure:
        settings = self.settings
        return Configure(
            limits=settings.limits,
            connect_seconds=settings.connect_seconds,
            drain_seconds=settings.drain_seconds,
            certificate=str(settings.tls_certificate) if settings.tls_certificate else None,
            private_key=str(settings.tls_key) if settings.tls_key else None,
            table=table or self.state.table(),
            mirror=settings.mirror,
            allowed_origins=settings.allowed_origins,
            access={url: settings.access(url) for url in self._engine_urls},
            engine_fields=settings.engine_fields,
            host_names=settings.host_names,
        )

    async def _serve_control(self) -> None:
        # FastAPI takes half a second to import: in a thread, so that workers start and engines are asked meanwhile.
        await asyncio.to_thread(importlib.import_module, "gateway.admin.api")
        self._control = self._control_server()
        await self._control.serve(sockets=[self.sockets.control, self.sockets.unix])

    def _control_server(self) -> uvicorn.Server:
        from gateway.admin.api import Probes, build_admin

        path = self.folder / CONTROL_SOCKET
        probes = Probes(
            lambda: node_views.readiness(self), lambda: node_views.metrics(self), lambda: node_views.status(self)
        )
        app = build_admin(
            self.operations, probes, socket_path=str(path), with_keys=self.settings.auth, memory_queue=self.memory_queue
        )
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=3)
        return _NoSignals(config)


class _NoSignals(uvicorn.Server):
    """uvicorn without its own signal handlers: the node stops its parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Do nothing: the node handles signals."""
        yield
