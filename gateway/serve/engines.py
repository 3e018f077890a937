"""The engines we know: which are up, and which versions each has ready.

One task an engine asks it every second and brings it what it lacks, so an engine that
restarted empty has its adapters again without anybody's word. A change is told to one
listener, who makes a new route table of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from adapters.catalog import Entry
from adapters.loader import HostUnavailable, bring_up, reconcile
from gateway.decide.route import Base, EngineView
from gateway.serve.adapter_host import VllmHost

log = logging.getLogger("loragate.engines")

# Seconds between two questions; a request that meets a dead engine sooner learns it by itself.
POLL_SECONDS: Final = 1.0
# Unanswered questions in a row before an engine counts as down: a busy one may miss one.
MISSES: Final = 2
# A version that the engine refused is tried again this much later: each try makes it read the files.
REFUSED_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What is known of one engine. `failed` maps a version to why it could not be loaded."""

    url: str
    is_up: bool = False
    base: Base | None = None
    versions: frozenset[str] = frozenset()
    failed: tuple[tuple[str, str], ...] = ()

    def view(self) -> EngineView:
        """Return what workers need to know."""
        return EngineView(url=self.url, is_up=self.is_up, versions=self.versions)


class EngineWatch:
    """One engine, watched and kept stocked.

    Args:
        url: Where it is.
        wanted: Returns the versions that it should have.
        on_change: Called after its status changed.
    """

    def __init__(
        self, url: str, wanted: Callable[[], Collection[Entry]], on_change: Callable[[], Awaitable[None]]
    ) -> None:
        self.status = EngineStatus(url=url)
        self._host = VllmHost(url)
        self._wanted = wanted
        self._on_change = on_change
        self._misses = 0
        self._refused: dict[str, tuple[float, str]] = {}
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                async with self._turn:
                    status = await self._ask()
                await self._become(status)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await self._host.close()

    async def lost(self) -> None:
        """The engine is known to be gone."""
        await self._become(EngineStatus(url=self.status.url, base=self.status.base))

    async def load(self, entry: Entry) -> None:
        """Load one version now.

        Raises:
            LoadRefused, HostUnavailable: Why it could not.
        """
        async with self._turn:
            await bring_up(self._host, entry)
            self._refused.pop(entry.ref.version, None)
            self.status = replace(self.status, versions=self.status.versions | {entry.ref.version})

    async def unload(self, version: str) -> None:
        """Forget one version; an engine that is away has forgotten it already."""
        async with self._turn:
            self.status = replace(self.status, versions=self.status.versions - {version})
            try:
                await self._host.unload(version)
            except HostUnavailable:
                log.info("engine %s is away; %s goes with it", self.status.url, version)

    async def _ask(self) -> EngineStatus:
        """Return the engine's status after bringing it what it lacks."""
        try:
            if not await self._host.is_healthy():
                raise HostUnavailable("the engine is not healthy")
            base = await self._host.base()
            now = asyncio.get_running_loop().time()
            self._refused = {version: told for version, told in self._refused.items() if told[0] > now}
            wanted = [entry for entry in self._wanted() if entry.ref.version not in self._refused]
            versions, failed = await reconcile(self._host, wanted)
        except HostUnavailable:
            self._misses += 1
            if self.status.is_up and self._misses < MISSES:
                return self.status
            self._refused = {}  # another engine may come back in its place
            return EngineStatus(url=self.status.url, base=self.status.base)
        self._misses = 0
        for version, reason in failed.items():
            log.warning("engine %s refuses %s: %s", self.status.url, version, reason)
            self._refused[version] = (now + REFUSED_SECONDS, reason)
        still = {version: reason for version, (_, reason) in self._refused.items()}
        return EngineStatus(
            url=self.status.url, is_up=True, base=base, versions=versions, failed=tuple(sorted(still.items()))
        )

    async def _become(self, status: EngineStatus) -> None:
        if status == self.status:
            return
        if status.is_up != self.status.is_up:
            log.info("engine %s is %s", status.url, "up" if status.is_up else "down")
        self.status = status
        await self._on_change()
