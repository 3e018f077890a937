"""All engines of this gateway: which base they serve, which versions each should hold, and loading on demand."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapters.catalog import Entry
from adapters.loader import REFUSED_SECONDS, Loader
from adapters.ports import Checker, HostUnavailable, LoadRefused, Observer
from adapters.residency import Keep, VersionStanding, homes
from gateway.decide.route import Base, EngineState
from gateway.decide.table_base import difference, settle_base
from gateway.engine_address import OPEN, Access
from gateway.serve.adapter_host import ProblemKind, VllmHost
from gateway.serve.engines import POLL_SECONDS, EngineProblem, EngineWatch

log = logging.getLogger("loragate.fleet")


class Registered(Protocol):
    """The registry of versions, as the fleet reads it."""

    def entry(self, version: str) -> Entry | None:
        """Return a registered version, or None. One look-up, however many versions there are."""

    def keeps(self) -> Mapping[str, Keep]:
        """Return every version that engines may hold, and why they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stocking:
    """The settings by which engines are stocked with adapters.

    Attributes:
        slots: How many adapters each engine holds.
        copies: On how many engines each version is kept; None for all.
        probe_seconds: How often versions in service are checked; 0 for never.
        base_folder: The base's folder; None if it was not set.
        stranger_seconds: How long an engine may hold a version that this gateway does not know: another gateway may be
            registering it.
        base_name: The base's name, as the operator has set it; None if not set.
    """

    slots: int
    copies: int | None = None
    probe_seconds: float = 0.0
    base_folder: Path | None = None
    stranger_seconds: float = 0.0
    base_name: str | None = None

    @property
    def retry_seconds(self) -> float:
        """How long to wait before a failed version is tried again: at most until the next check of those in service."""
        return min(REFUSED_SECONDS, max(self.probe_seconds or REFUSED_SECONDS, POLL_SECONDS))


class Fleet:
    """All engines of this gateway.

    Args:
        urls: The engines' URLs.
        last_base: The base that was served before this start; it counts until an engine has answered.
        stocking: The settings for stocking.
        make_checker, observer: Return the checker, and the observer of loads, of the engine with a URL.
        now: Returns monotonic seconds, on the same clock as the times given to `note_use`.
        access: Returns the key and certificates for the engine with a URL.
    """

    def __init__(
        self,
        urls: Sequence[str],
        last_base: Base | None,
        stocking: Stocking,
        *,
        make_checker: Callable[[str, VllmHost], Checker],
        observer: Callable[[str], Observer],
        now: Callable[[], float],
        access: Callable[[str], Access] = lambda _: OPEN,
    ) -> None:
        self._urls = tuple(urls)
        self._base = last_base
        self._stocking = stocking
        self._make_checker = make_checker
        self._observer = observer
        self._now = now
        self._access = access
        self._used: dict[str, float] = {}
        self._registered: Registered
        self.watches: tuple[EngineWatch, ...] = ()

    def watch(
        self, registered: Registered, on_change: Callable[[], Awaitable[None]], on_stock: Callable[[], None]
    ) -> None:
        """Make a watch for each engine.

        Args:
            registered: The registry of versions.
            on_change: Called when an engine's status has changed.
            on_stock: Called when versions were loaded or unloaded.
        """
        self._registered = registered
        self.watches = tuple(self._watch(url, on_change, on_stock) for url in self._urls)
        self._settle()  # if the operator has named the base, it is known before any engine answers

    def _watch(self, url: str, on_change: Callable[[], Awaitable[None]], on_stock: Callable[[], None]) -> EngineWatch:
        host = VllmHost(url, self._access(url))
        loader = Loader(
            host,
            self._stocking.slots,
            find=self._registered.entry,
            standing=self._standing,
            wanted=lambda: self._versions_for(url),
            checker=self._make_checker(url, host),
            observer=self._observer(url),
            on_change=on_stock,
            now=self._now,
            retry_seconds=self._stocking.retry_seconds,
            stranger_seconds=self._stocking.stranger_seconds,
        )
        return EngineWatch(url, host, loader, self._stocking.probe_seconds, judge=self._settle, on_change=on_change)

    def _settle(self) -> None:
        """Decide which base this gateway serves, and so which engines are not used."""
        name, before = self._stocking.base_name, self._base
        reported = [watch.status.base if watch.status.answers else None for watch in self.watches]
        self._base = base = settle_base(
            before, name, reported, all_asked=all(watch.has_been_asked for watch in self.watches)
        )
        if base is not None and before is not None and before.name != base.name:
            log.warning(
                "the base of this gateway is `%s` from now on; it was `%s`: %s",
                base.name,
                before.name,
                "all engines have been moved" if name is None else "it has been named so",
            )
        for watch, own in zip(self.watches, reported, strict=True):
            watch.apply_verdict(self._problem(own), base)

    def _problem(self, own: Base | None) -> EngineProblem | None:
        """Return why an engine that serves the base `own` is not used; None if it is used."""
        if self._base is None:
            return EngineProblem(ProblemKind.UNDECIDED, "not all engines have been asked yet which base they serve")
        if own is None:
            return None
        reason = difference(self._base, own, name_only=self._stocking.base_name is not None)
        return EngineProblem(ProblemKind.OTHER_BASE, f"{reason}; it gets no requests") if reason else None

    def _standing(self, version: str) -> VersionStanding:
        keep = self._registered.keeps().get(version, Keep.NONE)
        return VersionStanding(keep, self._used.get(version, 0.0))

    def _versions_for(self, url: str) -> Collection[str]:
        """Return the versions that the engine at `url` may hold."""
        keeps, copies = self._registered.keeps(), self._stocking.copies
        if copies is None or copies >= len(self._urls):
            return keeps.keys()
        up = self._up_urls()
        return [version for version in keeps if url in homes(version, up, copies)]

    def views(self) -> tuple[EngineState, ...]:
        """Return the engines' entries for the route table."""
        return tuple(watch.view() for watch in self.watches)

    def base(self) -> Base | None:
        """Return the base of this gateway; None until an engine has reported it."""
        return self._base

    def standing(self, version: str) -> list[dict[str, Any]]:
        """Return a version's state on each engine, for `adapters show`."""
        rows: list[dict[str, Any]] = []
        for watch in self.watches:
            failure = watch.loader.failed.get(version)
            rows.append(
                {
                    "url": watch.status.url,
                    "up": watch.status.is_up,
                    "ready": version in watch.loader.ready,
                    "reason": failure.reason if failure else None,
                    "fingerprint": watch.loader.checker.last(version),
                }
            )
        return rows

    def other_base_note(self) -> str:
        """Return a clause with the number of engines that serve another base, for `/readyz`; empty if none does."""
        count = sum(watch.serves_another for watch in self.watches)
        return f", {count} {'serve' if count > 1 else 'serves'} another base" if count else ""

    def version_failures(self) -> dict[str, str]:
        """Return the versions that failed on every engine that should serve them, and why."""
        reasons: dict[str, str] = {}
        for version in {version for watch in self.up() for version in watch.loader.failed}:
            failures = [watch.loader.failed.get(version) for watch in self._homes(version)]
            if failures and all(failures):
                reasons[version] = next(failure.reason for failure in failures if failure)
        return reasons

    def ready(self) -> frozenset[str]:
        """Return the versions that are ready on at least one engine."""
        return frozenset().union(*(watch.loader.ready for watch in self.up()))

    def base_folder(self) -> Path | None:
        """Return the base's folder: as set, else as an engine reports it, if it is on this machine; else None."""
        if self._stocking.base_folder is not None:
            return self._stocking.base_folder
        roots = (Path(watch.root()) for watch in self.watches if watch.root() and not watch.serves_another)
        return next((root for root in roots if root.is_absolute() and root.is_dir()), None)

    def up(self) -> tuple[EngineWatch, ...]:
        """Return the watches of the engines that are up."""
        return tuple(watch for watch in self.watches if watch.status.is_up)

    def _up_urls(self) -> tuple[str, ...]:
        return tuple(watch.status.url for watch in self.up())

    def _homes(self, version: str) -> list[EngineWatch]:
        by_url = {watch.status.url: watch for watch in self.up()}
        return [by_url[url] for url in homes(version, by_url, self._stocking.copies)]

    def note_use(self, recent: Mapping[str, float]) -> None:
        """Record when versions were last sent a request, so that those in use are evicted last."""
        for version, at in recent.items():
            if at > self._used.get(version, 0.0):
                self._used[version] = at

    async def look_for(self, version: str, engine: str) -> tuple[str | None, bool]:
        """Check whether an engine holds a version that it answered 404 for, and have it loaded if not.

        Returns:
            The result of `supply`, and whether the engine has held the version all along.
        """
        watch = next((watch for watch in self.up() if watch.status.url == engine), None)
        try:
            if watch is not None and await watch.loader.has(version):
                return None, True
        except HostUnavailable:
            log.info("engine %s cannot be asked for %s", engine, version)
        return await self.supply(version), False

    async def supply(self, version: str) -> str | None:
        """Have a version loaded on an engine that should hold it; return None once it is ready, else why it cannot be.

        The reason is sent to applications, so it never quotes an engine, whose message may hold a path or an address.
        """
        entry = self._registered.entry(version)
        if entry is None:
            return f"`{version}` is no longer registered."
        self._used[version] = self._now()
        watches = self._homes(version)
        problem = "No engine is up to load it on."
        for watch in sorted(watches, key=lambda each: version not in each.loader.ready):
            try:
                await watch.loader.supply(entry)
            except (LoadRefused, HostUnavailable) as error:
                log.info("%s cannot be loaded on %s: %s", version, watch.status.url, error)
            except Exception:  # an unexpected answer of one engine: the next may do
                log.exception("%s cannot be loaded on %s", version, watch.status.url)
            else:
                self._used[version] = self._now()  # waiting requests have not used it yet: it must not be evicted first
                return None
            problem = f"`{version}` cannot be loaded now; `loragate adapters show {version}` tells the operator why."
        return problem

    async def bring(self, entry: Entry) -> None:
        """Load a version that is being registered on every engine that should hold it.

        Raises:
            LoadRefused: An engine refuses it, or its check fails, so it must not be registered.
            HostUnavailable: No engine could be reached.
        """
        watches = self._homes(entry.ref.version)
        if not watches:
            raise HostUnavailable(
                "no engine is up, so the adapter cannot be loaded; try again when `loragate status` shows one"
            )
        self._used[entry.ref.version] = self._now()
        outcomes = await asyncio.gather(
            *(watch.loader.supply(entry, again=True) for watch in watches), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, HostUnavailable):
                raise failure
        if len(failures) == len(watches):
            raise failures[0]

    async def remove(self, version: str) -> None:
        """Unload a version from every engine that is up."""
        self._used.pop(version, None)
        for watch in self.watches:
            await watch.loader.remove(version)
