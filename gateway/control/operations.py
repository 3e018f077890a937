"""What an operator can do: adapters, splits and keys, each as one whole change.

A change is written to the store first, then every worker gets a new route table and
says that it serves from it; only then is the operator answered. So what the answer
says holds for the very next request.
"""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from adapters.artifact import read_manifest, take_copy
from adapters.catalog import Catalog, Entry, UnknownVersion
from adapters.lifecycle import Event, State
from adapters.loader import HostUnavailable
from adapters.reference import AdapterRef, check_name, split_version
from gateway.decide.authenticate import Role
from gateway.decide.route import Base, EngineView
from gateway.observe.ledger import Cell
from gateway.store import keys, snapshot
from gateway.store.desired import Desired, DesiredStore, KeyRecord, RouteRecord

log = logging.getLogger("loragate.operations")

# How long a removal waits for requests that were just sent to reach the engine. Longer
# replies need no wait: the engine finishes what it has begun.
SETTLE_SECONDS: Final = 5.0


class Conflict(Exception):
    """The change does not fit the state as it is; the message says what to do."""


class EngineKeeper(Protocol):
    """An engine that versions are loaded on."""

    async def load(self, entry: Entry) -> None:
        """Load a version, or raise LoadRefused or HostUnavailable."""

    async def unload(self, version: str) -> None:
        """Forget a version."""


class Workers(Protocol):
    """The workers, all at once."""

    async def publish(self, table: bytes) -> bool:
        """Give all of them a route table; whether all serve from it now."""

    async def collect(self) -> list[Cell]:
        """Return the sums of their counts."""


class Engines(Protocol):
    """The engines as they are now."""

    def views(self) -> tuple[EngineView, ...]:
        """Return what workers need to know of each."""

    def base(self) -> Base | None:
        """Return the base that they serve."""

    def up(self) -> Sequence[EngineKeeper]:
        """Return those that can be asked."""


class Operations:
    """The one writer of this machine's desired state.

    Args:
        folder: The state folder.
        workers, engines: Who is told, and who loads.
        with_keys: False when the gateway runs without authentication.
    """

    def __init__(
        self, folder: Path, workers: Workers, engines: Engines, *, with_keys: bool, now: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._registry = folder / "adapters"
        self._store = DesiredStore(folder)
        self._workers = workers
        self._engines = engines
        self._with_keys = with_keys
        self._now = now
        self._turn = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._tables = 0
        self._arriving: Entry | None = None
        with self._store.locked():  # a command that found no gateway may be writing just now
            self.desired = self._store.read()

    @property
    def table_version(self) -> int:
        """The version of the last route table."""
        return self._tables

    def entries(self) -> tuple[Entry, ...]:
        """Return the versions that engines should have, the one that is being added included."""
        arriving = self._arriving
        kept = [entry for entry in self.desired.adapters if entry.state is not State.RETIRED]
        if arriving is not None and all(entry.ref != arriving.ref for entry in kept):
            kept.append(arriving)  # else a poll between its loading and the alias's move would miss it
        return tuple(kept)

    def table(self) -> bytes:
        """Return the route table for the state as it is."""
        self._tables += 1
        return snapshot.encode(
            snapshot.of_state(
                self.desired, version=self._tables, base=self._engines.base(), engines=self._engines.views(),
                with_keys=self._with_keys,
            )
        )  # fmt: skip

    async def publish(self) -> None:
        """Bring every worker up to date with state and engines; raises Conflict if one does not follow."""
        async with self._publishing:
            table = self.table()
            is_applied = await self._workers.publish(table)
            try:
                await asyncio.to_thread(snapshot.save, self._folder, table)
            except OSError as error:  # a full disk must not stop what is served
                log.warning("the snapshot for the next start is not saved: %s", error.strerror)
        if not is_applied:
            raise Conflict(
                "the change is stored, but a worker has not confirmed it within 2 s; `loragate status` shows it"
            )

    async def add_adapter(self, folder: Path, name: str, by: str, notes: str = "") -> Entry:
        """Register the adapter in `folder`, load it on every engine, and point its alias at it.

        Raises:
            InvalidReference, InvalidArtifact: It cannot be registered.
            LoadRefused, HostUnavailable: No engine took it; the alias stays as it was.
            Conflict: The name is the base's, or no engine is up.
        """
        check_name(name)
        base = self._engines.base()
        if base is not None and base.name == name:
            raise Conflict(f"`{name}` is the base model's name; register the adapter under another")
        manifest = await asyncio.to_thread(read_manifest, folder)
        async with self._turn:
            copy = await asyncio.to_thread(take_copy, folder, self._registry, manifest)
            ref = AdapterRef(name, manifest.digest)
            known = self.desired.catalog().entries.get(ref.version)
            entry = known or Entry(
                ref=ref, manifest=manifest, folder=str(copy), source=str(folder), created=int(self._now()),
                created_by=by, notes=notes,
            )  # fmt: skip
            if entry.manifest.digest != manifest.digest:
                raise Conflict(f"`{ref.version}` is the short name of another content already; use another --name")
            self._arriving = entry
            try:
                await self._load_everywhere(entry)
                ready = entry.after(Event.LOAD).after(Event.LOADED)
                catalog = self.desired.catalog().without(ref.version).with_entry(ready)
                await self._change(self._pointed_at(ready, catalog))
            except BaseException:
                self._arriving = None
                if self.desired.catalog().entries.get(ref.version) is None:
                    await self._forget((entry,))
                raise
            self._arriving = None
            return ready

    async def _load_everywhere(self, entry: Entry) -> None:
        engines = self._engines.up()
        if not engines:
            raise HostUnavailable(
                "no engine is up, so the adapter cannot be loaded; try again when `loragate status` shows one"
            )
        outcomes = await asyncio.gather(*(engine.load(entry) for engine in engines), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _forget(self, entries: Sequence[Entry], *, keep_copies: bool = False) -> None:
        """Take versions that are no longer registered off the engines, and their copies off the disk."""
        for engine in self._engines.up():
            for entry in entries:
                await engine.unload(entry.ref.version)
        if keep_copies:
            # An engine may have to read one again for a request that it still has.
            log.warning("requests still run, so these are kept on disk: %s", ", ".join(each.folder for each in entries))
            return
        used = {entry.folder for entry in self.desired.adapters}
        for folder in {entry.folder for entry in entries} - used:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _pointed_at(self, entry: Entry, catalog: Catalog) -> Desired:
        """Return the state with `entry` behind its alias, all its traffic on it."""
        name = entry.ref.name
        now = int(self._now())
        route = self.desired.route(name) or RouteRecord(alias=name, control="", salt=secrets.token_hex(8), created=now)
        moved = msgspec.structs.replace(route, control=entry.ref.version, candidate=None, weight=0, created=now)
        return self.desired.with_catalog(catalog).with_route(moved)

    async def remove_adapter(self, name_or_version: str) -> tuple[str, ...]:
        """Remove an alias with all its versions, or one version that nothing routes to; returns what went.

        Raises:
            UnknownVersion: Nothing has this name.
            Conflict: The version is in use.
        """
        async with self._turn:
            gone = self._to_remove(name_or_version)
            versions = tuple(entry.ref.version for entry in gone)
            try:
                await self._change(self.desired.without(versions))
            finally:  # a worker that has not confirmed may still send requests; the versions are gone all the same
                if not any(entry.ref.version in versions for entry in self.desired.adapters):
                    is_idle = await self._settle(frozenset(versions))
                    await self._forget(gone, keep_copies=not is_idle)
            return versions

    def _to_remove(self, name_or_version: str) -> tuple[Entry, ...]:
        if "@" not in name_or_version:
            entries = self.desired.catalog().of_name(name_or_version)
            if not entries:
                raise UnknownVersion(
                    f"no adapter is registered as `{name_or_version}`; `loragate adapters ls` lists them"
                )
            self._check_unused(entries, but_by=name_or_version)
            return entries
        entry = self.find(name_or_version)
        self._check_unused((entry,))
        return (entry,)

    def _check_unused(self, entries: Sequence[Entry], but_by: str | None = None) -> None:
        versions = {entry.ref.version for entry in entries}
        for route in self.desired.routes:
            if route.alias == but_by:
                continue
            if route.control in versions:
                raise Conflict(
                    f"`{route.alias}` serves `{route.control}` now; add another version first, "
                    f"or remove all of it with `loragate adapters rm {route.alias}`"
                )
            if route.candidate in versions:
                raise Conflict(
                    f"`{route.candidate}` is the candidate of `{route.alias}`; "
                    f"end that with `loragate routes split {route.alias}` first"
                )

    async def _settle(self, versions: frozenset[str]) -> bool:
        """Wait until requests that were decided on the old table have reached their engine.

        Returns:
            Whether all of them are even over.
        """
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            cells = await self._workers.collect()
            if not any(cell.in_flight for cell in cells if cell.version in versions):
                return True
            await asyncio.sleep(0.1)
        return False

    async def split(self, alias: str, candidate: str | None, weight: int) -> RouteRecord:
        """Send `weight` basis points of an alias's units to a candidate version; none without one.

        Raises:
            UnknownVersion: The alias or the candidate is not registered.
            Conflict: The weight is out of range, or the candidate is not ready.
        """
        async with self._turn:
            route = self.desired.route(alias)
            if route is None:
                raise UnknownVersion(f"no alias `{alias}`; `loragate routes ls` lists them")
            if not 0 <= weight <= 10_000:
                raise Conflict(f"weight `{weight}` is not in 0..10000 basis points")
            if candidate is None:
                moved = msgspec.structs.replace(route, candidate=None, weight=0)
            else:
                entry = self.find(candidate)
                if entry.state is not State.READY:
                    raise Conflict(
                        f"`{entry.ref.version}` is {entry.state}, so it cannot be a candidate: {entry.reason}"
                    )
                moved = msgspec.structs.replace(route, candidate=entry.ref.version, weight=weight)
            await self._change(self.desired.with_route(moved))
            return moved

    def find(self, version: str) -> Entry:
        """Return the entry of a version, in full or shortened while unique.

        Raises:
            InvalidReference: It is not written as a version is.
            UnknownVersion: None matches, or several do.
        """
        split_version(version)
        matches = [entry for entry in self.desired.adapters if entry.ref.version.startswith(version)]
        if len(matches) == 1:
            return matches[0]
        what = "is not unique" if matches else "is not registered"
        raise UnknownVersion(f"`{version}` {what}; `loragate adapters ls` lists the versions")

    async def create_key(self, role: Role, name: str, models: list[str] | None) -> tuple[KeyRecord, str]:
        """Make a key; returns its record and, this once, the key."""
        async with self._turn:
            desired, record, key = keys.create_key(self.desired, role, self._now(), name, models)
            await self._change(desired)
            return record, key

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; the next request with it is refused.

        Raises:
            UnknownKey: There is none with this id.
        """
        async with self._turn:
            await self._change(keys.revoke_key(self.desired, key_id))

    async def _change(self, desired: Desired) -> None:
        def write() -> Desired:
            with self._store.locked():
                return self._store.write(desired)

        self.desired = await asyncio.to_thread(write)
        await self.publish()
