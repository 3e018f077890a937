"""The loader of one engine, against a host in memory that holds names as vLLM does."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import pytest

from adapters import loader as module
from adapters.catalog import Entry
from adapters.loader import Loader
from adapters.manifest import Manifest
from adapters.ports import HostUnavailable, LoadRefused, Unfit
from adapters.reference import AdapterRef
from adapters.residency import SETTLED_SECONDS, Keep, VersionStanding
from tests.support.patience import PATIENCE_SECONDS


class Host:
    """Names to folders, and every call in order."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.calls: list[str] = []
        self.most = 0
        self.is_away = False
        self.refuses: set[str] = set()
        self.misses = 0
        self.before_load: Callable[[str], Awaitable[None]] | None = None

    async def adapter_names(self) -> Collection[str]:
        await asyncio.sleep(0)
        if self.is_away:
            raise HostUnavailable("away")
        return set(self.names)

    async def load(self, version: str, folder: str) -> None:
        self.calls.append(f"load {version}")
        if self.before_load is not None:
            await self.before_load(version)
        await asyncio.sleep(0)
        if self.is_away:
            raise HostUnavailable("away")
        if self.misses:
            self.misses -= 1
            raise HostUnavailable("busy")
        if version in self.refuses:
            raise LoadRefused("rank 64 is greater than 16")
        self.names[version] = folder
        self.most = max(self.most, len(self.names))

    async def unload(self, version: str) -> None:
        self.calls.append(f"unload {version}")
        await asyncio.sleep(0)
        if self.is_away:
            raise HostUnavailable("away")
        self.names.pop(version, None)


class Checks:
    """Finds wrong whatever it is told to."""

    def __init__(self) -> None:
        self.wrong: dict[str, str] = {}
        self.checked: list[tuple[str, frozenset[str]]] = []
        self.resets = 0

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        self.checked.append((entry.ref.version, frozenset(company)))
        if entry.ref.version in self.wrong:
            raise Unfit(self.wrong[entry.ref.version])

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        versions = {entry.ref.version for entry in entries}
        return {version: reason for version, reason in self.wrong.items() if version in versions}

    def last(self, version: str) -> dict[str, Any] | None:
        return None

    def reset(self) -> None:
        self.resets += 1


class Counts:
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.evictions = 0

    def count_load(self, seconds: float, outcome: str) -> None:
        self.outcomes.append(outcome)

    def count_eviction(self) -> None:
        self.evictions += 1


def entry(name: str) -> Entry:
    digest = name.encode().hex().ljust(64, "0")
    manifest = Manifest(digest=digest, base="b", rank=1, alpha=1, target_modules=("q",), size_bytes=1, tensors=1)
    return Entry(ref=AdapterRef(name, digest), manifest=manifest, folder=f"/r/{name}", source="", created=1)


def v(name: str) -> str:
    return entry(name).ref.version


class Stage:
    """A loader with everything around it."""

    def __init__(
        self, *names: str, slots: int = 2, keep: Mapping[str, Keep] | None = None, stranger_seconds: float = 0.0
    ) -> None:
        self.entries = {entry(name).ref.version: entry(name) for name in names}
        self.host, self.checks, self.counts = Host(), Checks(), Counts()
        self.time = 100.0
        self.used: dict[str, float] = {}
        self.keep = {v(name): kind for name, kind in (keep or {}).items()}
        self.changes: list[frozenset[str]] = []
        self.loader = Loader(
            self.host,
            slots,
            find=self.entries.get,
            standing=self.standing,
            wanted=lambda: self.entries.keys(),
            checker=self.checks,
            observer=self.counts,
            on_change=lambda: self.changes.append(self.loader.ready),
            now=lambda: self.now(),
            stranger_seconds=stranger_seconds,
        )

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def standing(self, version: str) -> VersionStanding:
        keep = self.keep.get(version, Keep.REST) if version in self.entries else Keep.NONE
        return VersionStanding(keep, self.used.get(version, 0.0))

    def hold_unloads(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Hold unloads up; returns what is set when one has begun, and what lets it go on."""
        begun, may_end = asyncio.Event(), asyncio.Event()
        unload = self.host.unload

        async def held(version: str) -> None:
            begun.set()
            await may_end.wait()
            await unload(version)

        self.host.unload = held  # type: ignore[method-assign]  # this host's own, not the class's
        return begun, may_end

    async def supply(self, name: str, **how: Any) -> None:
        await self.loader.supply(entry(name), **how)
        self.used[v(name)] = self.now()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSES", (0.0, 0.0, 0.0))


def test_a_version_is_ready_only_after_its_check() -> None:
    stage = Stage("a")
    asyncio.run(stage.supply("a"))
    assert stage.loader.ready == {v("a")}
    assert stage.changes == [frozenset({v("a")})]
    assert stage.checks.checked == [(v("a"), frozenset())]
    assert stage.counts.outcomes == ["ok"]


def test_many_who_ask_at_once_cause_one_load() -> None:
    async def run(stage: Stage) -> None:
        await asyncio.gather(*(stage.supply("a") for _ in range(20)))

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.host.calls == [f"load {v('a')}"]


def test_the_least_recently_used_makes_room_and_the_engine_never_holds_more_than_its_slots() -> None:
    async def run(stage: Stage) -> None:
        for name in ("a", "b", "a", "c"):
            await stage.supply(name)
            stage.used[v(name)] = stage.now()

    stage = Stage("a", "b", "c")
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("a"), v("c")}
    assert stage.host.most == 2
    assert stage.counts.evictions == 1
    assert stage.host.calls.index(f"unload {v('b')}") < stage.host.calls.index(f"load {v('c')}")


def test_requests_are_sent_elsewhere_before_the_engine_forgets() -> None:
    stage = Stage("a", "b", slots=1)
    seen: list[frozenset[str]] = []

    async def unload(version: str) -> None:
        seen.append(stage.loader.ready)
        stage.host.names.pop(version, None)

    async def run() -> None:
        await stage.supply("a")
        stage.host.unload = unload  # type: ignore[method-assign]
        await stage.supply("b")

    asyncio.run(run())
    assert seen == [frozenset()]


def test_concurrent_loads_never_take_more_slots_than_there_are() -> None:
    names = [f"n{number}" for number in range(12)]

    async def run(stage: Stage) -> None:
        await asyncio.gather(*(stage.supply(name) for name in names))

    stage = Stage(*names, slots=3)
    asyncio.run(run(stage))
    assert stage.host.most <= 3
    assert len(stage.loader.ready) == 3
    assert set(stage.host.names) == stage.loader.ready


def test_what_is_served_stays_while_the_rest_is_evicted() -> None:
    async def run(stage: Stage) -> None:
        for name in ("served", "a", "b", "c"):
            await stage.supply(name)

    stage = Stage("served", "a", "b", "c", keep={"served": Keep.SERVING})
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("served"), v("c")}


def test_a_busy_engine_is_asked_again() -> None:
    stage = Stage("a")
    stage.host.misses = 3
    asyncio.run(stage.supply("a"))
    assert len(stage.host.calls) == 4


def test_a_refused_version_says_why_and_is_left_alone_for_a_while() -> None:
    async def run(stage: Stage) -> None:
        with pytest.raises(LoadRefused, match="rank 64"):
            await stage.supply("a")
        with pytest.raises(LoadRefused, match="rank 64"):
            await stage.supply("a")
        assert stage.host.calls.count(f"load {v('a')}") == 1
        stage.host.refuses.clear()
        await stage.supply("a", again=True)

    stage = Stage("a")
    stage.host.refuses.add(v("a"))
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("a")}
    assert stage.loader.failed == {}


def test_a_version_that_fails_its_check_is_taken_off_and_never_ready() -> None:
    async def run(stage: Stage) -> None:
        with pytest.raises(Unfit, match="equals the base"):
            await stage.supply("a")

    stage = Stage("a")
    stage.checks.wrong[v("a")] = "equals the base"
    asyncio.run(run(stage))
    assert stage.changes == []
    assert stage.host.names == {}
    assert stage.counts.outcomes == ["unfit"]
    assert stage.loader.failed[v("a")].reason == "equals the base"


def test_a_failed_load_gives_its_slot_back() -> None:
    async def run(stage: Stage) -> None:
        with pytest.raises(LoadRefused):
            await stage.supply("a")
        await stage.supply("b")

    stage = Stage("a", "b", slots=1)
    stage.host.refuses.add(v("a"))
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("b")}


def test_a_load_that_is_cancelled_gives_its_slot_back() -> None:
    async def run(stage: Stage) -> None:
        entered = asyncio.Event()

        async def hang(version: str) -> None:
            entered.set()
            await asyncio.sleep(60)

        stage.host.before_load = hang
        task = asyncio.ensure_future(stage.supply("a"))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.host.before_load = None
        await stage.supply("b")

    stage = Stage("a", "b", slots=1)
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("b")}


def test_tending_brings_in_what_matters_most_and_fills_the_slots() -> None:
    stage = Stage("a", "b", "served", keep={"served": Keep.SERVING})
    asyncio.run(stage.loader.tend())
    assert v("served") in stage.loader.ready
    assert len(stage.loader.ready) == 2


def test_tending_passes_over_what_is_refused() -> None:
    stage = Stage("a", "bad", slots=4)
    stage.host.refuses.add(v("bad"))
    asyncio.run(stage.loader.tend())
    asyncio.run(stage.loader.tend())
    assert stage.loader.ready == {v("a")}
    assert stage.host.calls.count(f"load {v('bad')}") == 1


def test_an_engine_that_restarted_empty_gets_its_adapters_back() -> None:
    async def run(stage: Stage) -> None:
        await stage.supply("a")
        stage.host.names.clear()
        await stage.loader.tend()

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.host.names == {v("a"): "/r/a"}
    assert stage.changes == [{v("a")}, frozenset(), {v("a")}]


def test_a_version_that_a_request_did_not_find_is_brought_back() -> None:
    async def run(stage: Stage) -> None:
        await stage.supply("a")
        assert await stage.loader.has(v("a"))
        stage.host.names.clear()
        assert not await stage.loader.has(v("a"))
        await stage.supply("a")

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.host.names == {v("a"): "/r/a"}


def test_what_the_engine_holds_from_before_is_taken_over_after_its_check() -> None:
    stage = Stage("a")
    stage.host.names[v("a")] = "/r/a"
    asyncio.run(stage.loader.tend())
    assert stage.loader.ready == {v("a")}
    assert [version for version, _ in stage.checks.checked] == [v("a")]


def test_a_version_that_is_not_registered_is_unloaded_and_a_foreign_name_is_left_alone() -> None:
    stage = Stage("a", slots=2)
    stage.host.names |= {v("gone"): "/r/gone", "somebody-elses": "/x"}
    asyncio.run(stage.loader.tend())
    assert set(stage.host.names) == {"somebody-elses", v("a")}


def test_a_foreign_adapter_takes_a_slot() -> None:
    async def run(stage: Stage) -> None:
        stage.host.names["somebody-elses"] = "/x"
        await stage.loader.tend()
        await stage.supply("b")

    stage = Stage("a", "b", slots=2)
    asyncio.run(run(stage))
    assert stage.host.most == 2


def test_inspection_takes_a_wrong_version_out_of_service() -> None:
    async def run(stage: Stage) -> None:
        await stage.loader.tend()
        stage.checks.wrong[v("a")] = "differs by 3.1 nats > limit 0.02"
        await stage.loader.inspect()
        await stage.loader.tend()

    stage = Stage("a", "b")
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("b")}
    assert v("a") not in stage.host.names
    assert "3.1 nats" in stage.loader.failed[v("a")].reason


def test_a_version_out_of_service_comes_back_when_it_passes_again() -> None:
    async def run(stage: Stage) -> None:
        await stage.loader.tend()
        stage.checks.wrong[v("a")] = "differs"
        await stage.loader.inspect()
        stage.checks.wrong.clear()
        stage.time += module.REFUSED_SECONDS + 1
        await stage.loader.tend()

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("a")}
    assert stage.host.calls == [f"load {v('a')}", f"unload {v('a')}", f"load {v('a')}"]


def test_a_version_that_another_gateway_registers_keeps_its_slot_for_a_while() -> None:
    stage = Stage("a", "b", slots=2, stranger_seconds=60.0)
    asyncio.run(stage.host.load(v("new"), "/r/new"))
    asyncio.run(stage.loader.tend())
    assert v("new") in stage.host.names, "it may be on its way into the catalog"
    assert len(stage.host.names) == 2, "and takes a slot meanwhile"
    stage.entries[v("new")] = entry("new")
    asyncio.run(stage.loader.tend())
    assert v("new") in stage.loader.ready, "it has come, and is checked here as well"
    del stage.entries[v("new")]
    asyncio.run(stage.loader.remove(v("new")))
    asyncio.run(stage.host.load(v("new"), "/r/new"))
    asyncio.run(stage.loader.tend())
    stage.time += 61
    asyncio.run(stage.loader.tend())
    assert v("new") not in stage.host.names, "nobody has registered it"


def test_a_lost_engine_is_forgotten_whole() -> None:
    async def run(stage: Stage) -> None:
        await stage.loader.tend()
        stage.loader.reset()

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == frozenset()
    assert stage.checks.resets == 1
    assert stage.changes[-1] == frozenset()


def test_a_load_during_which_the_engine_was_lost_is_not_taken_for_ready() -> None:
    async def run(stage: Stage) -> None:
        async def lose(version: str) -> None:
            stage.loader.reset()

        stage.host.before_load = lose
        with pytest.raises(HostUnavailable, match="lost"):
            await stage.supply("a")

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == frozenset()


def test_removing_from_an_engine_that_is_away_succeeds() -> None:
    async def run(stage: Stage) -> None:
        await stage.loader.tend()
        stage.host.is_away = True
        await stage.loader.remove(v("a"))

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == frozenset()


def test_a_listing_from_before_a_load_does_not_undo_it() -> None:
    """The engine was asked what it has, a load finished meanwhile, then its old answer came."""

    async def run(stage: Stage) -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def adapter_names() -> Collection[str]:
            before = set(stage.host.names)
            asked.set()
            await answer.wait()
            return before

        stage.host.adapter_names = adapter_names  # type: ignore[method-assign]
        tending = asyncio.ensure_future(stage.loader.tend())
        await asked.wait()
        await stage.supply("a")
        answer.set()
        await tending

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("a")}
    assert stage.host.calls == [f"load {v('a')}"]


# What happens at once


def test_a_version_that_is_being_loaded_is_not_swapped_out_however_long_it_takes() -> None:
    async def run(stage: Stage) -> None:
        started, may_end = asyncio.Event(), asyncio.Event()
        load = stage.host.load

        async def slow(version: str, folder: str) -> None:
            started.set()
            await may_end.wait()
            await load(version, folder)

        stage.host.load = slow  # type: ignore[method-assign]
        asked = asyncio.create_task(stage.supply("pinned"))
        await started.wait()
        stage.time += 3 * SETTLED_SECONDS
        await asyncio.wait_for(stage.loader.tend(), 5)
        may_end.set()
        await asked

    stage = Stage("pinned", "served", slots=1, keep={"served": Keep.SERVING})
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("pinned")}


def test_a_version_that_was_removed_meanwhile_is_not_loaded_for_those_who_still_wait() -> None:
    async def run(stage: Stage) -> None:
        await stage.supply("a")
        unloading, may_end = stage.hold_unloads()
        del stage.entries[v("a")]
        removed = asyncio.create_task(stage.loader.remove(v("a")))
        await unloading.wait()
        late = asyncio.create_task(stage.supply("a"))
        await asyncio.sleep(0)
        may_end.set()
        await removed
        with pytest.raises(LoadRefused, match="no longer registered"):
            await late

    stage = Stage("a")
    asyncio.run(run(stage))
    assert stage.loader.ready == frozenset()
    assert stage.host.names == {}


def test_one_at_a_time_works_on_a_version_also_after_it_was_removed() -> None:
    at_once: list[int] = []

    async def run(stage: Stage) -> None:
        await stage.supply("a")
        unloading, may_end = stage.hold_unloads()
        load = stage.host.load
        running = 0

        async def counted(version: str, folder: str) -> None:
            nonlocal running
            running += 1
            at_once.append(running)
            for _ in range(10):
                await asyncio.sleep(0)
            running -= 1
            await load(version, folder)

        stage.host.load = counted  # type: ignore[method-assign]
        removed = asyncio.create_task(stage.loader.remove(v("a")))
        await unloading.wait()
        waited = asyncio.create_task(stage.supply("a"))
        await asyncio.sleep(0)
        may_end.set()
        await removed
        await asyncio.sleep(0)
        await asyncio.gather(waited, stage.supply("a"))

    asyncio.run(run(Stage("a")))
    assert at_once == [1]


def test_who_waits_for_a_slot_gets_it_when_a_foreign_adapter_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOT_SECONDS", PATIENCE_SECONDS)

    async def run(stage: Stage) -> None:
        stage.host.names["somebody's"] = "/x"
        await stage.loader.tend()
        asked = asyncio.create_task(stage.supply("a"))
        await asyncio.sleep(0)
        del stage.host.names["somebody's"]
        await stage.loader.tend()
        await asked

    stage = Stage("a", slots=1)
    asyncio.run(run(stage))
    assert stage.loader.ready == {v("a")}
