"""Load, check and evict one engine's adapters, and compare with what the engine lists.

A version is `ready` once the engine has loaded it and its fingerprint has passed. This module knows engines and checks
only by the interfaces in `adapters/ports.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from adapters.catalog import Entry
from adapters.ports import AdapterHost, Checker, HostUnavailable, LoadRefused, NotOneEngine, Observer, Unfit
from adapters.reference import InvalidReference, split_version
from adapters.residency import Keep, VersionStanding, to_bring, to_evict

log = logging.getLogger("loragate.loader")

# Seconds between tries of a load: long enough for an engine that is busy with a batch.
RETRY_PAUSES: Final = (0.2, 1.0, 3.0)
# Loads at once on one engine: it reads some adapters while it answers the probes for others.
LOADS_AT_ONCE: Final = 4
# By default, a version that the engine refused, or that failed its check, is tried again after this long.
REFUSED_SECONDS: Final = 30.0
# A load gives up waiting for a slot after this: every slot is taken by versions that are being loaded.
SLOT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a version is not served on this engine, and from when on it is tried again (monotonic seconds)."""

    reason: str
    again_at: float


async def bring_up(host: AdapterHost, entry: Entry) -> None:
    """Load a version; try again while the engine is busy or away.

    Raises:
        LoadRefused: The engine refuses it.
        HostUnavailable: The engine stayed away through every try.
    """
    for pause in RETRY_PAUSES:
        try:
            await host.load(entry.ref.version, entry.folder)
            return
        except NotOneEngine:
            raise
        except HostUnavailable:
            await asyncio.sleep(pause)
    await host.load(entry.ref.version, entry.folder)


class Loader:
    """The adapters of one engine.

    Args:
        host: The engine.
        slots: How many adapters it may hold (vLLM's --max-cpu-loras).
        find: Returns the entry of a registered version, or None.
        standing: Returns how important a version is.
        wanted: Returns every version that this engine may hold.
        on_change: Called whenever `ready` has changed.
        checker, observer: As in `adapters/ports.py`.
        now: Monotonic seconds.
        retry_seconds: The pause before a version that was refused, or failed its check, is tried again.
        stranger_seconds: How long an unregistered version may stay, since another gateway may be registering it.
    """

    def __init__(
        self,
        host: AdapterHost,
        slots: int,
        *,
        find: Callable[[str], Entry | None],
        standing: Callable[[str], VersionStanding],
        wanted: Callable[[], Collection[str]],
        on_change: Callable[[], None],
        checker: Checker,
        observer: Observer,
        now: Callable[[], float],
        retry_seconds: float = REFUSED_SECONDS,
        stranger_seconds: float = 0.0,
    ) -> None:
        self._host = host
        self.slots = slots
        self._find = find
        self._standing = standing
        self._wanted = wanted
        self._on_change = on_change
        self.checker = checker
        self._observer = observer
        self._now = now
        self._retry_seconds = retry_seconds
        self._stranger_seconds = stranger_seconds
        self._strangers: dict[str, float] = {}  # unregistered version → since when the engine lists it
        self.ready: frozenset[str] = frozenset()
        self.failed: dict[str, LoadFailure] = {}
        self._held: set[str] = set()  # ready, or being loaded
        self._foreign = 0  # adapters that others loaded, which take slots, too
        self._turns: dict[str, asyncio.Lock] = {}
        self._at_once = asyncio.Semaphore(LOADS_AT_ONCE)
        self._freed = asyncio.Condition()
        self._leaving: set[str] = set()  # being unloaded
        self._touched: dict[str, float] = {}  # when a version was last loaded or unloaded

    def reset(self) -> None:
        """Forget all adapters, because the engine is gone."""
        self.failed.clear()
        self.checker.reset()
        self._touched.clear()
        self._held.clear()
        self._become_ready(frozenset())

    async def supply(self, entry: Entry, *, again: bool = False) -> None:
        """Have a version ready; evict another one if there is no free slot.

        Args:
            entry: The version.
            again: Try even if it was refused a moment ago, because an operator waits for the answer.

        Raises:
            LoadRefused: The engine refuses it, it fails its check, or it was removed meanwhile.
            HostUnavailable: The engine is away.
        """
        version = entry.ref.version
        async with self._turn(version):
            if self._find(version) is None:  # if it were loaded now, it would never be unloaded
                raise LoadRefused("it is no longer registered")
            if version in self.ready:
                return
            failure = self.failed.get(version)
            if failure is not None and not again and self._now() < failure.again_at:
                raise LoadRefused(failure.reason)
            async with self._at_once:
                await self._bring(entry)

    async def remove(self, version: str) -> None:
        """Unload a version. An engine that is away has lost it already."""
        async with self._turn(version):
            self.failed.pop(version, None)
            await self._take_off(version)
            self._turns.pop(version, None)

    @asynccontextmanager
    async def _turn(self, version: str) -> AsyncIterator[None]:
        """Hold the version's lock, so that loads and unloads of one version do not overlap."""
        while True:
            turn = self._turns.setdefault(version, asyncio.Lock())
            async with turn:
                if self._turns.get(version) is turn:  # else the lock was dropped while we waited
                    yield
                    return

    async def has(self, version: str) -> bool:
        """Ask the engine whether it still has a version; if it lost it, the version is no longer ready.

        Raises:
            HostUnavailable: The engine cannot be asked.
        """
        asked_at = self._now()
        if version not in self.ready:
            return False
        if version in await self._host.adapter_names():
            return True
        if self._touched.get(version, -1.0) < asked_at and not self._is_being_worked_on(version):
            log.warning("the engine has lost %s; it is loaded again", version)
            self._drop(version)
        return False

    async def tend(self) -> None:
        """Compare with what the engine lists, then load the versions that it should hold, one after another.

        Raises:
            HostUnavailable: The engine went away.
        """
        await self._compare()
        while (step := self._next_step()) is not None:
            version, instead_of = step
            entry = self._find(version)
            if entry is None:
                return
            if instead_of is not None:
                await self._evict(instead_of)
            with suppress(LoadRefused):  # it was logged and is in `failed`, to be tried again later
                await self.supply(entry)

    async def inspect(self) -> None:
        """Check every version that is ready, and take those that fail out of service.

        Raises:
            HostUnavailable: The engine cannot be asked.
        """
        entries = [entry for version in sorted(self.ready) if (entry := self._find(version)) is not None]
        for version, reason in (await self.checker.inspect(entries)).items():
            if version in self.ready:
                log.error("%s is out of service: %s", version, reason)
                self.failed[version] = LoadFailure(reason, self._now() + self._retry_seconds)
                await self._take_off(version)

    # Changes on the engine

    async def _bring(self, entry: Entry) -> None:
        version = entry.ref.version
        began = self._now()
        outcome = "unavailable"
        try:
            await self._make_room(version)
            await bring_up(self._host, entry)
            await self.checker.check(entry, self.ready - {version})
            outcome = "ok"
        except LoadRefused as refusal:
            outcome = "unfit" if isinstance(refusal, Unfit) else "refused"
            self.failed[version] = LoadFailure(str(refusal), self._now() + self._retry_seconds)
            log.warning("%s is not served: %s", version, refusal)
            raise
        finally:
            self._touched[version] = self._now()
            self._observer.count_load(self._now() - began, outcome)
            if outcome != "ok":
                await self._unload(version)
                await self._free(version)
        if version not in self._held:
            raise HostUnavailable("the engine was lost while it loaded the version; try again")
        self.failed.pop(version, None)
        self._become_ready(self.ready | {version})
        async with self._freed:
            self._freed.notify_all()  # from now on it can be evicted

    async def _make_room(self, version: str) -> None:
        """Take a slot for `version`; if none is free, from the least important version."""
        least = None
        try:
            async with asyncio.timeout(SLOT_SECONDS), self._freed:
                while len(self._held) + self._foreign >= self.slots:
                    least = to_evict({held: self._standing(held) for held in self.ready})
                    if least is not None:
                        self._observer.count_eviction()
                        self._drop(least)
                        break
                    await self._freed.wait()
                self._held.add(version)  # before the engine loads it, so that no other load takes the slot
        except TimeoutError:
            raise HostUnavailable(
                f"no slot became free within {SLOT_SECONDS:g} s: {len(self._held)} versions are being loaded and "
                f"{self._foreign} adapters are not ours, of {self.slots} (engine.max_cpu_loras)"
            ) from None
        if least is not None:
            await self._unload(least)

    async def _evict(self, version: str) -> None:
        self._observer.count_eviction()
        await self._take_off(version)

    async def _take_off(self, version: str) -> None:
        self._drop(version)
        await self._unload(version)
        async with self._freed:
            self._freed.notify_all()

    async def _unload(self, version: str) -> None:
        self._leaving.add(version)
        try:
            await self._host.unload(version)
        except HostUnavailable:
            log.info("%s need not be unloaded, as the engine is away", version)
        finally:
            self._leaving.discard(version)
            self._touched[version] = self._now()

    def _drop(self, version: str) -> None:
        """Stop sending this engine requests for `version`."""
        self._touched[version] = self._now()
        self._held.discard(version)
        self._become_ready(self.ready - {version})

    async def _free(self, version: str) -> None:
        async with self._freed:
            self._held.discard(version)
            self._freed.notify_all()

    def _become_ready(self, ready: frozenset[str]) -> None:
        if ready != self.ready:
            self.ready = ready
            self._on_change()

    # Comparison with the engine

    async def _compare(self) -> None:
        """Update our records to what the engine lists, except for versions that changed since the engine was asked."""
        asked_at = self._now()
        listed = set(await self._host.adapter_names())

        def is_settled(version: str) -> bool:
            return self._touched.get(version, -1.0) < asked_at and not self._is_being_worked_on(version)

        for version in self.ready - listed:
            if is_settled(version):
                log.warning("the engine has lost %s; it is loaded again", version)
                self._drop(version)
        strangers = {version for version in listed if _is_version(version) and self._find(version) is None}
        self._strangers = {version: self._strangers.get(version, asked_at) for version in strangers}
        others = sum(not _is_version(name) for name in listed) + (len(strangers) if self._stranger_seconds else 0)
        foreign, self._foreign = self._foreign, others
        if self._foreign < foreign:
            async with self._freed:
                self._freed.notify_all()
        for version in listed - self._held:
            if _is_version(version) and is_settled(version):
                await self._adopt(version)

    def _is_being_worked_on(self, version: str) -> bool:
        turn = self._turns.get(version)
        return version in self._leaving or (turn is not None and turn.locked())

    async def _adopt(self, version: str) -> None:
        """Take over a version that the engine has and this loader did not load, or unload it."""
        entry = self._find(version)
        if entry is None and self._now() - self._strangers.get(version, 0.0) < self._stranger_seconds:
            return
        if entry is None or len(self._held) + self._foreign >= self.slots:
            await self._unload(version)
            return
        with suppress(LoadRefused):
            await self.supply(entry)

    def _next_step(self) -> tuple[str, str | None] | None:
        now = self._now()
        wanted = {
            version: self._standing(version)
            for version in self._wanted()
            if version not in self.failed or self.failed[version].again_at <= now
        }
        # A version that is being loaded is never evicted, however long ago it was last used.
        loading = VersionStanding(Keep.SERVING, now)
        held = {version: self._standing(version) if version in self.ready else loading for version in self._held}
        return to_bring(held, wanted, self.slots - self._foreign, now)


def _is_version(name: str) -> bool:
    try:
        split_version(name)
    except InvalidReference:
        return False
    return True
