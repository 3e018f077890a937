"""The admin API's paths for rollouts and rollback."""

from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath

from gateway.admin.models.records import view_of
from gateway.admin.models.rollouts import (
    REFUSALS,
    Command,
    Gateways,
    NewRollout,
    Promotion,
    RatioView,
    ReadingView,
    Rollback,
    RollbackView,
    RolloutSummary,
    RolloutsView,
    RolloutView,
)
from gateway.admin.operations import Operations
from gateway.admin.paging import Before, Limit, Place, cut, page, place_of
from gateway.admin.rollouts.operations import Actor
from gateway.admin.rollouts.rollback import roll_back
from gateway.admin.routes.operations import is_name
from gateway.rollout.evidence import StageStanding
from gateway.rollout.explain import plan_line
from gateway.rollout.plan import canonical
from gateway.rollout.record import RolloutRecord
from gateway.store.errors import StoreError
from gateway.store.rollouts import readable

_Name = Annotated[
    str, InPath(description="A rollout's id, or the alias whose open rollout is meant", examples=["support"])
]
_Alias = Annotated[str, InPath(description="The name that clients send as `model`", examples=["support"])]


def add_rollouts(app: FastAPI, operations: Operations) -> None:
    """Add the paths for rollouts to the control plane."""
    _add_reading(app, operations)
    _add_commands(app, operations)
    _add_start_and_rollback(app, operations)


def _add_reading(app: FastAPI, operations: Operations) -> None:
    rollouts = operations.rollouts

    @app.get("/admin/v1/rollouts", tags=["rollouts"], responses=REFUSALS)
    async def list_rollouts(
        *,
        alias: Annotated[str | None, Query(description="Only those of this alias")] = None,
        open_only: Annotated[bool, Query(alias="open", description="Only those that are not over")] = False,
        before: Before = None,
        limit: Limit = 100,
    ) -> RolloutsView:
        """Rollouts, the newest first."""
        if open_only:  # open rollouts are part of the live state
            records = [each for each in operations.state.desired.rollouts if alias in (None, each.alias)]
            found, cursor = page((readable(each) for each in records), _place, before, limit, newest_first=True)
        elif alias is not None and not is_name(alias):  # it has no rollouts, and PostgreSQL rejects some texts
            found, cursor = [], None
        else:
            last = place_of(before)[1] if before is not None else None
            stored = [readable(each) for each in await rollouts.list_stored(alias, limit + 1, last)]
            found, cursor = cut(stored, _place, limit)
        return RolloutsView(rollouts=[summary(each) for each in found], next=cursor)

    @app.get("/admin/v1/rollouts/{name}", tags=["rollouts"], responses=REFUSALS)
    async def show_rollout(name: _Name) -> RolloutView:
        """One rollout with what its gates say now and what it waits for; of an alias the open one, else its last."""
        return await _view(operations, await rollouts.find(name))


def _add_commands(app: FastAPI, operations: Operations) -> None:
    rollouts = operations.rollouts

    @app.post("/admin/v1/rollouts/{name}/approve", tags=["rollouts"], responses=REFUSALS)
    async def approve_rollout(request: Request, name: _Name, command: Command) -> RolloutView:
        """Let the stage's `manual` gate pass."""
        return await _view(operations, await rollouts.approve(name, _order(request, command)))

    @app.post("/admin/v1/rollouts/{name}/pause", tags=["rollouts"], responses=REFUSALS)
    async def pause_rollout(request: Request, name: _Name, command: Command) -> RolloutView:
        """Hold a rollout where it is; a gate that fails still rolls it back."""
        return await _view(operations, await rollouts.pause(name, _order(request, command)))

    @app.post("/admin/v1/rollouts/{name}/resume", tags=["rollouts"], responses=REFUSALS)
    async def resume_rollout(request: Request, name: _Name, command: Command) -> RolloutView:
        """Begin the paused stage anew: its clock, its samples, its approval."""
        return await _view(operations, await rollouts.resume(name, _order(request, command)))

    @app.post("/admin/v1/rollouts/{name}/promote", tags=["rollouts"], responses=REFUSALS)
    async def promote_rollout(request: Request, name: _Name, command: Promotion) -> RolloutView:
        """Make the candidate the control."""
        order = _order(request, command)
        return await _view(operations, await rollouts.promote(name, order, is_early=command.early))

    @app.post("/admin/v1/rollouts/{name}/abort", tags=["rollouts"], responses=REFUSALS)
    async def abort_rollout(request: Request, name: _Name, command: Command) -> RolloutView:
        """End a rollout without a verdict; all traffic is the control's."""
        return await _view(operations, await rollouts.abort(name, _order(request, command)))


def _add_start_and_rollback(app: FastAPI, operations: Operations) -> None:
    @app.post("/admin/v1/routes/{alias}/rollout", tags=["rollouts"], status_code=201, responses=REFUSALS)
    async def start_rollout(request: Request, alias: _Alias, new: NewRollout) -> RolloutView:
        """Begin to roll a version out by plan. An alias has one open rollout at most."""
        order = Actor(by=request.state.caller, reason=new.reason)
        record = await operations.rollouts.start(alias, new.candidate, new.plan, order, override=new.override)
        return await _view(operations, record)

    @app.post("/admin/v1/routes/{alias}/rollback", tags=["rollouts"], responses=REFUSALS)
    async def rollback_alias(request: Request, alias: _Alias, command: Rollback) -> RollbackView:
        """Take back what an alias has got last: its rollout's candidate, its split's, or its control.

        Answered when every worker of every gateway serves from it, or after a second: `gateways` tells.
        """
        order = Actor(by=request.state.caller, reason=command.reason, sequence=command.sequence)
        restored = await roll_back(operations.rollouts, alias, order, command.to)
        gateways = await _gateways(operations)
        return view_of(RollbackView, restored, alias=alias, control=restored.after.control, gateways=gateways)


async def _gateways(operations: Operations) -> Gateways | None:
    try:
        serving, of = await operations.everywhere(operations.state.desired.version)
    except StoreError:  # the rollback is stored and in force here; only the other gateways' state is unknown
        return None
    return Gateways(serving=serving, of=of)


def _place(record: RolloutRecord) -> Place:
    return int(record.started_at * 1000), record.rollout.id


def _order(request: Request, command: Command) -> Actor:
    return Actor(by=request.state.caller, reason=command.reason, sequence=command.sequence)


def summary(record: RolloutRecord) -> RolloutSummary:
    """Return the summary of a rollout, without its gates' readings."""
    rollout = record.rollout
    return view_of(RolloutSummary, rollout, record, rollout.plan, stages=len(rollout.plan.stages), started_by=record.by)


async def _view(operations: Operations, record: RolloutRecord) -> RolloutView:
    rollout = record.rollout
    now = operations.state.now()
    standing: StageStanding | None = None
    problem: str | None = None
    if not rollout.is_over:
        try:
            standing = await operations.rollouts.standing(record)
        except StoreError as error:
            problem = str(error)
    plan = canonical(rollout.plan)
    return RolloutView(
        **dict(summary(record)),
        home=rollout.home,
        plan=plan,
        plan_line=plan_line(plan),
        problem=problem,
        seconds_in_stage=None if rollout.current is None else max(0.0, now - rollout.entered_at),
        samples=standing.samples if standing else None,
        gates=[ReadingView.model_validate(each) for each in standing.readings] if standing else None,
        ratio=RatioView.model_validate(standing.ratio) if standing else None,
        threshold_seconds=record.threshold_seconds,
        waits_for=list(standing.waits_for) if standing else [],
        warnings=list(standing.warnings) if standing else [],
    )
