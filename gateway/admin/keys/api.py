"""The admin API's paths for keys. A key itself is shown only in the reply to the request that makes it."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from gateway.admin.keys.engine_field_rules import EngineFieldRules
from gateway.admin.models.keys import KeysView, KeyView, MadeKey, Revoked
from gateway.admin.models.routes import RefusalView
from gateway.admin.operations import Operations
from gateway.admin.paging import After, Limit, Place, page
from gateway.decide.authenticate import Role
from gateway.records.state import KeyRecord
from gateway.store.keys import OVERLAP_SECONDS, find_key, key_view

# A hundred years: a longer lifetime is a typing error, and not every system can represent such late times.
MAX_SECONDS: Final = 100 * 366 * 86_400
HIGHEST_LIMIT: Final = 1_000_000_000

KeyId = Annotated[
    str, InPath(description="The key's id, as `GET /admin/v1/keys` lists it", examples=["key-0a1b2c3d4e5f"])
]

_REFUSALS: Final[dict[int, str]] = {400: "Malformed", 404: "No such key", 409: "The key is out of use"}


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "role": "app",
                    "name": "helpdesk",
                    "models": ["support"],
                    "lifetime_seconds": 2_592_000,
                    "requests_per_minute": 60,
                    "tokens_per_minute": 10_000,
                }
            ]
        },
    )
    role: Role = Field(Role.APP, description="What it may do; each role may do what those before it may")
    name: str = Field("", max_length=100, description="A remark to know it by")
    models: list[str] | None = Field(
        None, description="The only models it may use, aliases or the base; null for all, an empty list for none"
    )
    lifetime_seconds: int | None = Field(
        None, ge=1, le=MAX_SECONDS, description="After so long it is refused; null for never"
    )
    requests_per_minute: int | None = Field(None, ge=1, le=HIGHEST_LIMIT, description="Null for no limit")
    tokens_per_minute: int | None = Field(
        None, ge=1, le=HIGHEST_LIMIT, description="Tokens of prompts and replies together; null for no limit"
    )
    engine_fields: EngineFieldRules = Field(
        EngineFieldRules(),
        description="Rules for fields that engines are sent, before the route's and the settings': `allow`, `deny`, "
        "or the largest number that may pass; see docs/security.md",
        examples=[{"media_urls": "allow", "n": 64}],
    )


class Rotation(BaseModel):
    """How a key is put in another's place."""

    model_config = ConfigDict(extra="forbid")
    overlap_seconds: int = Field(
        OVERLAP_SECONDS, ge=0, le=MAX_SECONDS, description="How long the old key is still good; 0 ends it at once"
    )


def _place(record: KeyRecord) -> Place:
    return record.created, record.id


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": RefusalView, "description": _REFUSALS[status]} for status in statuses}


def add_keys(app: FastAPI, operations: Operations) -> None:
    """Add the paths for keys to the control plane."""

    @app.get("/admin/v1/keys", tags=["keys"], response_model=KeysView)
    async def list_keys(*, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """Keys, oldest first, without the keys themselves."""
        found, cursor = page(operations.state.desired.keys, _place, after, limit)
        return {"keys": [key_view(record, operations.state.now()) for record in found], "next": cursor}

    @app.get("/admin/v1/keys/{key_id}", tags=["keys"], response_model=KeyView, responses=_refusals(404))
    async def show_key(key_id: KeyId) -> dict[str, Any]:
        """One key, without the key itself."""
        return key_view(find_key(operations.state.desired, key_id), operations.state.now())

    @app.post("/admin/v1/keys", tags=["keys"], status_code=201, response_model=MadeKey, responses=_refusals(400))
    async def create_key(new: NewKey, request: Request) -> dict[str, Any]:
        """Make a key; it is shown this once."""
        record, key = await operations.keys.create(
            new.role,
            new.name,
            new.models,
            lifetime_seconds=new.lifetime_seconds,
            requests_per_minute=new.requests_per_minute,
            tokens_per_minute=new.tokens_per_minute,
            engine_fields=new.engine_fields.to_rules(),
            by=request.state.caller,
        )
        return {**key_view(record, operations.state.now()), "key": key}

    refusals = _refusals(400, 404, 409)
    path = "/admin/v1/keys/{key_id}/rotate"

    @app.post(path, tags=["keys"], status_code=201, response_model=MadeKey, responses=refusals)
    async def rotate_key(key_id: KeyId, request: Request, how: Rotation | None = None) -> dict[str, Any]:
        """Make a key in another's place, with its role, models and limits; the old one goes on for the overlap."""
        overlap = how.overlap_seconds if how is not None else OVERLAP_SECONDS
        record, key = await operations.keys.rotate(key_id, overlap, by=request.state.caller)
        return {**key_view(record, operations.state.now()), "key": key}

    @app.delete("/admin/v1/keys/{key_id}", tags=["keys"], response_model=Revoked, responses=_refusals(404))
    async def revoke_key(key_id: KeyId, request: Request) -> dict[str, Any]:
        """Revoke a key; the next request with it is refused."""
        await operations.keys.revoke(key_id, by=request.state.caller)
        return {"revoked": key_id}
