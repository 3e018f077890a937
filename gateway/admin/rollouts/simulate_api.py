"""The admin API's path for gates: replay stored pairs through a proposed plan. Changes nothing."""

import asyncio
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.models.rollouts import REFUSALS, LastView, ReadingView
from gateway.admin.operations import Operations
from gateway.rollout.explain import plan_line
from gateway.rollout.plan import Plan, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.record import RolloutRecord
from gateway.rollout.rollout import Phase
from gateway.rollout.simulate import Outcome, Stop, not_replayed, simulate
from gateway.store.pairs import Pairs
from gateway.store.rollouts import readable
from gateway.store.sql import Store

WEEK_SECONDS: Final = 7 * 24 * 3600
# Each takes up to some seconds of one core.
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


class StopView(BaseModel):
    """When a rollout would have stopped under the plan."""

    outcome: Outcome
    pairs: int = Field(description="Compared pairs that it would have taken")
    number: int | None = Field(description="Number of the last of them in the store; null without any")
    at: float | None = Field(description="When that was compared, Unix seconds")
    gate: str | None = Field(description="The gate that stops it, if one does")
    why: str
    gates: list[ReadingView]


class ReplayedRollout(BaseModel):
    """A past rollout: what would have been, and what was."""

    id: str
    alias: str
    control: str
    candidate: str
    started_at: float = Field(description="Unix seconds")
    stored_pairs: int = Field(description="Pairs of it that there are still, noise included")
    simulated: StopView
    phase: Phase = Field(description="How it really stands, or ended")
    last: LastView


class SimulationView(BaseModel):
    """What a plan's gates make of past rollouts, the newest first."""

    plan: dict[str, Any] = Field(description="In canonical form")
    plan_line: str
    not_replayed: list[str] = Field(description="Gates of the plan that need live traffic or a person")
    rollouts: list[ReplayedRollout]


def add_simulation(app: FastAPI, operations: Operations) -> None:
    """Add the path that simulates gates to the control plane."""

    @app.post("/admin/v1/gates/simulate", tags=["rollouts"], responses=REFUSALS)
    async def simulate_gates(given: Simulation) -> SimulationView:
        """Replay stored pairs of past rollouts through a plan's gates, and say when each would have stopped."""
        plan = parse_plan(given.plan)
        if not any(stage.wants_pairs for stage in plan.stages):
            raise InvalidPlan(["plan: no stage reads pairs, so there is nothing to replay; give it a `shadow`"])
        since = operations.state.now() - given.since_seconds
        stored = await operations.rollouts.stored(given.alias, limit=MAX_ROLLOUTS)
        records = [each for each in map(readable, stored) if each.started_at >= since]
        store = operations.state.store
        rollouts = [await asyncio.to_thread(_replayed, store, plan, record) for record in records]
        values = canonical(plan)
        return SimulationView(
            plan=values, plan_line=plan_line(values), not_replayed=list(not_replayed(plan)), rollouts=rollouts
        )


def _replayed(store: Store, plan: Plan, record: RolloutRecord) -> ReplayedRollout:
    rollout = record.rollout
    pairs = Pairs(store).of(rollout.id)
    return ReplayedRollout(
        id=rollout.id,
        alias=rollout.alias,
        control=rollout.control,
        candidate=rollout.candidate,
        started_at=record.started_at,
        stored_pairs=len(pairs),
        simulated=_stop_view(simulate(plan, rollout, pairs, judged_share=record.judged_share)),
        phase=rollout.phase,
        last=LastView.model_validate(record.last),
    )


def _stop_view(stop: Stop) -> StopView:
    return StopView(
        outcome=stop.outcome,
        pairs=stop.pairs,
        number=stop.number,
        at=stop.at,
        gate=stop.gate,
        why=stop.why,
        gates=[ReadingView.model_validate(each) for each in stop.readings],
    )
