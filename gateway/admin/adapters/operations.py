"""Operations on adapters: register, remove, fuse and scale.

A version is registered only after it has been verified, copied, loaded and checked. So a
crash at any moment leaves it registered completely or not at all, and leftover files are
removed at the next start.
"""

import asyncio
import logging
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from adapters.artifact import take_copy
from adapters.catalog import Catalog, Entry, UnknownVersion
from adapters.fusion.process import fuse_apart
from adapters.lifecycle import Event, State
from adapters.manifest import Manifest
from adapters.recipe import Method, Parent, Recipe, complete
from adapters.reference import AdapterRef, check_name
from adapters.verify import Report
from adapters.verify.report import sentence as problem_sentence
from gateway.admin.adapters.intake import Intake, Progress, scratch_folder, silent
from gateway.admin.adapters.registration import FusionOrigin, Registration
from gateway.admin.route_journal import check_no_rollout, check_not_rolled_out, route_records
from gateway.admin.state import Conflict, LiveState, finish_despite_cancel, retry_overtaken
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired
from gateway.store.fingerprints import FingerprintStore

log = logging.getLogger("loragate.adapters")

# How long a removal waits for requests that workers have just sent to reach the engine. It need not wait for
# replies to end, since the engine finishes requests that it has begun.
SETTLE_SECONDS: Final = 5.0
# Folders in a shared registry that are unregistered and older than this were left by a crash: no registration takes
# so long.
SHARED_SWEEP_SECONDS: Final = 86_400.0


class AdapterOperations:
    """Registers, makes and removes versions.

    Args:
        state: The live state that they change.
        intake: Fetches and verifies adapters.
        records: The fingerprints of versions, which are removed with their version.
        registry: The folder that holds the copies of all versions.
        most_rank: The highest rank of a fused version, which engines limit (vLLM's --max-lora-rank).
    """

    def __init__(
        self, state: LiveState, intake: Intake, records: FingerprintStore, registry: Path, *, most_rank: int
    ) -> None:
        self._state = state
        self._intake = intake
        self._records = records
        self._most_rank = most_rank
        self._registry = registry
        self._turns: dict[str, asyncio.Lock] = {}  # by digest, so that operations on the same copy take turns
        self._fused: Counter[str] = Counter()  # version → number of fusions that read it now

    def sweep(self, *, is_shared: bool = False) -> None:
        """Remove copies that a crash left unregistered. Call at the start, before any registration.

        Args:
            is_shared: Whether other gateways use the registry too: then recent copies stay, which another gateway may
                be about to register.
        """
        used = {Path(entry.folder) for entry in self._state.catalog}
        oldest = self._state.now() - SHARED_SWEEP_SECONDS
        for folder in self._registry.glob("*"):
            if folder not in used and (not is_shared or folder.stat().st_mtime < oldest):
                log.warning("the folder %s belongs to no registered version and is removed", folder)
                shutil.rmtree(folder, ignore_errors=True)
        self._records.sweep(self._state.catalog.entries)
        self._intake.sweep(self._state.now())

    async def add(
        self,
        source: str,
        order: Registration,
        *,
        any_local: bool,
        digest: str | None = None,
        progress: Progress = silent,
    ) -> Entry:
        """Register the adapter at `source`, load it on the engines that should hold it, and point its alias at it.

        Raises:
            InvalidReference, SourceError, Refused: The adapter cannot be registered.
            LoadRefused, HostUnavailable: No engine loaded it; the alias stays as it was.
            Conflict: The name is that of the base model, or a rollout decides the alias's control.
        """
        self._check_order(order)
        async with self._intake.fetch(source, any_local=any_local, digest=digest, progress=progress) as folder:
            return await self._register(folder, source, order, None, progress)

    async def fuse(self, recipe: Recipe, order: Registration, progress: Progress = silent) -> Entry:
        """Make a new version out of registered ones, and register it with its recipe.

        Raises:
            CannotFuse: The recipe or the parents do not allow the fusion.
            UnknownVersion: A parent is neither an alias nor a version.
            Refused, LoadRefused, HostUnavailable, Conflict: As in `add`.
        """
        self._check_order(order)
        entries = [self._state.resolve(parent.version) for parent in recipe.parents]
        parents = tuple(
            Parent(version=entry.ref.version, weight=parent.weight)
            for entry, parent in zip(entries, recipe.parents, strict=True)
        )
        recipe = complete(replace(recipe, parents=parents))
        folders = {entry.ref.version: Path(entry.folder) for entry in entries}
        scratch = await asyncio.to_thread(scratch_folder, self._registry)
        try:
            with self._reading(tuple(folders)):
                report = await fuse_apart(
                    recipe,
                    folders,
                    scratch / "made",
                    max_rank=self._most_rank,
                    progress=lambda done, total: progress("fuse", done, total),
                )
            order = replace(order, may_be_null=order.may_be_null or recipe.is_null)
            made = FusionOrigin(recipe=recipe, difference=str(report.errors or ""), warnings=report.warnings)
            return await self._register(scratch / "made", "", order, made, progress)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def scale(self, version: str, factor: float, order: Registration, progress: Progress = silent) -> Entry:
        """Make a version whose effect is `factor` times that of another."""
        recipe = Recipe(method=Method.SCALE, parents=(Parent(version=version, weight=factor),))
        return await self.fuse(recipe, order, progress)

    @asynccontextmanager
    async def _turn(self, *digests: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as turns:
            for digest in sorted(set(digests)):  # in one order, so that no two wait for each other
                await turns.enter_async_context(self._turns.setdefault(digest, asyncio.Lock()))
            yield

    @contextmanager
    def _reading(self, versions: Collection[str]) -> Iterator[None]:
        self._fused.update(versions)
        try:
            yield
        finally:
            self._fused.subtract(versions)
            self._fused += Counter()  # drops versions with a count of zero

    def _check_order(self, order: Registration) -> None:
        name = order.name
        check_name(name)
        if order.activate:
            check_no_rollout(self._state.desired, name)  # checked again at the end; here it saves useless work
        base = self._state.engines.base()
        if base is not None and base.is_called(name):
            raise Conflict(f"`{name}` is the base model's name; register the adapter under another")

    async def _register(
        self, folder: Path, source: str, order: Registration, made: FusionOrigin | None, progress: Progress
    ) -> Entry:
        progress("verify")
        # A fused version needs no signature: the gateway made it from versions that are registered.
        report = await self._intake.verify(folder, is_ours=made is not None)
        manifest = report.manifest
        assert manifest is not None  # an accepted report has one
        async with self._turn(manifest.digest):
            progress("copy")
            try:
                copy = await finish_despite_cancel(asyncio.to_thread(take_copy, folder, self._registry, manifest))
                entry = self._entry(manifest, copy, source, order, made, report)
                return await self._bring_in(entry, order, progress)
            finally:
                await self._discard_unused((str(self._registry / manifest.digest),))

    def _entry(
        self,
        manifest: Manifest,
        copy: Path,
        source: str,
        order: Registration,
        made: FusionOrigin | None,
        report: Report,
    ) -> Entry:
        ref = AdapterRef(order.name, manifest.digest)
        existing = self._state.catalog.entries.get(ref.version)
        if existing is not None and existing.manifest.digest != manifest.digest:
            raise Conflict(f"`{ref.version}` is the short name of another content already; use another --name")
        if existing is not None:
            return replace(existing, may_be_null=existing.may_be_null or order.may_be_null)
        warnings = tuple(problem_sentence(problem) for problem in report.warnings) + (made.warnings if made else ())
        return Entry(
            ref=ref,
            manifest=manifest,
            folder=str(copy),
            source=source,
            created=int(self._state.now()),
            created_by=order.by,
            notes=order.notes,
            signed_by=report.signed_by,
            may_be_null=order.may_be_null,
            warnings=warnings,
            recipe=made.recipe if made else None,
            difference=made.difference if made else "",
        )

    async def _bring_in(self, entry: Entry, order: Registration, progress: Progress) -> Entry:
        """Load and check a version, then add it to the state."""
        state = self._state
        version = entry.ref.version
        if entry.state is State.REGISTERED:
            entry = entry.after(Event.VERIFY)
        entry = entry.after(Event.LOAD)
        state.begin_registration(entry)
        try:
            progress("load")
            await state.engines.bring(entry)
            ready = entry.after(Event.LOADED)

            async def work() -> None:
                catalog = state.catalog.without(version).with_entry(ready)
                await self._change(self._point_alias(ready, catalog, order), order.by, f"`{version}` was registered")

            async with state.turn:
                await retry_overtaken(work)
            return ready
        finally:
            state.end_registration(version)
            if state.entry(version) is None:
                await state.engines.remove(version)
                self._records.drop(version)

    def _point_alias(self, entry: Entry, catalog: Catalog, order: Registration) -> Desired:
        """Return the state with `entry` registered and, if the order says so, as the control of its alias."""
        desired = self._state.desired.with_catalog(catalog)
        name = entry.ref.name
        route = desired.route(name)
        if order.activate is False or (order.activate is None and route is not None):
            return desired
        check_no_rollout(desired, name)
        now = int(self._state.now())
        route = route or RouteRecord(alias=name, control="", salt=secrets.token_hex(8), created=now)
        return desired.with_route(route.with_control(entry.ref.version, now))

    async def _change(self, desired: Desired, by: str, reason: str) -> None:
        """Store and publish a state, with journal records of the routes that it changes."""
        state = self._state
        records = route_records(state.desired, desired, by=by, reason=reason, at=state.now(), catalog=desired.catalog())
        await state.change(desired, by=by, reason=reason, journal=records)

    async def _discard_unused(self, folders: Sequence[str]) -> None:
        used = {entry.folder for entry in self._state.catalog}
        for folder in set(folders) - used:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def remove(self, name_or_version: str, by: str = "") -> tuple[str, ...]:
        """Remove an alias with all its versions, or one version that no alias routes to; return the removed versions.

        Raises:
            UnknownVersion: No alias and no version has this name.
            Conflict: A version is in use.
        """
        while True:
            entries = self._find_removable(name_or_version)
            # Locked by content, not as a whole: an engine may take long to unload, and other changes must go on.
            async with self._turn(*(entry.manifest.digest for entry in entries)):
                if await self._remove_versions(name_or_version, entries, by):
                    return tuple(entry.ref.version for entry in entries)

    async def _remove_versions(self, name_or_version: str, entries: Sequence[Entry], by: str) -> bool:
        """Remove `entries` if the name still stands for exactly these versions; return whether it does."""
        state = self._state
        versions = frozenset(entry.ref.version for entry in entries)

        async def work() -> bool:
            if {entry.ref.version for entry in self._find_removable(name_or_version)} != versions:
                return False
            await self._change(state.desired.without(versions), by, f"`{name_or_version}` was removed")
            return True

        try:
            async with state.turn:
                if not await retry_overtaken(work):
                    return False
        finally:  # also if a worker has not confirmed: the versions are removed from the state even then
            if not any(version in state.catalog.entries for version in versions):
                await self._forget(entries, is_idle=await self._settle(versions))
        return True

    async def _forget(self, entries: Sequence[Entry], *, is_idle: bool) -> None:
        """Unload versions that are no longer registered, and delete their copies if no request still uses them."""
        for entry in entries:
            await self._state.engines.remove(entry.ref.version)
            self._records.drop(entry.ref.version)
        folders = [entry.folder for entry in entries]
        if is_idle:
            await self._discard_unused(folders)
        else:  # an engine may have to read a copy again for a request that still runs
            log.warning(
                "requests for removed versions still run, so their folders are kept until the next start: %s",
                ", ".join(folders),
            )

    def _find_removable(self, name_or_version: str) -> tuple[Entry, ...]:
        if "@" not in name_or_version:
            entries = self._state.catalog.of_name(name_or_version)
            if not entries:
                raise UnknownVersion(
                    f"no adapter is registered as `{name_or_version}`; `loragate adapters ls` lists them"
                )
            self._check_unused(entries, but_by=name_or_version)
            return entries
        entry = self._state.find(name_or_version)
        self._check_unused((entry,))
        return (entry,)

    def _check_unused(self, entries: Sequence[Entry], but_by: str | None = None) -> None:
        versions = {entry.ref.version for entry in entries}
        for version in versions & self._fused.keys():
            raise Conflict(f"`{version}` goes into a fusion just now; remove it when that is done")
        for version in sorted(versions):
            check_not_rolled_out(self._state.desired, version)
        for route in self._state.desired.routes:
            if route.alias == but_by and route.control in versions:  # the alias itself is removed too
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

    async def review(self, failed: Mapping[str, str], ready: Collection[str]) -> None:
        """Update the states of versions in the catalog after the engines' fingerprint checks.

        Args:
            failed: Version → reason, for versions that failed the check on every engine that should serve them.
            ready: Versions that at least one engine serves.
        """
        state = self._state

        def find_changes() -> list[Entry]:
            condemned = [
                entry.after(Event.CONDEMN, reason)
                for version, reason in failed.items()
                if (entry := state.catalog.entries.get(version)) is not None and entry.state is State.READY
            ]
            back = [
                entry.after(Event.LOAD).after(Event.LOADED)
                for entry in state.catalog
                if entry.state is State.FAILED and entry.ref.version in ready
            ]
            return condemned + back

        if not find_changes():
            return
        async with state.turn:
            catalog = state.catalog
            for entry in find_changes():
                log.warning("%s is %s: %s", entry.ref.version, entry.state, entry.reason or "engines serve it again")
                catalog = catalog.with_entry(entry)
            await state.change(state.desired.with_catalog(catalog))

    async def _settle(self, versions: frozenset[str]) -> bool:
        """Wait until no request for these versions is in flight, for `SETTLE_SECONDS` at most.

        Requests that workers routed by the old table reach their engine within this time.

        Returns:
            Whether no request is in flight any more.
        """
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            cells = await self._state.workers.collect()
            if not any(cell.in_flight for cell in cells if cell.version in versions):
                return True
            await asyncio.sleep(0.1)
        return False
