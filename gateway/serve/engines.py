"""One engine, watched: whether it is up, which base it serves, and that it holds what it should.

One task asks for its health every second; one keeps its adapters in order (`adapters/loader.py`),
so an engine that restarted empty has them again without anybody's word; one checks, once a probe
period, that each is still what it was. Whoever needs to know is told of every change.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from adapters.loader import Loader
from adapters.ports import HostUnavailable
from gateway.decide.route import Base, EngineView
from gateway.serve.adapter_host import VllmHost

log = logging.getLogger("loragate.engines")

# Seconds between two questions; a request that meets a dead engine sooner learns it by itself.
POLL_SECONDS: Final = 1.0
# Unanswered questions in a row before an engine counts as down: a busy one may miss one.
MISSES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What is known of one engine, apart from its adapters."""

    url: str
    is_up: bool = False
    base: Base | None = None


class EngineWatch:
    """One engine, watched and kept stocked.

    Args:
        url, host: Where it is, and how it is asked.
        loader: Keeps its adapters; reset when the engine is lost.
        probe_seconds: How often versions in service are checked; 0 for never.
        on_change: Called after its status changed.
    """

    def __init__(
        self, url: str, host: VllmHost, loader: Loader, probe_seconds: float, on_change: Callable[[], Awaitable[None]]
    ) -> None:
        self.status = EngineStatus(url=url)
        self.loader = loader
        self._host = host
        self._probe_seconds = probe_seconds
        self._on_change = on_change
        self._misses = 0

    def view(self) -> EngineView:
        """Return what workers need to know."""
        status = self.status
        return EngineView(
            url=status.url, is_up=status.is_up, versions=self.loader.ready if status.is_up else frozenset()
        )

    def root(self) -> str:
        """Return the path or name that the engine loaded its base from; empty until it has told."""
        return self._host.root

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._every(POLL_SECONDS, self._poll))
                tasks.create_task(self._every(POLL_SECONDS, self._tend))
                if self._probe_seconds:
                    tasks.create_task(self._every(self._probe_seconds, self._inspect))
        finally:
            self._host.close()

    async def lost(self) -> None:
        """The engine is known to be gone."""
        await self._become(EngineStatus(url=self.status.url, base=self.status.base))

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except HostUnavailable as error:
                log.info("engine %s: %s", self.status.url, error)
            except Exception:  # one engine's odd answer must not end the watch, nor the gateway
                log.exception("engine %s answers in a way that is not understood", self.status.url)
            await asyncio.sleep(seconds)

    async def _poll(self) -> None:
        try:
            if not await self._host.is_healthy():
                raise HostUnavailable("the engine is not healthy")
            base = await self._host.base()
        except HostUnavailable:
            self._misses += 1
            if self._misses >= MISSES or not self.status.is_up:
                await self.lost()
            return
        self._misses = 0
        await self._become(replace(self.status, is_up=True, base=base))

    async def _tend(self) -> None:
        if self.status.is_up:
            await self.loader.tend()

    async def _inspect(self) -> None:
        if self.status.is_up:
            await self.loader.inspect()

    async def _become(self, status: EngineStatus) -> None:
        if status == self.status:
            return
        if status.is_up != self.status.is_up:
            log.info("engine %s is %s", status.url, "up" if status.is_up else "down")
        if not status.is_up:
            self.loader.reset()  # another engine may come back in its place
        self.status = status
        await self._on_change()
