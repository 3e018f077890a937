"""Changes of routes that meet another gateway's, or a rollout's, on a real SQLite store."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from gateway.admin.keys.operations import KeyOperations
from gateway.admin.routes.files import Declaration, DeclaredRoute
from gateway.admin.routes.operations import ChangeRequest, RouteOperations, StateMoved, UnknownRoute
from gateway.admin.state import Conflict, LiveState, Overtaken, retry_overtaken
from gateway.decide.authenticate import Role
from gateway.records.state import Desired
from gateway.store.sql import Store
from tests.support.live_state import Engines, Workers
from tests.support.route_values import ENTRIES, SUPPORT, A, B, C
from tests.support.state_records import rollout
from tests.support.stores import open_empty_store

T = TypeVar("T")
ORDER = ChangeRequest(by="key-1", reason="because")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_empty_store(tmp_path, now=lambda: 1e9)
    store.write_state(Desired(adapters=ENTRIES, routes=(SUPPORT,)), expected=0)
    yield store
    store.close()


def run(store: Store, folder: Path, work: Callable[[RouteOperations, LiveState], Awaitable[T]]) -> T:
    """Do `work` on a gateway that has just read the store."""

    async def live() -> T:
        state = LiveState(
            folder, store, store.read_state(), Workers(), Engines(), with_keys=True, now=lambda: 1e9, rollback_seconds=1
        )
        return await work(RouteOperations(state), state)

    return asyncio.run(live())


def declare(**fields: Any) -> Declaration:
    return Declaration(routes=(DeclaredRoute(**{"alias": "support", "control": A, **fields}),))


def elsewhere(store: Store, **fields: Any) -> None:
    """Change the route by another gateway."""
    desired = store.read_state()
    (route,) = desired.routes
    store.write_state(
        desired.with_route(msgspec.structs.replace(route, **fields)), expected=desired.version, by="other"
    )


def test_without_a_version_a_change_is_made_to_what_another_gateway_left(store: Store, tmp_path: Path) -> None:
    async def work(routes: RouteOperations, state: LiveState) -> None:
        elsewhere(store, notes="theirs")
        plan = await routes.apply(declare(control=B), ORDER)
        assert [change.field for change in plan.changes[0].fields] == ["control", "notes"]
        assert (plan.version, state.desired.version) == (2, 3)

    run(store, tmp_path, work)
    assert [each.by for each in store.history("support")] == ["key-1", "other", ""]
    assert [entry.record["why"] for entry in store.journal()] == ["because"]


def test_a_split_and_a_key_are_made_after_another_gateways_change(store: Store, tmp_path: Path) -> None:
    async def work(routes: RouteOperations, state: LiveState) -> None:
        elsewhere(store, notes="theirs")
        assert (await routes.split("support", B, 100, ORDER)).notes == "theirs"
        elsewhere(store, notes="theirs again")
        await KeyOperations(state).create(Role.APP, "mine", None)
        elsewhere(store, notes="and again")
        with pytest.raises(StateMoved, match="the state is at version 6, and the change was made for version 5"):
            await routes.split("support", None, 0, ChangeRequest(by="key-1", if_version=5))
        await KeyOperations(state).revoke(state.desired.keys[0].id)

    run(store, tmp_path, work)
    assert (store.read_state().routes[0].weight, store.read_state().routes[0].notes, store.read_state().keys) == (
        100,
        "and again",
        (),
    )


def test_who_insists_is_refused_only_when_another_was_first_every_time() -> None:
    tries: list[int] = []

    async def work() -> int:
        tries.append(len(tries))
        if len(tries) < 3:
            raise Overtaken("another was first")
        return len(tries)

    assert asyncio.run(retry_overtaken(work, tries=3)) == 3
    tries.clear()
    with pytest.raises(Overtaken):
        asyncio.run(retry_overtaken(work, tries=2))


def test_with_a_version_it_is_refused_and_the_gateway_serves_what_the_other_left(store: Store, tmp_path: Path) -> None:
    async def work(routes: RouteOperations, state: LiveState) -> None:
        elsewhere(store, notes="theirs")
        with pytest.raises(StateMoved, match="the state is at version 2, and the change was made for version 1"):
            await routes.apply(declare(control=B), ChangeRequest(by="key-1", if_version=1))
        assert state.desired.routes[0].notes == "theirs"

    run(store, tmp_path, work)
    assert store.version() == 2
    assert store.journal() == ()


def test_what_a_rollout_decides_is_left_to_it_by_every_way(store: Store, tmp_path: Path) -> None:
    elsewhere(store, candidate=B, weight=500)
    desired = store.read_state()
    store.write_state(desired.with_rollout(rollout("r-1")), expected=desired.version)

    async def work(routes: RouteOperations, state: LiveState) -> None:
        for attempt in (
            lambda: routes.apply(declare(candidate=C, weight=500), ORDER),
            lambda: routes.apply(Declaration(routes=(), prune=True), ORDER),
            lambda: routes.revert("support", 1, ORDER),
            lambda: routes.split("support", None, 0, ORDER),
        ):
            with pytest.raises(Conflict, match="rollout `r-1`"):
                await attempt()
        assert state.desired.version == 3
        await routes.apply(declare(notes="may change"), ORDER)
        assert (state.desired.routes[0].candidate, state.desired.routes[0].weight) == (B, 500)

    run(store, tmp_path, work)


def test_a_version_of_a_route_that_is_not_there_is_told(store: Store, tmp_path: Path) -> None:
    async def work(routes: RouteOperations, _: LiveState) -> None:
        for attempt in (
            lambda: routes.version("support", 2),
            lambda: routes.difference("support", 7, None),
            lambda: routes.difference("nobody", None, None),
        ):
            with pytest.raises(UnknownRoute):
                await attempt()

    run(store, tmp_path, work)
