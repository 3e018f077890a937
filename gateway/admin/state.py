"""The live state of this gateway, and the way a change of it reaches the workers.

A change is written to the store first. Then every worker gets a new route table and
confirms that it serves from it, and only then does the operator get an answer. So the
change applies to the next request after the answer.
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


# How often the reasons for keeping versions on engines are recomputed, because rollback windows (days) may have ended.
REVIEW_SECONDS: Final = 60.0
# How often a change is tried when other gateways change the state first, and the longest random pause between tries.
TRIES: Final = 20
PAUSE_MILLISECONDS: Final = 50


class Conflict(Exception):
    """The change does not fit the state as it is; the message says what to do."""


class Overtaken(Conflict):
    """Another gateway has changed the state first; nothing was changed, and `LiveState` has the newer state."""


async def finish_despite_cancel(work: Awaitable[_T]) -> _T:
    """Await work that must not be left half done: a cancellation of the caller takes effect when the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def retry_overtaken(work: Callable[[], Awaitable[_T]], tries: int = TRIES) -> _T:
    """Repeat a change, from the newest state, as long as other gateways change the state first.

    For changes that are not bound to a version of the state (`If-Match`).

    Raises:
        Overtaken: Another gateway was first at every try.
    """
    for left in reversed(range(tries)):
        try:
            return await work()
        except Overtaken:
            if not left:
                raise
            await asyncio.sleep(secrets.randbelow(PAUSE_MILLISECONDS) / 1000)  # random, or competitors collide again
    raise AssertionError("at least one try")


class Workers(Protocol):
    """All worker processes of this gateway."""

    async def publish(self, table: bytes) -> bool:
        """Send every worker a route table; return whether all of them serve from it now."""

    def publish_engines(self, engines: tuple[EngineState, ...]) -> None:
        """Send every worker the versions that each engine has ready."""

    async def collect(self) -> list[Cell]:
        """Return the workers' counts, summed over workers."""


class EngineFleet(Protocol):
    """The engines that this gateway serves from."""

    def views(self) -> tuple[EngineState, ...]:
        """Return each engine's state as workers need it."""

    def base(self) -> Base | None:
        """Return the base model that the engines serve; None if it is not known yet."""

    async def bring(self, entry: Entry) -> None:
        """Load a version on the engines that should hold it, or raise LoadRefused or HostUnavailable."""

    async def remove(self, version: str) -> None:
        """Unload a version from all engines."""

    def standing(self, version: str) -> list[dict[str, Any]]:
        """Return the state of a version on each engine, as shown to operators."""


class LiveState:
    """The desired state, and the only way to change it.

    Args:
        folder: The state folder.
        store: The store that holds the state.
        desired: The state as it was read from the store, or from the copy on disk.
        workers, engines: The workers get each new route table; the engines load and unload versions.
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
        self._confirmed = 0  # number of the newest route table that all workers have confirmed
        self._replicas = 1
        self.served = 0  # the version of the state that all workers serve from
        self.has_served = asyncio.Event()  # set when `served` has changed, which is then reported to other gateways
        self._registering: dict[str, Entry] = {}
        self._become(desired)

    def _become(self, desired: Desired) -> None:
        self.desired = desired
        self.catalog: Catalog = desired.catalog()
        self._update_keeps()

    def _update_keeps(self) -> None:
        self._keeps: Mapping[str, Keep] = MappingProxyType(self._find_keeps())
        self._kept_at = self.now()

    def _find_keeps(self) -> dict[str, Keep]:
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
        """Return the entry of a version that is registered or being registered; else None."""
        return self.catalog.entries.get(version) or self._registering.get(version)

    def keeps(self) -> Mapping[str, Keep]:
        """Return each version that engines may hold, with the reason to keep it."""
        if self.now() - self._kept_at >= REVIEW_SECONDS:
            self._update_keeps()  # a rollback window may have ended
        return self._keeps

    def begin_registration(self, entry: Entry) -> None:
        """Note that a version is being registered: engines may hold it, but no request is routed to it yet."""
        self._registering[entry.ref.version] = entry

    def end_registration(self, version: str) -> None:
        """Note that the registration of a version has ended, whether it succeeded or not."""
        self._registering.pop(version, None)

    def find(self, version: str) -> Entry:
        """Return the entry of a version, given in full or as a unique prefix.

        Raises:
            InvalidReference: The text does not have the form of a version.
            UnknownVersion: No registered version matches, or several do.
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

    def resolve(self, name: str) -> Entry:
        """Return the entry that `name` stands for: a version itself, or the control of an alias.

        Raises:
            UnknownVersion: `name` is neither an alias nor a registered version.
        """
        if "@" in name:
            return self.find(name)
        route = self.desired.route(name)
        if route is None:
            raise UnknownVersion(f"no adapter is registered as `{name}`; `loragate adapters ls` lists them")
        return self.find(route.control)

    def table(self) -> bytes:
        """Return a new route table, encoded, made from the present state."""
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
        """Send every worker a new route table, and save it for the next start.

        Raises:
            Conflict: A worker has not confirmed the table in time.
        """
        table, version = self.table(), self.desired.version
        number = self._tables
        # No lock: the table is sent to all workers before the first await, so a worker that hangs delays no other.
        is_applied = await self.workers.publish(table)
        if is_applied and number > self._confirmed:
            self._confirmed = number
            if version != self.served:
                self.served = version
                self.has_served.set()
        async with self._saving:
            if number == self._tables:  # else a newer table is saved in its place
                try:
                    await asyncio.to_thread(snapshot.save, self.folder, table)
                except OSError as error:  # a full disk must not stop serving
                    log.warning("the route table could not be saved for the next start: %s", error.strerror)
        if not is_applied:
            raise Conflict(
                "the change is stored, but a worker has not confirmed it within 5 s; `loragate status` shows it"
            )

    async def set_replicas(self, replicas: int) -> None:
        """Divide limits that hold for all replicas together by this number of replicas from now on."""
        if replicas and replicas != self._replicas:
            self._replicas = replicas
            with suppress(Conflict):  # a worker that lags gets the next table
                await self.publish()

    def publish_engines(self) -> None:
        """Send every worker the versions that engines have ready, when nothing else has changed."""
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
        """Store a new state with its journal records in one transaction, and publish it. Call with `turn` held.

        Args:
            desired: The new state, made from the present `self.desired`.
            by, reason: The author and the reason, for the routes' history.
            journal: Journal records that explain the change, as JSON values.
            fence: The leader's token, for decisions of automation.

        Raises:
            Overtaken: Another gateway or command has changed the state meanwhile; nothing was stored.
            Conflict: The change is stored, but a worker has not confirmed it.
            Fenced: Another leader has taken over.
            StoreError: The change may not be stored.
        """
        # Not to be cancelled between the write and the publication, or the store would be ahead of this gateway.
        await finish_despite_cancel(self._change(desired, by, reason, journal, fence))

    async def _change(
        self, desired: Desired, by: str, reason: str, journal: Sequence[Mapping[str, Any]], fence: int | None
    ) -> None:
        def write() -> Desired:
            return self.store.write_state(
                desired, expected=self.desired.version, journal=journal, fence=fence, by=by, reason=reason
            )

        try:
            written = await asyncio.to_thread(write)
        except StaleWrite as error:
            with contextlib.suppress(Conflict):  # a worker that lags gets the next table; the caller gets Overtaken
                await self._adopt()
            raise Overtaken(f"{error}; nothing was changed") from None
        self._become(written)
        await self.publish()
        await self._keep_copy()

    async def follow(self, version: int) -> None:
        """Serve the state that another gateway or command has stored, whose version the store's feed has reported."""
        async with self.turn:
            if version != self.desired.version:
                await self._adopt()

    async def _adopt(self) -> None:
        stored = await asyncio.to_thread(self.store.read_state)
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
        except OSError as error:  # a full disk must not stop serving
            log.warning(
                "the copy of the state, for a start while the store is unreachable, could not be saved: %s",
                error.strerror,
            )
