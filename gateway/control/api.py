"""The control port: the admin API, probes and metrics.

Deny by default: everything but a short allow-list needs an operator's key. A request
over the unix socket in the state folder needs none: who may open that socket is decided
by the file system, and it belongs to the user who runs the gateway.
"""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.control.adapters_api import add_adapters
from gateway.control.failures import STATUS, error_body
from gateway.control.operations import Operations
from gateway.decide.authenticate import Principal, Role, authenticate
from gateway.errors import Forbidden, LoragateError
from gateway.store.desired import KeyRecord, RouteRecord
from gateway.store.keys import principals

# Probes and scrapes come without a key; none of these shows a prompt or a key.
OPEN_PATHS: Final = frozenset(("/healthz", "/readyz", "/metrics"))


class NewSplit(BaseModel):
    """A candidate version and its share of the units, in basis points."""

    model_config = ConfigDict(extra="forbid")
    candidate: str | None = Field(None, description="Version, in full or a unique prefix; null ends the split")
    weight: int = Field(0, ge=0, le=10_000, description="Basis points, 0 to 10,000")


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")
    role: Role = Role.APP
    name: str = Field("", max_length=100)
    models: list[str] | None = Field(None, description="The only models the key may use; null for all")


class Probes:
    """What the probes and the scrape ask of the rest.

    Args:
        readiness: Returns whether requests can be served, and a line for each part.
        metrics: Returns the exposition.
        status: Returns everything about engines and workers, for people.
    """

    def __init__(
        self,
        readiness: Callable[[], tuple[bool, dict[str, str]]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self.readiness = readiness
        self.metrics = metrics
        self.status = status


def build_control(operations: Operations, probes: Probes, *, socket_path: str, with_keys: bool) -> FastAPI:
    """Return the control plane's application."""
    app = FastAPI(
        title="Loragate admin API",
        version="1",
        docs_url="/admin/docs",
        openapi_url="/admin/openapi.json",
        redoc_url=None,
    )
    _answer_errors(app)
    _guard(app, operations, socket_path, with_keys)
    _add_probes(app, probes)
    add_adapters(app, operations)
    _add_routes(app, operations)
    _add_keys(app, operations)
    return app


def _answer_errors(app: FastAPI) -> None:
    async def tell(_: Request, error: Exception) -> Response:
        status, body = error_body(error)
        return JSONResponse(body, status)

    for error_type in (*STATUS, LoragateError, HTTPException, RequestValidationError):
        app.add_exception_handler(error_type, tell)


def _guard(app: FastAPI, operations: Operations, socket_path: str, with_keys: bool) -> None:
    @app.middleware("http")
    async def check_operator(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        # Not `request.url`, which starlette puts together with the `Host` that the client sent.
        if request.scope["path"] not in OPEN_PATHS:
            try:
                request.state.caller, request.state.is_local = _operator(request, operations, socket_path, with_keys)
            except LoragateError as error:
                status, body = error_body(error)
                return JSONResponse(body, status)
        return await proceed(request)


def _operator(request: Request, operations: Operations, socket_path: str, with_keys: bool) -> tuple[str, bool]:
    """Return who the operator is, for the record, and whether they are this machine's own user."""
    server = request.scope.get("server")
    if server and server[0] == socket_path:
        return "local", True
    if not with_keys:
        _check_host(request.headers.get("host", ""))
        return "anyone", False
    credential = request.headers.get("authorization")
    caller: Principal = authenticate(
        credential.encode() if credential else None, principals(operations.state.desired.keys)
    )
    if not caller.is_at_least(Role.OPERATOR):
        raise Forbidden(
            f"The admin API needs a key of role `operator`; this one's is `{caller.role}`.", code="role_not_allowed"
        )
    return caller.id, False


def _check_host(host: str) -> None:
    """Refuse a name that is not this machine's: a web page could give its own a loopback address (DNS rebinding)."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        is_ours = ip_address(name).is_loopback
    except ValueError:
        is_ours = name == "localhost"
    if not is_ours:
        raise Forbidden(
            f"Without keys the admin API answers to this machine's names only, and `Host` is `{host[:100]}`; "
            "use http://127.0.0.1, or make keys.",
            code="host_not_allowed",
        )


def _add_probes(app: FastAPI, probes: Probes) -> None:
    @app.get("/healthz", tags=["probes"])
    async def is_alive() -> dict[str, str]:
        """Whether the control plane runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"])
    async def is_ready() -> Response:
        """Whether requests can be served: 200, or 503 with what is missing."""
        ready, parts = probes.readiness()
        return JSONResponse({"status": "ok" if ready else "not ready", **parts}, 200 if ready else 503)

    @app.get("/metrics", tags=["probes"])
    async def scrape() -> Response:
        """All series, in Prometheus's text format."""
        return Response(await probes.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/admin/v1/status", tags=["status"])
    async def status() -> dict[str, Any]:
        """Engines, workers and versions, as they are now."""
        return probes.status()


def _add_routes(app: FastAPI, operations: Operations) -> None:
    @app.get("/admin/v1/routes", tags=["routes"])
    async def list_routes() -> dict[str, Any]:
        """All aliases and their splits."""
        return {"routes": [_route_view(route) for route in operations.state.desired.routes]}

    @app.put("/admin/v1/routes/{alias}/split", tags=["routes"])
    async def split(alias: str, new: NewSplit) -> dict[str, Any]:
        """Give a candidate version a share of an alias's units."""
        return _route_view(await operations.split(alias, new.candidate, new.weight))


def _add_keys(app: FastAPI, operations: Operations) -> None:
    @app.get("/admin/v1/keys", tags=["keys"])
    async def list_keys() -> dict[str, Any]:
        """All keys, without the keys themselves."""
        return {"keys": [key_view(record) for record in operations.state.desired.keys]}

    @app.post("/admin/v1/keys", tags=["keys"], status_code=201)
    async def create_key(new: NewKey) -> dict[str, Any]:
        """Make a key; it is shown this once."""
        record, key = await operations.create_key(new.role, new.name, new.models)
        return {**key_view(record), "key": key}

    @app.delete("/admin/v1/keys/{key_id}", tags=["keys"])
    async def revoke_key(key_id: str) -> dict[str, Any]:
        """Revoke a key."""
        await operations.revoke_key(key_id)
        return {"revoked": key_id}


def key_view(record: KeyRecord) -> dict[str, Any]:
    """Return a key as it may be shown."""
    models = list(record.models) if record.models is not None else None
    return {"id": record.id, "role": record.role, "name": record.name, "models": models, "created": record.created}


def _route_view(route: RouteRecord) -> dict[str, Any]:
    return {
        "alias": route.alias, "control": route.control, "candidate": route.candidate, "weight": route.weight,
        "created": route.created,
    }  # fmt: skip
