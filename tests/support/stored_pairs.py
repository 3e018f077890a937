"""Pairs that are planted in a store, and plans that read them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from evaluators.observation import ScoredPair
from gateway.rollout.record import RolloutRecord
from gateway.store.pairs import Pairs, insert_pair
from gateway.store.sql import Store
from tests.support.rollout_world import ORDER, World
from tests.support.route_values import B

SHADOW: dict[str, Any] = {"pairs": 100, "max_pairs": 400, "share": "100%", "gates": ["refusal", {"kl": {"limit": 0.5}}]}
STEP: dict[str, Any] = {"weight": "10%", "min_time": 0, "min_samples": 0, "gates": []}


PLAN = {"shadow": SHADOW, "steps": [STEP, {"weight": "100%"}]}


def shadow(*gates: Any, **fields: Any) -> dict[str, Any]:
    return {"shadow": {**SHADOW, "gates": list(gates), **fields}, "steps": [STEP]}


def plant(store: Store, pairs: Iterable[ScoredPair]) -> list[ScoredPair]:
    """Store pairs as an evaluator does; returns them with their numbers."""
    book = Pairs(store)
    before = book.head()

    def work(connection: Connection) -> None:
        for each in pairs:
            insert_pair(connection, each, None)

    store.run_write(work)
    return book.since(before)


async def begun(world: World, plan: Any = PLAN) -> RolloutRecord:
    rollout_record = await world.rollouts.start("support", B, plan, ORDER)
    await world.look(0.1)  # who leads is known from here on
    return rollout_record
