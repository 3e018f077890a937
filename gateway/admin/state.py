"""The state of this machine, and how a change to it reaches those who serve.

A change is written to the store first, then every worker gets a new route table and
says that it serves from it; only then is the operator answered. So what the answer
says holds for the very next request.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from adapters.catalog import Catalog, Entry, UnknownVersion
from adapters.lifecycle import State
from adapters.reference import split_version
from adapters.residency import Keep
from gateway.decide.route import Base, EngineState
from gateway.observe.ledger import Cell
from gateway.records.state import Desired
from gateway.store import snapshot
from gateway.store.errors import StaleWrite
from gateway.store.sql import Store
from gateway.store.state_copy import save_copy

log = logging.getLogger("loragate.state")
_T = TypeVar("_T")


# Why versions are kept is looked at anew so often: windows end in days.
REVIEW_SECONDS: Final = 60.0
# So often may another gateway be first before who changes something is told to try again, and so long is waited.
TRIES: Final = 20
PAUSE_MILLISECONDS: Final = 50


class Conflict(Exception):
    """The change does not fit the state as it is; the message says what to do."""


class Overtaken(Conflict):
    """Another gateway has changed the state first; nothing was changed, and the state is as it is now."""


async def to_the_end(work: Awaitable[_T]) -> _T:
    """Await what must not be left half done: it goes on when we are cancelled, and we end after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def insist(work: Callable[[], Awaitable[_T]], tries: int = TRIES) -> _T:
    """Do a change anew, from the state as it is now, as long as another gateway is first; for who names no version.

    Raises:
        Overtaken: Each time.
    """
    for left in reversed(range(tries)):
        try:
            return await work()
        except Overtaken:
            if not left:
                raise
            await asyncio.sleep(secrets.randbelow(PAUSE_MILLISECONDS) / 1000)  # or those who compete meet again
    raise AssertionError("at least one try")


class Workers(Protocol):
    """The workers, all at once."""

    async def publish(self, table: bytes) -> bool:
        """Give all of them a route table; whether all serve from it now."""

    def publish_engines(self, engines: tuple[EngineState, ...]) -> None:
        """Tell all of them what the engines have ready."""

    async def collect(self) -> list[Cell]:
        """Return the sums of their counts."""


class EngineFleet(Protocol):
    """The engines as they are now."""

    def views(self) -> tuple[EngineState, ...]:
        """Return what workers need to know of each."""

    def base(self) -> Base | None:
        """Return the base that they serve."""

    async def bring(self, entry: Entry) -> None:
        """Load a version where it belongs, or raise LoadRefused or HostUnavailable."""

    async def remove(self, version: str) -> None:
        """Take a version off all of them."""

    def standing(self, version: str) -> list[dict[str, Any]]:
        """Return what each makes of a version, for people."""


class LiveState:
    """The desired state, and the only way to change it.

    Args:
        folder: The state folder.
        store: Where the state is kept.
        desired: The state as it was read from there, or from the copy on disk.
        workers, engines: Who is told, and who loads.
        with_keys: False when the gateway runs without authentication.
        now: Unix seconds.
        rollback_seconds: How long a version that was an alias's control is kept for a rollback.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        desired: Desired,
        workers: Workers,
        engines: EngineFleet,
        *,
        with_keys: bool,
        now: Callable[[], float],
        rollback_seconds: float,
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.engines = engines
        self.now = now
        self.store = store
        self._with_keys = with_keys
        self._rollback_seconds = rollback_seconds
        self.turn = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._tables = 0
        self._confirmed = 0  # the newest table that all workers have confirmed
        self._replicas = 1
        self.served = 0  # the version of the state that all workers serve from
        self.has_served = asyncio.Event()  # set when that has changed; for who tells others
        self._arriving: dict[str, Entry] = {}
        self._become(desired)

    def _become(self, desired: Desired) -> None:
        self.desired = desired
        self.catalog: Catalog = desired.catalog()
        self._keep_anew()

    def _keep_anew(self) -> None:
        self._keeps: Mapping[str, Keep] = MappingProxyType(self._kept())
        self._kept_at = self.now()

    def _kept(self) -> dict[str, Keep]:
        keeps = {entry.ref.version: Keep.REST for entry in self.catalog if entry.state is not State.RETIRED}
        since = self.now() - self._rollback_seconds
        for route in self.desired.routes:
            for previous in route.previous:
                if previous.until >= since and previous.version in keeps:
                    keeps[previous.version] = Keep.ROLLBACK
        for route in self.desired.routes:
            for version in (route.control, route.candidate, route.shadow.candidate if route.shadow else None):
                if version in keeps:
                    keeps[version] = Keep.SERVING
        return keeps

    @property
    def table_version(self) -> int:
        """The version of the last route table."""
        return self._tables

    def entry(self, version: str) -> Entry | None:
        """Return a registered version, or one that is being registered, or None."""
        return self.catalog.entries.get(version) or self._arriving.get(version)

    def keeps(self) -> Mapping[str, Keep]:
        """Return every version that engines may hold, and why."""
        if self.now() - self._kept_at >= REVIEW_SECONDS:
            self._keep_anew()  # a rollback window may have ended
        return self._keeps

    def arrives(self, entry: Entry) -> None:
        """A version is being registered: engines may hold it, nobody is served by it yet."""
        self._arriving[entry.ref.version] = entry

    def has_arrived(self, version: str) -> None:
        """Its registration has ended, one way or the other."""
        self._arriving.pop(version, None)

    def find(self, version: str) -> Entry:
        """Return the entry of a version, in full or shortened while unique.

        Raises:
            InvalidReference: It is not written as a version is.
            UnknownVersion: None matches, or several do.
        """
        split_version(version)
        exact = self.catalog.entries.get(version)
        if exact is not None:
            return exact
        matches = [entry for entry in self.catalog if entry.ref.version.startswith(version)]
        if len(matches) == 1:
            return matches[0]
        what = "is not unique" if matches else "is not registered"
        raise UnknownVersion(f"`{version}` {what}; `loragate adapters ls` lists the versions")

    def served_by(self, name: str) -> Entry:
        """Return the version that `name` means: itself, or an alias's control.

        Raises:
            UnknownVersion: Neither an alias nor a registered version.
        """
        if "@" in name:
            return self.find(name)
        route = self.desired.route(name)
        if route is None:
            raise UnknownVersion(f"no adapter is registered as `{name}`; `loragate adapters ls` lists them")
        return self.find(route.control)

    def table(self) -> bytes:
        """Return the route table for the state as it is."""
        self._tables += 1
        return snapshot.encode(
            snapshot.of_state(
                self.desired,
                version=self._tables,
                base=self.engines.base(),
                engines=self.engines.views(),
                with_keys=self._with_keys,
                replicas=self._replicas,
            )
        )

    async def publish(self) -> None:
        """Bring every worker up to date with state and engines; raises Conflict if one does not follow."""
        table, version = self.table(), self.desired.version
        number = self._tables
        # No lock: workers are told before this first waits, so that none hears late because another does not answer.
        is_applied = await self.workers.publish(table)
        if is_applied and number > self._confirmed:
            self._confirmed = number
            if version != self.served:
                self.served = version
                self.has_served.set()
        async with self._saving:
            if number == self._tables:  # else a newer one is saved
                try:
                    await asyncio.to_thread(snapshot.save, self.folder, table)
                except OSError as error:  # a full disk must not stop what is served
                    log.warning("the snapshot for the next start is not saved: %s", error.strerror)
        if not is_applied:
            raise Conflict(
                "the change is stored, but a worker has not confirmed it within 5 s; `loragate status` shows it"
            )

    async def share_with(self, replicas: int) -> None:
        """Divide what is limited over all replicas among so many from now on."""
        if replicas and replicas != self._replicas:
            self._replicas = replicas
            with suppress(Conflict):  # a worker that lags gets the next table
                await self.publish()

    def publish_stock(self) -> None:
        """Tell every worker that versions came or went on an engine; nothing else has changed."""
        self.workers.publish_engines(self.engines.views())

    async def change(
        self,
        desired: Desired,
        *,
        by: str = "",
        reason: str = "",
        journal: Sequence[Mapping[str, Any]] = (),
        fence: int | None = None,
    ) -> None:
        """Store a new state, journalled in the same transaction, and have it served from. Call with `turn` held.

        Args:
            desired: The state as it shall be, made from the one that is `self.desired` now.
            by, reason: Who wants it and why, for the routes' history.
            journal: What explains it, as JSON.
            fence: The leader's token, for what automation decides.

        Raises:
            Conflict: Another gateway or command has changed the state meanwhile; or a worker lags.
            Fenced: Another leader has taken over.
            StoreError: It may not be stored.
        """
        # To the end, or the store would say what nobody here knows.
        await to_the_end(self._change(desired, by, reason, journal, fence))

    async def _change(
        self, desired: Desired, by: str, reason: str, journal: Sequence[Mapping[str, Any]], fence: int | None
    ) -> None:
        def write() -> Desired:
            return self.store.write(
                desired, expected=self.desired.version, journal=journal, fence=fence, by=by, reason=reason
            )

        try:
            written = await asyncio.to_thread(write)
        except StaleWrite as error:
            with contextlib.suppress(Conflict):  # a worker that lags gets the next table; nothing was stored here
                await self._adopt()
            raise Overtaken(f"{error}; nothing was changed") from None
        self._become(written)
        await self.publish()
        await self._keep_copy()

    async def follow(self, version: int) -> None:
        """Serve from what another gateway or command has stored; the feed tells its version."""
        async with self.turn:
            if version != self.desired.version:
                await self._adopt()

    async def _adopt(self) -> None:
        stored = await asyncio.to_thread(self.store.read)
        if stored.version < self.desired.version:
            log.error(
                "the store is at version %d, and this gateway serves version %d, which stays: was the store restored "
                "from a backup? Then restart the gateways",
                stored.version,
                self.desired.version,
            )
            return
        self._become(stored)
        await self.publish()
        await self._keep_copy()

    async def _keep_copy(self) -> None:
        try:
            await asyncio.to_thread(save_copy, self.folder, self.desired)
        except OSError as error:  # a full disk must not stop what is served
            log.warning("the copy of the state for a start without a store is not saved: %s", error.strerror)
