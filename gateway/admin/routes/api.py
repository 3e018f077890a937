"""The admin API's paths for routes: list, plan, apply, split, history and revert."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath

from gateway.admin.models.routes import (
    HIGHEST_NUMBER,
    AppliedView,
    DifferenceView,
    HistoryView,
    NewSplit,
    PlanView,
    RefusalView,
    Revert,
    RouteInUse,
    RoutesApplication,
    RoutesDeclaration,
    RoutesView,
    RouteVersionView,
    RouteView,
)
from gateway.admin.operations import Operations
from gateway.admin.paging import After, Limit, Place, page
from gateway.admin.routes.files import Declaration, parse_routes
from gateway.admin.routes.operations import ChangeRequest, RouteDifference
from gateway.admin.routes.plan import RoutePlan, compare
from gateway.records.routes import RouteRecord, RouteVersion

Alias = Annotated[str, InPath(description="The name that clients send as `model`", examples=["support"])]
Number = Annotated[int, InPath(ge=1, le=HIGHEST_NUMBER, description="The version's number, from 1")]
IfMatch = Annotated[
    str,
    Header(
        pattern=r'^(\*|"?[0-9]{1,18}"?)$',
        description="Do it only if the state is still at this version, as in `ETag` or a plan's `version`; "
        "else 412. Without it, or with `*`, it applies to the state as it is.",
        examples=['"17"'],
    ),
]

_REFUSALS: Final[dict[int, str]] = {
    400: "Malformed",
    404: "No such alias or version",
    409: "It does not fit the state as it is",
    412: "The state has moved on from the version in `If-Match`",
    422: "Invalid routes: every problem at once",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": RefusalView, "description": _REFUSALS[status]} for status in statuses}


def add_routes(app: FastAPI, operations: Operations) -> None:
    """Add the paths for routes to the control plane."""
    _add_reading(app, operations)
    _add_history(app, operations)
    _add_changing(app, operations)


def _add_reading(app: FastAPI, operations: Operations) -> None:
    @app.get("/admin/v1/routes", tags=["routes"], response_model=RoutesView)
    async def list_routes(*, response: Response, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """Aliases in their order, and what they serve. `ETag` is the state's version."""
        desired = operations.state.desired
        response.headers["etag"] = _tag(desired.version)
        found, cursor = page(desired.routes, _place, after, limit)
        routes = [_route_view(operations, route) for route in found]
        return {"version": desired.version, "routes": routes, "next": cursor}

    @app.get("/admin/v1/routes/{alias}", tags=["routes"], response_model=RouteView, responses=_refusals(404))
    async def show_route(alias: Alias, response: Response) -> RouteInUse:
        """One alias. `ETag` is the state's version."""
        route = operations.routes.find(alias)
        response.headers["etag"] = _tag(operations.state.desired.version)
        return _route_view(operations, route)


def _add_history(app: FastAPI, operations: Operations) -> None:
    refusals = _refusals(400, 404)

    @app.get("/admin/v1/routes/{alias}/history", tags=["routes"], response_model=HistoryView, responses=refusals)
    async def list_route_versions(
        alias: Alias,
        before: Annotated[int | None, Query(ge=1, le=HIGHEST_NUMBER, description="Only versions below this")] = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """An alias's versions with who, when and why, the newest first; also of one that was removed."""
        found = await operations.routes.history(alias, before=before, limit=limit + 1)
        older = (*found[1:], None) if found else ()
        items = [
            {**_version_view(each), "changes": msgspec.to_builtins(compare(old.route if old else None, each.route))}
            for each, old in zip(found, older, strict=True)
        ][:limit]
        return {"alias": alias, "versions": items, "next": found[limit - 1].number if found[limit:] else None}

    @app.get(
        "/admin/v1/routes/{alias}/history/{number}",
        tags=["routes"],
        response_model=RouteVersionView,
        responses=refusals,
    )
    async def show_route_version(alias: Alias, number: Number) -> dict[str, Any]:
        """One version of an alias's route."""
        return _version_view(await operations.routes.version(alias, number))

    @app.get("/admin/v1/routes/{alias}/diff", tags=["routes"], response_model=DifferenceView, responses=refusals)
    async def compare_route_versions(
        alias: Alias,
        first: Annotated[
            int | None, Query(alias="from", ge=0, le=HIGHEST_NUMBER, description="Default: the one before `to`")
        ] = None,
        second: Annotated[
            int | None, Query(alias="to", ge=1, le=HIGHEST_NUMBER, description="Default: the newest")
        ] = None,
    ) -> dict[str, Any]:
        """What changed between two versions of an alias's route."""
        return _difference_view(alias, await operations.routes.difference(alias, first, second))


def _add_changing(app: FastAPI, operations: Operations) -> None:
    @app.post("/admin/v1/routes/plan", tags=["routes"], response_model=PlanView, responses=_refusals(400, 422))
    async def plan_routes(new: RoutesDeclaration) -> dict[str, Any]:
        """What applying these routes would change, and what that means for traffic; nothing is changed."""
        return operations.routes.plan(await _read(new)).view()

    @app.put("/admin/v1/routes", tags=["routes"], response_model=AppliedView, responses=_refusals(400, 409, 412, 422))
    async def apply_routes(
        request: Request, response: Response, new: RoutesApplication, if_match: IfMatch = "*"
    ) -> dict[str, Any]:
        """Make the routes as declared, all or none. Applying the same again changes nothing."""
        order = ChangeRequest(by=request.state.caller, reason=new.reason, if_version=_version_in(if_match))
        declaration = await _read(new)
        return _answer_change(await operations.routes.apply(declaration, order), order, response)

    @app.post(
        "/admin/v1/routes/{alias}/revert",
        tags=["routes"],
        response_model=AppliedView,
        responses=_refusals(400, 404, 409, 412),
    )
    async def revert_route(
        request: Request, response: Response, alias: Alias, to: Revert, if_match: IfMatch = "*"
    ) -> dict[str, Any]:
        """Make an alias's route as it was in one of its versions; that is a new version."""
        order = ChangeRequest(by=request.state.caller, reason=to.reason, if_version=_version_in(if_match))
        return _answer_change(await operations.routes.revert(alias, to.number, order), order, response)

    @app.put(
        "/admin/v1/routes/{alias}/split",
        tags=["routes"],
        response_model=RouteView,
        responses=_refusals(400, 404, 409, 412),
    )
    async def split_route(
        request: Request, response: Response, alias: Alias, new: NewSplit, if_match: IfMatch = "*"
    ) -> RouteInUse:
        """Give a candidate version a share of an alias's units."""
        order = ChangeRequest(by=request.state.caller, if_version=_version_in(if_match))
        route = await operations.routes.split(alias, new.candidate, new.weight, order)
        response.headers["etag"] = _tag(operations.state.desired.version)
        return _route_view(operations, route)


async def _read(new: RoutesDeclaration) -> Declaration:
    """Parse a declaration in a thread, since it may have thousands of routes."""
    return await asyncio.to_thread(parse_routes, {"routes": new.routes, "prune": new.prune})


def _place(route: RouteRecord) -> Place:
    return 0, route.alias


def _answer_change(plan: RoutePlan, order: ChangeRequest, response: Response) -> dict[str, Any]:
    version = plan.version + bool(plan.changes)
    response.headers["etag"] = _tag(version)
    return {"plan": plan.view(), "version": version, "checked": order.if_version is not None}


def _tag(version: int) -> str:
    return f'"{version}"'


def _version_in(if_match: str) -> int | None:
    """Return the version that `If-Match` requires; None if it is `*`."""
    return None if if_match == "*" else int(if_match.strip('"'))


def _route_view(operations: Operations, route: RouteRecord) -> RouteInUse:
    rollout = operations.state.desired.rollout(route.alias)
    return RouteInUse(**msgspec.structs.asdict(route), rollout=rollout.id if rollout is not None else None)


def _version_view(version: RouteVersion) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(version)
    return values


def _difference_view(alias: str, found: RouteDifference) -> dict[str, Any]:
    return {
        "alias": alias,
        "from_": found.first.number if found.first is not None else 0,
        "to": found.second.number,
        "changes": msgspec.to_builtins(found.fields),
    }
