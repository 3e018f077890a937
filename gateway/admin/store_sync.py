"""Keep the gateway in step with its store: serve changes that other gateways make, and exchange heartbeats with them.

Nothing here is on the path of a request. While the store is unreachable, this waits and tries
again, and the gateway serves on from the last state it has read.
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
# How long a command waits until other gateways serve a change, and how often the store is asked meanwhile.
EVERYWHERE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.03
# The store counts as unreachable after this silence. A healthy feed is silent for a second at most: it polls SQLite
# twenty times a second and PostgreSQL once.
AWAY_SECONDS: Final = 5.0


class StoreContact:
    """Applies changes that the store reports, and stores this gateway's heartbeat.

    Args:
        state: The live state, which takes over stored changes.
        records: Fingerprints, to which other gateways add.
        replicas: The stored heartbeats of all gateways.
        describe: Returns the present description of this gateway; the version of its state is filled in here.
        count: Returns the counts of rollouts from this gateway's workers.
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
        self._beat_problem = ""
        self.last_beat = Beat(alive=(), tallies=())

    @property
    def silent_seconds(self) -> float:
        """Seconds since the store last confirmed the newest version of the state."""
        return self._feed.silent_seconds()

    @property
    def is_away(self) -> bool:
        """Whether the store is unreachable: it reports an error, is silent for too long, or refuses heartbeats."""
        return bool(self._feed.trouble or self._beat_problem) or self.silent_seconds > AWAY_SECONDS

    def standing(self) -> str:
        """Return the state of the contact with the store as a line of text, for `loragate status`."""
        label = self._state.store.database.label
        if not self.is_away:
            return f"in contact with {label}"
        trouble = self._feed.trouble or self._beat_problem
        why = f" ({trouble})" if trouble else ""
        return f"away for {self.silent_seconds:.0f} s, serving the last state: {label}{why}"

    async def run(self) -> None:
        """Follow the store and send heartbeats until cancelled."""
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
            while not self._versions.empty():  # only the newest version matters
                version = self._versions.get_nowait()
            try:
                await self._state.follow(version)
                await self._records.refresh()
            except (StoreError, Conflict) as error:
                log.warning("version %d of the stored state is not served by all workers yet: %s", version, error)
                await asyncio.sleep(RETRY_SECONDS)
                self._versions.put_nowait(version)

    async def _keep_beating(self) -> None:
        while True:
            self._state.has_served.clear()
            try:
                await self._beat()
                self._beat_problem = ""
            except StoreError as error:
                if not self._beat_problem:
                    log.warning("the heartbeat of this gateway could not be stored: %s", error)
                self._beat_problem = str(error)
            with contextlib.suppress(TimeoutError):  # sooner if another state is served: a command may wait for that
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._state.has_served.wait()

    async def _beat(self) -> None:
        tallies = await self._count()
        self._replicas.replica = msgspec.structs.replace(self._describe(), state=self._state.served)
        self.last_beat = await asyncio.to_thread(self._replicas.beat, tallies)
        await self._state.set_replicas(len(self.last_beat.alive))

    async def tallies(self) -> Sequence[Tally]:
        """Return the counts of open rollouts from all gateways, as of the last heartbeat."""
        return self.last_beat.tallies

    async def everywhere(self, version: int) -> tuple[int, int]:
        """Wait a moment for all gateways to serve `version` of the state; return how many do, and how many there are.

        Raises:
            StoreError: The store could not be read.
        """
        deadline = asyncio.get_running_loop().time() + EVERYWHERE_SECONDS
        while True:
            alive = {each.id for each in self.last_beat.alive} | {self._replicas.replica.id}
            serving = await asyncio.to_thread(count_serving, self._state.store, version, alive)
            if serving >= len(alive) or asyncio.get_running_loop().time() > deadline:
                return serving, len(alive)
            await asyncio.sleep(LOOK_SECONDS)
