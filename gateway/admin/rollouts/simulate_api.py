"""The admin API's path for gates: replay stored pairs through a proposed plan. Changes nothing."""

import asyncio
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.models.records import view_of
from gateway.admin.models.rollouts import REFUSALS, ReplayedRollout, SimulationView
from gateway.admin.operations import Operations
from gateway.rollout.explain import plan_line
from gateway.rollout.plan import Plan, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.record import RolloutRecord
from gateway.rollout.simulate import not_replayed, simulate
from gateway.store.pairs import Pairs
from gateway.store.rollouts import readable
from gateway.store.sql import Store

WEEK_SECONDS: Final = 7 * 24 * 3600
# The greatest number of rollouts in one simulation; each takes up to some seconds of one core.
MAX_ROLLOUTS: Final = 200


class Simulation(BaseModel):
    """Which rollouts are replayed, and through which gates."""

    model_config = ConfigDict(extra="forbid")

    plan: str | dict[str, Any] = Field(
        description="One line of text, or a mapping as a rollout's plan",
        examples=[{"shadow": {"pairs": 300, "gates": ["refusal", {"kl": {"limit": 0.5}}]}}],
    )
    since_seconds: int = Field(WEEK_SECONDS, ge=1, le=10 * 365 * 24 * 3600, description="Rollouts begun since then")
    alias: str | None = Field(None, description="Only those of this alias")


def add_simulation(app: FastAPI, operations: Operations) -> None:
    """Add the path that simulates gates to the control plane."""

    @app.post("/admin/v1/gates/simulate", tags=["rollouts"], responses=REFUSALS)
    async def simulate_gates(simulation: Simulation) -> SimulationView:
        """Replay stored pairs of past rollouts through a plan's gates, and say when each would have stopped."""
        plan = parse_plan(simulation.plan)
        if not any(stage.wants_pairs for stage in plan.stages):
            raise InvalidPlan(["plan: no stage reads pairs, so there is nothing to replay; give it a `shadow`"])
        since = operations.state.now() - simulation.since_seconds
        stored = await operations.rollouts.list_stored(simulation.alias, limit=MAX_ROLLOUTS)
        records = [each for each in map(readable, stored) if each.started_at >= since]
        store = operations.state.store
        rollouts = [await asyncio.to_thread(_replay_rollout, store, plan, record) for record in records]
        values = canonical(plan)
        return SimulationView(
            plan=values, plan_line=plan_line(values), not_replayed=list(not_replayed(plan)), rollouts=rollouts
        )


def _replay_rollout(store: Store, plan: Plan, record: RolloutRecord) -> ReplayedRollout:
    rollout = record.rollout
    pairs = Pairs(store).of(rollout.id)
    stop = simulate(plan, rollout, pairs, judged_share=record.judged_share)
    return view_of(ReplayedRollout, rollout, record, stored_pairs=len(pairs), simulated=stop)
