"""The gateway's contact with its store: what others change is served, and all gateways know of each other.

Nothing here is on the path of a request. While the store is away this waits and tries
again, and the gateway serves on from what it has.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from gateway.admin.state import Conflict, LiveState
from gateway.observe.tally import Tally
from gateway.store.errors import StoreError
from gateway.store.feed import Feed
from gateway.store.fingerprints import FingerprintStore
from gateway.store.replicas import Beat, Replica, Replicas, count_serving

log = logging.getLogger("loragate.store")

BEAT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
# How long an operator is kept waiting for other gateways, and how often they are looked at meanwhile.
EVERYWHERE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.03
# Longer than any quiet feed is silent: SQLite is looked at twenty times a second, PostgreSQL once.
AWAY_SECONDS: Final = 5.0


class StoreContact:
    """Follows the store, and tells it how this gateway is.

    Args:
        state: What follows.
        records: Fingerprints, which other gateways add to.
        replicas: This gateway among the others.
        describe: Returns this gateway as it is now; its state is filled in here.
        count: Returns what this gateway's workers have counted of rollouts.
    """

    def __init__(
        self,
        state: LiveState,
        records: FingerprintStore,
        replicas: Replicas,
        describe: Callable[[], Replica],
        count: Callable[[], Awaitable[Sequence[Tally]]],
    ) -> None:
        self._state = state
        self._records = records
        self._replicas = replicas
        self._describe = describe
        self._count = count
        self._versions: asyncio.Queue[int] = asyncio.Queue()
        self._feed = Feed(state.store, self._on_version)
        self._loop: asyncio.AbstractEventLoop
        self._unheard = ""
        self.heard = Beat(alive=(), tallies=())

    @property
    def silent_seconds(self) -> float:
        """For how long the store has not said whether our state is the newest."""
        return self._feed.silent_seconds()

    @property
    def is_away(self) -> bool:
        """Whether the store has been silent for longer than it is when all is well, or takes no writes."""
        return bool(self._feed.trouble or self._unheard) or self.silent_seconds > AWAY_SECONDS

    def standing(self) -> str:
        """Return the contact in a few words, for people."""
        label = self._state.store.database.label
        if not self.is_away:
            return f"in contact with {label}"
        trouble = self._feed.trouble or self._unheard
        why = f" ({trouble})" if trouble else ""
        return f"away for {self.silent_seconds:.0f} s, serving the last state: {label}{why}"

    async def run(self) -> None:
        """Follow and tell until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._feed.start()
        try:
            await asyncio.gather(self._follow(), self._keep_beating())
        finally:
            self._feed.stop()
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._replicas.leave)

    def _on_version(self, version: int) -> None:
        self._loop.call_soon_threadsafe(self._versions.put_nowait, version)

    async def _follow(self) -> None:
        while True:
            version = await self._versions.get()
            while not self._versions.empty():  # only the newest is of interest
                version = self._versions.get_nowait()
            try:
                await self._state.follow(version)
                await self._records.refresh()
            except (StoreError, Conflict) as error:
                log.warning("a change in the store is not served everywhere yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._versions.put_nowait(version)

    async def _keep_beating(self) -> None:
        while True:
            self._state.has_served.clear()
            try:
                await self._beat()
                self._unheard = ""
            except StoreError as error:
                if not self._unheard:
                    log.warning("the store does not hear us: %s", error)
                self._unheard = str(error)
            with contextlib.suppress(TimeoutError):  # at once when we serve another state: somebody may wait for it
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._state.has_served.wait()

    async def _beat(self) -> None:
        tallies = await self._count()
        self._replicas.replica = msgspec.structs.replace(self._describe(), state=self._state.served)
        self.heard = await asyncio.to_thread(self._replicas.beat, tallies)
        await self._state.share_with(len(self.heard.alive))

    async def tallies(self) -> Sequence[Tally]:
        """Return what all gateways have counted of open rollouts, as of the last beat."""
        return self.heard.tallies

    async def everywhere(self, version: int) -> tuple[int, int]:
        """Wait a moment for all gateways to serve the state of `version`; returns how many do, and of how many.

        Raises:
            StoreError: It cannot be said.
        """
        deadline = asyncio.get_running_loop().time() + EVERYWHERE_SECONDS
        while True:
            alive = {each.id for each in self.heard.alive} | {self._replicas.replica.id}
            done = await asyncio.to_thread(count_serving, self._state.store, version, alive)
            if done >= len(alive) or asyncio.get_running_loop().time() > deadline:
                return done, len(alive)
            await asyncio.sleep(LOOK_SECONDS)
