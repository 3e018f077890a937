"""The admin API's paths for adapters. Long operations stream their progress if the client accepts that."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from adapters.catalog import Entry
from adapters.recipe import Method, Parent, Recipe
from gateway.admin.adapters.intake import Progress
from gateway.admin.adapters.registration import Registration
from gateway.admin.failures import error_body
from gateway.admin.models.adapters import AdapterDetail, AdaptersView, AdapterView, RemovedView
from gateway.admin.models.records import view_of
from gateway.admin.models.routes import ALIAS, ALIAS_OR_VERSION
from gateway.admin.openapi import refusals
from gateway.admin.operations import Operations
from gateway.admin.paging import After, Limit, Place, page

log = logging.getLogger("loragate.admin")

# A client that accepts this type gets lines of JSON, each `{"progress": …}`, the last `{"result": …}` or
# `{"error": …}`.
PROGRESS_TYPE: Final = "application/x-ndjson"
# Notes are part of the state, which is sent and copied as a whole at every change, so they are short.
MAX_NOTES: Final = 10_000
# The shortest time between two lines of progress.
_LINE_SECONDS: Final = 0.1

_REFUSALS: Final = {
    400: "Malformed, or no name for an adapter",
    404: "No such alias or version",
    409: "It does not fit the state as it is",
    422: "The adapter or the recipe is refused: every problem at once",
    502: "The source cannot be reached",
    507: "It cannot be written to disk",
}
_MADE: Final[dict[str, Any]] = {
    "content": {
        PROGRESS_TYPE: {
            "schema": {
                "type": "string",
                "description": "If `Accept` asks for it: a line of JSON each time there is something to tell, "
                '`{"progress": {"stage", "done", "total"}}`, the last `{"result": …}` or `{"error": …, "status": …}`',
            }
        }
    }
}
_MAKING: Final[dict[str, Any]] = {
    "response_model": AdapterView,
    "status_code": 201,
    "responses": {201: _MADE, **refusals(_REFUSALS)},
}


AliasOrVersion = Annotated[
    str,
    InPath(
        description="Alias or version",
        json_schema_extra=ALIAS_OR_VERSION,
        examples=["support", "support@3f2a9c81d0e4"],
    ),
]


class _New(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="Alias that clients send as `model`", json_schema_extra=ALIAS, examples=["support"])
    notes: str = Field("", max_length=MAX_NOTES)


class NewAdapter(_New):
    """An adapter, and the name to register it under."""

    source: str = Field(
        validation_alias=AliasChoices("source", "path"),
        description="Absolute folder or archive on the gateway's machine, or a URL below one of `adapters.sources`",
    )
    digest: str | None = Field(None, description="Digest that the content must have: 64 hex digits, or 12 or more")
    activate: bool = Field(True, description="Point the alias at it; else it is only registered")
    allow_no_op: bool = Field(False, description="Register it even if it adds nothing to the base")


class FusionParent(BaseModel):
    """One version that goes in."""

    model_config = ConfigDict(extra="forbid")
    version: str = Field(description="Alias or version", json_schema_extra=ALIAS_OR_VERSION)
    weight: float = 1.0


class NewFusion(_New):
    """How to make one version out of several."""

    parents: list[FusionParent]
    method: Method
    rank: int | None = None
    density: float | None = None
    seed: int | None = None
    activate: bool | None = Field(None, description="Point the alias at it; null: only if the alias is new")


class NewScale(BaseModel):
    """How much of a version's effect to keep."""

    model_config = ConfigDict(extra="forbid")
    version: str = Field(description="Alias or version", json_schema_extra=ALIAS_OR_VERSION)
    factor: float
    name: str | None = Field(
        None, description="Alias to register it under; the parent's if not given", json_schema_extra=ALIAS
    )
    notes: str = Field("", max_length=MAX_NOTES)
    activate: bool | None = Field(None, description="Point the alias at it; null: only if the alias is new")


def add_adapters(app: FastAPI, operations: Operations) -> None:
    """Add the paths for adapters to the control plane."""
    _add_reading(app, operations)

    @app.post("/admin/v1/adapters", tags=["adapters"], **_MAKING)
    async def add_adapter(request: Request, new: NewAdapter) -> Response:
        """Register an adapter, load it on every engine that should hold it, and point its alias at it."""
        order = Registration(
            name=new.name, by=request.state.caller, notes=new.notes, activate=new.activate, may_be_null=new.allow_no_op
        )
        any_local = bool(request.state.is_local)

        async def work(progress: Progress) -> Entry:
            return await operations.adapters.add(
                new.source, order, any_local=any_local, digest=new.digest, progress=progress
            )

        return await _answer(request, operations, work)

    @app.post("/admin/v1/adapters/fuse", tags=["adapters"], **_MAKING)
    async def fuse_adapters(request: Request, new: NewFusion) -> Response:
        """Make a new version out of registered ones."""
        order = Registration(name=new.name, by=request.state.caller, notes=new.notes, activate=new.activate)
        recipe = Recipe(
            method=new.method,
            rank=new.rank,
            density=new.density,
            seed=new.seed,
            parents=tuple(Parent(version=each.version, weight=each.weight) for each in new.parents),
        )
        return await _answer(request, operations, lambda progress: operations.adapters.fuse(recipe, order, progress))

    @app.post("/admin/v1/adapters/scale", tags=["adapters"], **_MAKING)
    async def scale_adapter(request: Request, new: NewScale) -> Response:
        """Make a version with more or less of another's effect."""
        name = new.name or operations.state.resolve(new.version).ref.name
        order = Registration(name=name, by=request.state.caller, notes=new.notes, activate=new.activate)
        return await _answer(
            request, operations, lambda progress: operations.adapters.scale(new.version, new.factor, order, progress)
        )

    removal_refusals = refusals({status: _REFUSALS[status] for status in (400, 404, 409)})

    @app.delete("/admin/v1/adapters/{name}", tags=["adapters"], response_model=RemovedView, responses=removal_refusals)
    async def remove_adapter(request: Request, name: AliasOrVersion) -> dict[str, Any]:
        """Remove an alias with all its versions, or a version that nothing serves."""
        return {"removed": list(await operations.adapters.remove(name, by=request.state.caller))}


def _add_reading(app: FastAPI, operations: Operations) -> None:
    @app.get("/admin/v1/adapters", tags=["adapters"], response_model=AdaptersView)
    async def list_adapters(*, after: After = None, limit: Limit = 100) -> AdaptersView:
        """Registered versions, oldest first."""
        serves: dict[str, list[str]] = {}
        for route in operations.state.desired.routes:
            for version in {route.control, route.candidate} - {None}:
                serves.setdefault(str(version), []).append(route.alias)
        found, cursor = page(operations.state.catalog, _place, after, limit)
        views = [_view(entry, serves.get(entry.ref.version, [])) for entry in found]
        return AdaptersView(adapters=views, next=cursor)

    unknown = refusals({status: _REFUSALS[status] for status in (400, 404)})

    @app.get("/admin/v1/adapters/{name}", tags=["adapters"], response_model=AdapterDetail, responses=unknown)
    async def show_adapter(name: AliasOrVersion) -> dict[str, Any]:
        """One version, or the one that an alias serves now, with what each engine makes of it."""
        entry = operations.state.resolve(name)
        standing = operations.state.engines.standing(entry.ref.version)
        return {**adapter_view(operations, entry).model_dump(), "engines": standing}


def _place(entry: Entry) -> Place:
    return entry.created, entry.ref.version


async def _answer(request: Request, operations: Operations, work: Callable[[Progress], Awaitable[Entry]]) -> Response:
    if PROGRESS_TYPE in request.headers.get("accept", ""):
        return StreamingResponse(_lines(operations, work), media_type=PROGRESS_TYPE)
    entry = await work(_silent)
    return JSONResponse(adapter_view(operations, entry).model_dump(mode="json"), 201)


def _silent(stage: str, done: int = 0, total: int | None = None) -> None:
    """Ignore progress, for a client that waits for the result alone."""


async def _lines(operations: Operations, work: Callable[[Progress], Awaitable[Entry]]) -> AsyncIterator[bytes]:
    """Yield lines of progress, then the result. The work is cancelled if the client disconnects."""
    progress: dict[str, Any] = {}
    task = asyncio.ensure_future(
        work(lambda stage, done=0, total=None: progress.update(stage=stage, done=done, total=total))
    )
    sent_progress: dict[str, Any] = {}
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_LINE_SECONDS)
            if progress != sent_progress:
                sent_progress = dict(progress)
                yield _line({"progress": sent_progress})
        try:
            yield _line({"result": adapter_view(operations, task.result()).model_dump(mode="json")})
        except Exception as error:
            status, body = error_body(error)
            if status == 500:
                log.exception("an operation failed; this is a bug")
            yield _line({**body, "status": status})
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def adapter_view(operations: Operations, entry: Entry) -> AdapterView:
    """Return a version as the admin API shows it."""
    version = entry.ref.version
    aliases = [route.alias for route in operations.state.desired.routes if version in (route.control, route.candidate)]
    return _view(entry, aliases)


def _view(entry: Entry, aliases: list[str]) -> AdapterView:
    return view_of(
        AdapterView,
        entry,
        entry.manifest,
        version=entry.ref.version,
        name=entry.ref.name,
        reason=entry.reason or None,
        serves=aliases,
        scorable=entry.manifest.is_scorable,
        signed_by=entry.signed_by or None,
        difference=entry.difference or None,
        parents=entry.recipe.parents if entry.recipe is not None else [],
    )
