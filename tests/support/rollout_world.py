"""Rollouts on a real SQLite store, with workers and engines that are told and remembered."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.admin.rollouts.conductor import Conductor
from gateway.admin.rollouts.operations import Actor, RolloutOperations
from gateway.admin.state import LiveState
from gateway.observe.ledger import Cell
from gateway.observe.tally import Tally
from gateway.records.state import Desired
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.record import Last, RolloutRecord
from gateway.rollout.replay import KIND, replay
from gateway.rollout.rollout import Phase, Rollout
from gateway.rollout.rules import RULES
from gateway.store.leader import Leader
from gateway.store.rollouts import readable
from gateway.store.sql import Store
from tests.support.live_state import Engines, Workers
from tests.support.route_values import ENTRIES, SUPPORT, A, B
from tests.support.stores import open_empty_store
from tests.support.unit_counts import by_unit

T = TypeVar("T")


ORDER = Actor(by="key-1", reason="a better tone")


STEPS = {"min_time": "10s", "min_samples": 50, "gates": [{"error_rate": {"margin": "20%"}}]}


RAMP = {"steps": [{"weight": "10%", **STEPS}, {"weight": "50%", **STEPS}, {"weight": "100%"}]}


class World:
    """One gateway, its clock, what has been counted, and who leads."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.now = 1e9
        self.tallies: list[Tally] = []
        self.fence: int | None = None
        self.cells: list[Cell] = []
        world = self

        class Counting(Workers):
            async def collect(self) -> list[Cell]:
                return world.cells

        self.store = store
        self.state = LiveState(
            folder,
            store,
            store.read_state(),
            Counting(),
            Engines(),
            with_keys=True,
            now=lambda: self.now,
            rollback_seconds=1,
        )
        self.rollouts = RolloutOperations(self.state, self.gather, new_id=iter([f"ro-{n}" for n in range(9)]).__next__)
        self.leader = Leader(store, "test")
        self.conductor = Conductor(self.rollouts, self.leader, clock=lambda: self.now)

    async def gather(self) -> list[Tally]:
        return self.tallies

    async def look(self, seconds: float = 10.0) -> None:
        self.now += seconds
        await self.conductor.look()

    def count(
        self, stage: int, *, n: int = 200, errors: int = 0, control: int = 200, units: tuple[int, int] = (0, 0)
    ) -> None:
        """Let the rollout `ro-0` have these counts of a stage."""
        tally = Tally(rollout="ro-0", stage=stage, alias="support")
        tally.candidate.requests, tally.candidate.errors, tally.control.requests = n, errors, control
        tally.candidate.by_unit, tally.control.by_unit = by_unit(n, errors), by_unit(control, 0)
        tally.units.control, tally.units.candidate = set(range(units[0])), set(range(units[1]))
        self.tallies = [tally]

    def route(self) -> tuple[str, str | None, int]:
        (route,) = self.store.read_state().routes
        return route.control, route.candidate, route.weight

    def rollout(self, id_: str = "ro-0") -> Rollout:
        return next(readable(each).rollout for each in self.store.rollouts() if each.id == id_)

    def replayed(self, id_: str = "ro-0") -> Rollout:
        records = [each.record for each in self.store.journal()]
        return replay(each for each in records if each["kind"] == KIND and each["rollout"] == id_)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_empty_store(tmp_path, now=lambda: 1e9)
    store.write_state(Desired(adapters=ENTRIES, routes=(SUPPORT,)), expected=0)
    yield store
    store.close()


def run(store: Store, folder: Path, work: Callable[[World], Awaitable[T]]) -> T:
    """Do `work` on a gateway that has just read the store."""

    async def live() -> T:
        return await work(World(folder, store))

    return asyncio.run(live())


def make_record(plan: object = RAMP, **fields: Any) -> RolloutRecord:
    rollout = Rollout(
        id="ro-0",
        alias="support",
        control=A,
        candidate=B,
        plan=parse_plan(plan),
        home=A,
        phase=Phase.CANARY,
        stage=1,
        weight=5_000,
        entered_at=100.0,
    )
    values: dict[str, Any] = {
        "by": "k",
        "reason": "r",
        "started_at": 1.0,
        "last": Last(at=1.0, by="k", event="Started"),
        "rules": RULES,
    }
    return RolloutRecord(rollout=rollout, **{**values, **fields})
