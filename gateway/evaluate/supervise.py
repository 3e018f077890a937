"""The node's own evaluator: a process that runs while a route mirrors, and is started again when it dies.

A process of its own, and behind all others: what it does never takes time from requests, and what it does
wrong never ends the node.
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
# What still waits when the last route stops mirroring is compared before the process ends.
LINGER_SECONDS: Final = 120.0
_MAX_PAUSE: Final = 60.0
# One that ran for so long was well; its next failure starts the pauses anew.
_WELL_SECONDS: Final = 300.0
_KILL_SECONDS: Final = 5.0


class EvaluatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells its evaluator: settings as JSON, engines, its own control socket, and the base it serves."""

    settings: str
    engines: tuple[str, ...]
    node_socket: str
    base: Base | None = None


def order_of(settings: Settings, engines: Sequence[str], node_socket: Path, base: Base | None) -> bytes:
    """Return what the node's evaluator is told: one line of JSON."""
    order = EvaluatorConfig(
        settings=settings.model_dump_json(), engines=tuple(engines), node_socket=str(node_socket), base=base
    )
    return msgspec.json.encode(order)


def is_wanted(desired: Desired) -> bool:
    """Whether a route has requests copied."""
    return any(
        route.shadow is not None or (route.mirror is not None and route.mirror.share > 0)
        for route in desired.routes
        if route.mirror is None or route.mirror.capture != "off"
    )


class EvaluatorChild:
    """One evaluator process through its restarts.

    Args:
        order: Returns what it is told, one line of JSON (`running.EvaluatorConfig`).
        is_wanted: Whether a route mirrors just now.
        drain_seconds: How long it may take to end.
    """

    def __init__(self, order: Callable[[], bytes], is_wanted: Callable[[], bool], drain_seconds: float) -> None:
        self.restarts = 0
        self._order = order
        self._is_wanted = is_wanted
        self._drain_seconds = drain_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        """The process that runs; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> None:
        """Keep it running while it is wanted, until `stop`."""
        loop = asyncio.get_running_loop()
        pause = 1.0
        while not self._is_stopping:
            if not self._is_wanted():
                await asyncio.sleep(LOOK_SECONDS)
                continue
            began = loop.time()
            try:
                ended_by_itself = await self._run_once()
            except OSError as error:  # no process, or no memory, to be had
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
        """End it: first asking, then for good."""
        self._is_stopping = True
        await self._end()

    async def _run_once(self) -> bool:
        """Run it until it ends, which returns True, or until it was not wanted for a while, then False."""
        process = self._process = await asyncio.create_subprocess_exec(
            *child_command("gateway.evaluate.process"),
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None  # it is a pipe
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._order() + b"\n")
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
