"""A fake vLLM engine: the real protocol over a real socket, with knobs for everything that can go wrong.

For tests, in a thread of its own:

    with FakeEngine(adapters={"support": "/adapters/support"}, cadence_ms=5) as engine:
        httpx.post(engine.url + "/v1/chat/completions", json={...})
        engine.requests[-1].body, engine.running, engine.aborted
        engine.kill(); engine.start()

For the benchmark, as a process: `python -m tests.fakes.engine --port 0`, which prints one JSON line
when it is ready and stops at SIGTERM. Replies are functions of (model, body, seed)
alone; knobs are explained in `knobs.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import fields
from typing import Any, Self, TypeVar

import msgspec
import uvloop

from tests.fakes.core import Core
from tests.fakes.knobs import Knobs
from tests.fakes.plan import GENERATION
from tests.fakes.ticker import Ticker
from tests.fakes.wire import Connection, Received
from tests.support.patience import PATIENCE_SECONDS

T = TypeVar("T")


class FakeEngine:
    """A fake engine in a thread of its own; start it with `with`, or `start()` and `stop()`.

    Args:
        model: Name of the base model.
        adapters: Adapters loaded from the start, name to folder.
        host, port, uds: Where to listen; port 0 picks one that is kept over `kill()` and `start()`.
        keep: Requests remembered in `requests`; the oldest are dropped.
        check_folders: Refuse to load an adapter from a folder that does not exist, as vLLM does.
        more_names: More names of the base, as with `--served-model-name a b`.
        root: What it says that it loaded the base from; the model's name if not given.
        key: What it asks for, as with `--api-key`: on paths below /v1, as vLLM does.
        prefix: Path below which it answers, as behind a proxy; nothing else is there.
        tls: It speaks TLS.
        max_cpu_loras: Adapters in memory; those loaded before are read again when they are asked for. None: all.
        knobs: Any field of `Knobs`, and `tokens_per_second`.
    """

    def __init__(
        self,
        model: str = "base",
        *,
        adapters: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | None = None,
        keep: int = 10_000,
        check_folders: bool = True,
        max_cpu_loras: int | None = None,
        more_names: Sequence[str] = (),
        root: str = "",
        key: str = "",
        prefix: str = "",
        tls: ssl.SSLContext | None = None,
        **knobs: Any,
    ) -> None:
        self.model, self.host, self.port, self.uds = model, host, port, uds
        self._initial = (dict(adapters or {}), Knobs().with_(knobs), keep, check_folders, max_cpu_loras)
        self.more_names, self.root = tuple(more_names), root
        self.key, self.prefix, self.tls = key, prefix, tls
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen, on the address used before if there was one; does nothing when listening."""
        if self._thread is None:
            ready = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(ready,), name="fake-engine", daemon=True)
            self._thread.start()
            ready.wait()
        self._on_loop(self.listen())
        return self

    def kill(self) -> None:
        """Die abruptly: stop listening and reset every connection; `start()` revives it."""
        self._on_loop(self._kill())

    def stop(self) -> None:
        """Kill it and end its thread."""
        if self._thread is None:
            return
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=PATIENCE_SECONDS)
        self._thread = None

    @property
    def url(self) -> str:
        """Base URL; over a unix socket the host is only a name."""
        scheme = "http" if self.tls is None else "https"
        return "http://engine" if self.uds else f"{scheme}://{self.host}:{self.port}{self.prefix}"

    @property
    def requests(self) -> list[Received]:
        """Requests received, oldest first, with their raw bodies and how they ended."""
        return list(self.core.requests)

    @property
    def generations(self) -> list[Received]:
        """Those of `requests` that a client of the gateway could have caused: no probes, no loads."""
        return [one for one in self.requests if one.target.partition("?")[0] in GENERATION]

    @property
    def adapters(self) -> dict[str, str]:
        """Adapters loaded now, name to folder."""
        return dict(self.core.adapters)

    @property
    def loads(self) -> int:
        """Times that an adapter's folder was read, for a load or because it was no longer in memory."""
        return self.core.loads

    @property
    def running(self) -> int:
        """Requests received and not ended."""
        return self.core.running

    @property
    def aborted(self) -> int:
        """Requests whose client went away before the end."""
        return self.core.aborted

    @property
    def completed(self) -> int:
        """Requests answered to the end."""
        return self.core.completed

    @property
    def accepted(self) -> int:
        """Connections ever accepted."""
        return self.core.accepted

    @property
    def connected(self) -> int:
        """Connections open now."""
        return len(self.core.connections)

    def rename(self, model: str, *more_names: str, root: str = "") -> None:
        """Serve the base under other names, or another base, from now on; its adapters are gone."""

        def become() -> None:
            self.core.model, self.core.names, self.core.root = model, (model, *more_names), root
            self.core.adapters.clear()
            self.core.set_knobs(self.core.knobs)

        self.model = model
        self._on_loop(self._soon(become))

    def set(self, **knobs: Any) -> None:
        """Change knobs for all requests from now on."""
        self._on_loop(self._soon(lambda: self.core.set_knobs(self.core.knobs.with_(knobs))))

    def fail_next(self, count: int, status: int = 503) -> None:
        """Answer the next `count` POST requests with `status`."""
        self._on_loop(self._soon(lambda: self.core.failures.extend([status] * count)))

    def fail_next_loads(self, count: int) -> None:
        """Answer the next `count` adapter loads with 500, as vLLM does for a rank over its limit."""
        self._on_loop(self._soon(lambda: self.core.load_failures.extend([500] * count)))

    def release(self) -> None:
        """Answer what is held, and load the adapters whose loads are."""
        self._on_loop(self._soon(self.core.release))

    @property
    def held(self) -> int:
        """What is held now: 1 for a generation, 2 for a load (the load, and its answer)."""
        return len(self.core.held)

    def drop_idle(self) -> None:
        """Close connections that carry no request, as an engine does when its keep-alive expires."""
        self._on_loop(self._soon(lambda: self._drop_idle(0.0)))

    def wait_for(self, condition: Callable[[FakeEngine], bool], timeout: float = PATIENCE_SECONDS) -> bool:
        """Return whether `condition(self)` became true within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition(self):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _run(self, ready: threading.Event) -> None:
        self._loop = uvloop.new_event_loop()
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        self._loop.close()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=PATIENCE_SECONDS)

    @staticmethod
    async def _soon(work: Callable[[], None]) -> None:
        work()

    def _drop_idle(self, seconds: float) -> None:
        limit = self.core.loop.time() - seconds
        for connection in [one for one in self.core.connections if one.current is None and one.used_at <= limit]:
            connection.transport.close()

    async def listen(self) -> None:
        """Listen in the running loop; the first time also make the engine's state."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        if not hasattr(self, "core"):
            adapters, knobs, keep, check, memory = self._initial
            self.core = Core(
                self.model,
                adapters,
                knobs,
                keep=keep,
                check_folders=check,
                max_cpu_loras=memory,
                more_names=self.more_names,
                root=self.root,
                key=self.key,
                prefix=self.prefix,
            )
        self.core.loop, self.core.ticker = loop, Ticker(loop)
        if self.uds is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.uds)
            self._server = await loop.create_unix_server(lambda: Connection(self.core), self.uds, backlog=2048)
        else:
            self._server = await loop.create_server(
                lambda: Connection(self.core), self.host, self.port, backlog=2048, ssl=self.tls
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _kill(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.core.connections):
            connection.reset()
        await asyncio.sleep(0)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options; every knob is one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="base", help="name of the base model (default: %(default)s)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help="loaded from the start")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--uds", help="listen on this unix socket instead")
    parser.add_argument("--keep", type=int, default=0, help="requests to remember (default: %(default)s)")
    for one in fields(Knobs):
        kind = one.default.__class__ if isinstance(one.default, float | str | int) else int
        if kind is bool:
            parser.add_argument(f"--{one.name.replace('_', '-')}", action="store_true", default=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS)
    return parser.parse_args(arguments)


async def serve(options: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT."""
    adapters = dict(pair.split("=", 1) for pair in options.pop("adapter"))
    engine = FakeEngine(adapters=adapters, check_folders=False, **options)
    await engine.listen()
    ready = {"url": engine.url, "port": engine.port, "uds": engine.uds, "pid": os.getpid()}
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve(vars(parse(sys.argv[1:]))))
