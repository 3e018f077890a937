"""The node's own evaluator: a child process that runs while a route mirrors, and is restarted when it dies.

It is a process of its own with a low CPU priority, so that it takes no time from requests and its faults cannot end the
node.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.decide.route import Base
from gateway.records.state import Desired
from gateway.settings import Settings, child_environment
from loragate import child_command

log = logging.getLogger("loragate.evaluate")

LOOK_SECONDS: Final = 0.5
# The process runs this much longer after the last route stopped mirroring, to evaluate the samples that still wait.
LINGER_SECONDS: Final = 120.0
_MAX_PAUSE: Final = 60.0
# A run at least this long resets the back-off between restarts.
_WELL_SECONDS: Final = 300.0
_KILL_SECONDS: Final = 5.0


class EvaluatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a node's evaluator: settings as JSON, engines, the node's control socket, and its base
    model.
    """

    settings: str
    engines: tuple[str, ...]
    node_socket: str
    base: Base | None = None


def encode_config(settings: Settings, engines: Sequence[str], node_socket: Path, base: Base | None) -> bytes:
    """Return the configuration for the node's evaluator as one line of JSON."""
    config = EvaluatorConfig(
        settings=settings.model_dump_json(), engines=tuple(engines), node_socket=str(node_socket), base=base
    )
    return msgspec.json.encode(config)


def is_wanted(desired: Desired) -> bool:
    """Whether any route has requests copied for evaluation."""
    return any(
        route.shadow is not None or (route.mirror is not None and route.mirror.share > 0)
        for route in desired.routes
        if route.mirror is None or route.mirror.capture != "off"
    )


class EvaluatorChild:
    """One evaluator process, restarted when it dies.

    Args:
        config: Returns the line of JSON that the process reads (`encode_config`).
        is_wanted: Whether any route has requests copied now.
        drain_seconds: How long the process may take to end.
    """

    def __init__(self, config: Callable[[], bytes], is_wanted: Callable[[], bool], drain_seconds: float) -> None:
        self.restarts = 0
        self._config = config
        self._is_wanted = is_wanted
        self._drain_seconds = drain_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        """The id of the running process; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> None:
        """Keep the process running while it is wanted, until `stop` is called."""
        loop = asyncio.get_running_loop()
        pause = 1.0
        while not self._is_stopping:
            if not self._is_wanted():
                await asyncio.sleep(LOOK_SECONDS)
                continue
            began = loop.time()
            try:
                ended_by_itself = await self._run_once()
            except OSError as error:  # out of processes or memory
                log.warning("the evaluator cannot be started: %s", error.strerror)
                ended_by_itself = True
            if not ended_by_itself or self._is_stopping:
                continue
            if loop.time() - began > _WELL_SECONDS:
                pause = 1.0
            self.restarts += 1
            log.warning("the evaluator ended; starting it again in %.0f s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    async def stop(self) -> None:
        """End the process: by SIGTERM, and by SIGKILL if it takes too long."""
        self._is_stopping = True
        await self._end()

    async def _run_once(self) -> bool:
        """Run the process; True if it ended by itself, False if it was ended because it was no longer wanted."""
        process = self._process = await asyncio.create_subprocess_exec(
            *child_command("gateway.evaluate.process"),
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None  # it is a pipe
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._config() + b"\n")
            await process.stdin.drain()
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(process.wait())
        wanted_at = loop.time()
        while not ended.done():
            await asyncio.wait([ended], timeout=LOOK_SECONDS)
            if self._is_wanted():
                wanted_at = loop.time()
            if loop.time() - wanted_at > LINGER_SECONDS:
                await self._end()
                return False
        return True

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._drain_seconds + _KILL_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("the evaluator did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
