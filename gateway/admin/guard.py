"""Authorize requests on the control port: one table of operations and roles, and the middleware that enforces it.

Deny by default. An operation that is missing from the table is refused to every caller. Whether a path exists
is shown only to callers who may read. The guard runs before everything else, so no body is read
of a request that its caller may not send.

A request over the unix socket in the state folder needs no key: the file system decides who may open
that socket, and it belongs to the user who runs the gateway.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.browsers import check_host, check_is_no_page
from gateway.admin.failures import refusal
from gateway.decide.authenticate import Principal, Role, caller_of
from gateway.errors import Forbidden, LoragateError
from gateway.records.state import KeyRecord
from gateway.store.keys import principals

# Probes and metrics scrapes need no key; none of these paths shows a prompt or a key.
OPEN_PATHS: Final = frozenset(("/healthz", "/readyz", "/metrics"))

_MAY_READ: Final = (
    "GET /admin/docs",
    "HEAD /admin/docs",
    "GET /admin/openapi.json",
    "HEAD /admin/openapi.json",
    "GET /admin/v1/status",
    "GET /admin/v1/adapters",
    "GET /admin/v1/adapters/{name}",
    "GET /admin/v1/routes",
    "GET /admin/v1/routes/{alias}",
    "GET /admin/v1/routes/{alias}/diff",
    "GET /admin/v1/routes/{alias}/history",
    "GET /admin/v1/routes/{alias}/history/{number}",
    "POST /admin/v1/routes/plan",  # changes nothing, and shows nothing that a viewer may not read
    "GET /admin/v1/rollouts",
    "GET /admin/v1/rollouts/{name}",
    "POST /admin/v1/gates/simulate",  # changes nothing
    "GET /admin/v1/journal",
    "GET /admin/v1/journal/verify",
    "GET /admin/v1/journal/{number}",
    "GET /admin/v1/decisions/{decision}",
    "GET /admin/v1/shadow",
    "GET /admin/v1/shadow/{alias}",
    "GET /admin/v1/keys",
    "GET /admin/v1/keys/{key_id}",  # the record of a key; the key itself is stored nowhere
)
_MAY_CHANGE_WHAT_IS_SERVED: Final = (
    "POST /admin/v1/adapters",
    "POST /admin/v1/adapters/fuse",
    "POST /admin/v1/adapters/scale",
    "DELETE /admin/v1/adapters/{name}",
    "PUT /admin/v1/routes",
    "POST /admin/v1/routes/{alias}/revert",
    "PUT /admin/v1/routes/{alias}/split",
    "POST /admin/v1/routes/{alias}/rollout",
    "POST /admin/v1/routes/{alias}/rollback",
    "POST /admin/v1/rollouts/{name}/approve",
    "POST /admin/v1/rollouts/{name}/pause",
    "POST /admin/v1/rollouts/{name}/resume",
    "POST /admin/v1/rollouts/{name}/promote",
    "POST /admin/v1/rollouts/{name}/abort",
)
# A caller who may make keys can make an admin's key, so this needs the highest role.
_MAY_MAKE_KEYS: Final = (
    "POST /admin/v1/keys",
    "POST /admin/v1/keys/{key_id}/rotate",
    "DELETE /admin/v1/keys/{key_id}",
)

# Returns prompts, and only to users of the unix socket; see `admin/shadow/memory_queue_api.py`.
_OWN_EVALUATOR: Final = ("POST /admin/v1/shadow/straight",)

# The lowest role that may use each operation; keys of roles `app` and `app:pin` may use none of them.
ROLES: Final[Mapping[str, Role]] = MappingProxyType(
    dict.fromkeys(_MAY_READ, Role.VIEWER)
    | dict.fromkeys(_MAY_CHANGE_WHAT_IS_SERVED, Role.OPERATOR)
    | dict.fromkeys((*_MAY_MAKE_KEYS, *_OWN_EVALUATOR), Role.ADMIN)
)

# The largest regular body is a file of routes: 10,000 routes with plans and notes take about 10 MB.
MAX_BODY_BYTES: Final = 16 << 20


class Guard:
    """ASGI middleware that passes a request on to the application if its caller's role allows the operation.

    It sets `request.state.caller` to the caller's id, `request.state.is_local` to whether the request came over the
    unix socket, and `request.state.operation` to the operation as `ROLES` writes it.

    Args:
        app: The application behind the guard.
        routes: The application's routes, in which the operation of a request is looked up.
        keys: Returns the present keys.
        now: Unix seconds.
        socket_path: Path of the unix socket, whose users are admins.
        with_keys: False when the gateway runs without authentication, on loopback.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Iterable[BaseRoute],
        keys: Callable[[], tuple[KeyRecord, ...]],
        now: Callable[[], float],
        socket_path: str,
        with_keys: bool,
    ) -> None:
        self._app = app
        self._routes = routes
        self._keys = keys
        self._now = now
        self._socket_path = socket_path
        self._with_keys = with_keys
        self._known: tuple[tuple[KeyRecord, ...], Mapping[bytes, Principal]] = ((), {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_client(scope)
        except LoragateError as error:
            await refusal(error)(scope, receive, send)
            return
        # The path is not taken from `request.url`, which starlette builds from the client's `Host` header.
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller, is_local = self._caller(scope)
            operation, others = operation_of(scope, self._routes)
            _check_role(caller, operation)
            if others:
                raise HTTPException(405, "Method Not Allowed", {"allow": ", ".join(others)})
            limited_receive = _limit_body(scope, receive)
        except (LoragateError, HTTPException) as error:
            await refusal(error)(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"caller": caller.id, "is_local": is_local, "operation": operation}
        await self._app(scope, limited_receive, send)

    def _is_local(self, scope: Scope) -> bool:
        server = scope.get("server")
        return server is not None and server[0] == self._socket_path

    def _check_client(self, scope: Scope) -> None:
        """Refuse a malformed `Host`; on a port without keys, also requests that a web page could send.

        Raises:
            BadRequest, Forbidden: The request is refused.
        """
        if self._is_local(scope):  # browsers cannot open a unix socket
            return
        headers = Headers(scope=scope)
        check_host(headers, is_open=not self._with_keys)
        if not self._with_keys:
            check_is_no_page(scope["method"], headers)

    def _caller(self, scope: Scope) -> tuple[Principal, bool]:
        """Return the caller, and whether the request came over the unix socket."""
        if self._is_local(scope):
            return Principal(id="local", role=Role.ADMIN), True
        if not self._with_keys:
            return Principal(id="anyone", role=Role.ADMIN), False
        return caller_of(dict(scope["headers"]), self._principals(), self._now), False

    def _principals(self) -> Mapping[bytes, Principal]:
        keys = self._keys()
        if keys is not self._known[0]:
            self._known = (keys, principals(keys))
        return self._known[1]


def operation_of(scope: Scope, routes: Iterable[BaseRoute]) -> tuple[str | None, list[str]]:
    """Return the operation of a request as `ROLES` writes it, such as `GET /admin/v1/keys`, and no methods.

    If no route serves the request: None, and the methods that its path has, which are none if the path does not exist.
    """
    others: dict[str, set[str]] = {}
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return f"{scope['method']} {getattr(route, 'path', '')}", []
        if match is Match.PARTIAL:  # collected here, since starlette's `Allow` has the methods of the first route only
            others.setdefault(getattr(route, "path", ""), set()).update(getattr(route, "methods", None) or ())
    closest = min(others, key=lambda path: path.count("{"), default="")
    return None, sorted(others.get(closest, ()))


def _check_role(caller: Principal, operation: str | None) -> None:
    """Refuse a caller whose role does not allow the operation; a path that does not exist needs the role of a viewer.

    Raises:
        Forbidden: The caller's role is too low, or `ROLES` does not name the operation.
    """
    role = Role.VIEWER if operation is None else ROLES.get(operation)
    if role is None:
        raise Forbidden(
            f"No role is declared for `{operation}`, so nobody may use it; this is a bug.", code="role_not_allowed"
        )
    if not caller.is_at_least(role):
        above = "" if role is Role.ADMIN else " or above"
        raise Forbidden(
            f"This needs a key of role `{role}`{above}; this one's is `{caller.role}`.", code="role_not_allowed"
        )


def _limit_body(scope: Scope, receive: Receive) -> Receive:
    """Return an ASGI `receive` that stops at `MAX_BODY_BYTES`.

    Raises:
        HTTPException: 413, at once if `Content-Length` says so, else when so many bytes have been read.
    """
    too_large = HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
        raise too_large
    received_bytes = 0

    async def receive_limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > MAX_BODY_BYTES:
            raise too_large
        return message

    return receive_limited
