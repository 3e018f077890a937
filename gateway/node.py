"""One machine's gateway: workers, control plane, and the engines they use, from start to stop."""

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn

from adapters.fingerprint import BASE
from gateway.control.adapters import AdapterOperations
from gateway.control.intake import Intake
from gateway.control.operations import Operations
from gateway.control.state import Conflict, LiveState
from gateway.observe.loads import LoadCounts
from gateway.observe.metrics import Reading, exposition
from gateway.parts import checker_maker, intake_rules, stocking
from gateway.serve.fleet import Fleet
from gateway.serve.vllm_process import LONGEST_SOCKET_PATH, EngineProcess
from gateway.settings import Settings
from gateway.store.desired import Desired, read_copy
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.feed import Feed
from gateway.store.fingerprints import FingerprintStore
from gateway.store.moving import take_in
from gateway.store.snapshot import read_base
from gateway.store.sql import Store, open_store
from gateway.workers.channel import Configure
from gateway.workers.pool import WorkerPool

log = logging.getLogger("loragate")

CONTROL_SOCKET: Final = "control.sock"
BACKLOG: Final = 4096
# So often counts are fetched even if nobody scrapes: a worker that dies loses at most this much.
COLLECT_SECONDS: Final = 5.0
# How soon the catalog tells what a check has found.
REVIEW_SECONDS: Final = 1.0
DAY_SECONDS: Final = 86_400.0


class CannotListen(Exception):
    """A port is taken, or may not be used."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        CannotListen: The message names the address and the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _first_state(store: Store, records: FingerprintStore, folder: Path) -> Desired:
    """Return the state to begin with: the store's, or while that is away, the copy on disk."""
    try:
        take_in(store, folder)
        records.load()
        return store.read()
    except StoreUnavailable as error:
        copy = read_copy(folder)
        if copy is None:
            raise
        log.warning("%s; this gateway serves its last copy, version %d", error, copy.version)
        return copy


class Node:
    """The gateway on one machine.

    Args:
        settings: What was set.
        engine_urls: The engines to serve; set `engine` before `run` if this machine runs one of them itself.
    """

    def __init__(self, settings: Settings, engine_urls: Sequence[str]) -> None:
        self.settings = settings
        self.folder = settings.state_folder()
        _make_folder(self.folder)
        self.unix_socket = _bind_unix(self.folder / CONTROL_SOCKET)
        self.app_socket = bind(settings.host, settings.port)
        self.control_socket = bind(settings.control_host, settings.control_port)
        self.loads = LoadCounts()
        self.store = open_store(settings.store or self.folder, now=time.time)  # noqa: TID251 (the composition root gives the clock)
        records = FingerprintStore(self.store)
        desired = _first_state(self.store, records, self.folder)
        self.engines = Fleet(
            engine_urls, read_base(self.folder), stocking(settings), now=time.monotonic,
            make_checker=checker_maker(settings, records, self.loads), observer=self.loads.of_engine,
        )  # fmt: skip
        self.pool = WorkerPool(self.app_socket, settings.workers, self._configure)
        self.pool.depot = self.engines
        self.state = LiveState(
            self.folder, self.store, desired, self.pool, self.engines, with_keys=settings.auth, now=time.time,  # noqa: TID251 (the composition root gives the clock)
            rollback_seconds=settings.adapters.rollback_days * DAY_SECONDS,
        )  # fmt: skip
        intake = Intake(self.folder, intake_rules(settings), self.engines.base_folder)
        self.operations = Operations(
            self.state, AdapterOperations(self.state, intake, records, most_rank=settings.engine.max_lora_rank)
        )
        self.operations.adapters.sweep()
        self.engines.watch(self.state, self._engines_changed, self.state.publish_stock)
        self.engine: EngineProcess | None = None
        self._control: uvicorn.Server | None = None
        self._stop = asyncio.Event()

    @property
    def app_url(self) -> str:
        """Where applications send requests."""
        return f"{'https' if self.settings.tls_key else 'http'}://{_address(self.app_socket)}"

    @property
    def control_url(self) -> str:
        """Where operators and Prometheus go."""
        return f"http://{_address(self.control_socket)}"

    def request_stop(self) -> None:
        """Begin to stop: drain, then end."""
        self._stop.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until stopped by a signal or `request_stop`.

        Raises:
            EngineNotStarted: The machine's own engine did not come up.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        await self.state.publish()
        workers = loop.create_task(self.pool.run())
        chores: list[asyncio.Task[Any]] = [
            loop.create_task(self._serve_control()),
            loop.create_task(self._collect()),
            loop.create_task(self._review()),
            loop.create_task(self._follow_store()),
            *(loop.create_task(watch.run()) for watch in self.engines.watches),
        ]
        if self.engine is not None:
            chores.append(loop.create_task(self.engine.run()))
        ready = loop.create_task(self._announce(on_ready))
        stopped = loop.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*chores, workers, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # a part that ended by itself tells why
        finally:
            ready.cancel()
            await self._wind_down(workers, chores)

    async def _wind_down(self, workers: asyncio.Task[None], chores: list[asyncio.Task[Any]]) -> None:
        self.app_socket.close()  # the workers' copies close as they drain: new connections are refused at once
        await self.pool.stop(self.settings.drain_seconds)
        await asyncio.wait([workers], timeout=5)
        if self.engine is not None:
            await self.engine.stop()
        if self._control is not None:
            self._control.should_exit = True
        else:
            chores[0].cancel()  # stopped while it was still importing
        await asyncio.wait(chores[:1], timeout=5)
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        (self.folder / CONTROL_SOCKET).unlink(missing_ok=True)

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        while self.pool.ready < self.pool.size or self._control is None or not self._control.started:
            await asyncio.sleep(0.01)
        on_ready()

    async def _engines_changed(self) -> None:
        with contextlib.suppress(Conflict):  # a worker that lags gets the next table
            await self.state.publish()

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_SECONDS)
            await self.pool.collect()

    async def _follow_store(self) -> None:
        versions: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(version: int) -> None:
            loop.call_soon_threadsafe(versions.put_nowait, version)

        feed = Feed(self.store, tell)
        feed.start()
        try:
            while True:
                version = await versions.get()
                try:
                    await self.state.follow(version)
                except (StoreError, Conflict) as error:
                    log.warning("a change in the store is not served yet: %s", error)
                    await asyncio.sleep(REVIEW_SECONDS)
                    versions.put_nowait(version)
        finally:
            feed.stop()

    async def _review(self) -> None:
        while True:
            await asyncio.sleep(REVIEW_SECONDS)
            try:
                await self.operations.adapters.review(self.engines.condemned(), self.engines.ready())
            except (OSError, Conflict, StoreError) as error:  # the store is away, or a worker lags: soon again
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
        )

    async def _serve_control(self) -> None:
        # FastAPI takes half a second to import: in a thread, so that workers start and engines
        # are asked meanwhile.
        await asyncio.to_thread(importlib.import_module, "gateway.control.api")
        self._control = self._control_server()
        await self._control.serve(sockets=[self.control_socket, self.unix_socket])

    def _control_server(self) -> uvicorn.Server:
        from gateway.control.api import Probes, build_control

        path = self.folder / CONTROL_SOCKET
        probes = Probes(self._readiness, self._metrics, self._status)
        app = build_control(self.operations, probes, socket_path=str(path), with_keys=self.settings.auth)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=3)
        return _NoSignals(config)

    def _readiness(self) -> tuple[bool, dict[str, str]]:
        up = len(self.engines.up())
        parts = {
            "workers": f"{self.pool.ready} of {self.pool.size} accept connections",
            "engines": f"{up} of {len(self.engines.watches)} up",
            "route_table": f"version {self.state.table_version}",
        }
        return self.pool.ready > 0 and up > 0, parts

    async def _metrics(self) -> bytes:
        cells = await self.pool.collect()
        watches = self.engines.watches
        aliases = {route.control: route.alias for route in self.state.desired.routes}
        versions = [(aliases.get(entry.ref.version, entry.ref.name), entry.ref.version) for entry in self.state.catalog]
        reading = Reading(
            cells=tuple(cells),
            engines={watch.status.url: watch.status.is_up for watch in watches},
            adapters=tuple(
                (alias, version, watch.status.url, version in watch.loader.ready)
                for alias, version in versions for watch in watches
            ),
            slots={watch.status.url: (watch.loader.slots, len(watch.loader.ready)) for watch in watches},
            loads=self.loads,
            workers=self.pool.size, ready_workers=self.pool.ready, worker_restarts=self.pool.restarts,
            table_version=self.state.table_version,
        )  # fmt: skip
        return exposition(reading)

    def _status(self) -> dict[str, Any]:
        ready, _ = self._readiness()
        base = self.engines.base()
        return {
            "ready": ready, "app_url": self.app_url, "control_url": self.control_url,
            "base": base.name if base else None, "auth": self.settings.auth,
            "workers": {"running": self.pool.ready, "wanted": self.pool.size, "restarts": self.pool.restarts},
            "route_table_version": self.state.table_version,
            "engines": [
                {"url": watch.status.url, "up": watch.status.is_up, "versions": sorted(watch.loader.ready),
                 "slots": watch.loader.slots, "base": watch.loader.checker.last(BASE),
                 "failed": {version: failure.reason for version, failure in sorted(watch.loader.failed.items())}}
                for watch in self.engines.watches
            ],
        }  # fmt: skip


class _NoSignals(uvicorn.Server):
    """uvicorn without its own signal handlers: the node stops its parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals to the node."""
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotListen(f"cannot use `{folder}` as the state folder: {error.strerror}") from None


def _bind_unix(path: Path) -> socket.socket:
    if len(str(path).encode()) > LONGEST_SOCKET_PATH:
        raise CannotListen(
            f"`{path}` is longer than the {LONGEST_SOCKET_PATH} bytes of a socket's path; use a shorter state folder"
        )
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise CannotListen(f"another gateway runs on the state folder `{path.parent}`; stop it, or use --state")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # never open to others, not even for a moment
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on `{path}`: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
