"""Make the admin API's OpenAPI document, and add to it what operations have in common.

The modules of the paths describe parameters, replies and the refusals of single paths. Added here are the
role that each operation needs, the refusals that all operations share, and idempotency keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.admin.guard import OPEN_PATHS, ROLES
from gateway.admin.idempotent import HEADER, MAX_KEY, METHODS, REPLAYED, SHOW_A_KEY
from gateway.admin.models.routes import RefusalView

TITLE: Final = "Loragate admin API"
VERSION: Final = "1"
ABOUT: Final = """\
What an operator does with Loragate: adapters, routes, rollouts, the journal and keys.

* **Keys.** `Authorization: Bearer KEY`. Each operation says the least role that it needs; roles are `viewer`,
  `operator` and `admin`. `app` and `app:pin` may do nothing here. Over the unix socket in the state folder
  no key is needed.
* **Lists** come in pages: `limit`, and `next` of one page as the cursor of the next; `next` is null after the last.
* **Repeats.** With `Idempotency-Key`, a request that comes twice is carried out once.
* **Races.** `ETag` is the version of the state; send it as `If-Match`, and a change that somebody has overtaken is 412.
* **Errors** have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`; `code` is stable.
"""
TAGS: Final = (
    {"name": "adapters", "description": "Versions: register, fuse, scale, see and remove them."},
    {"name": "routes", "description": "What each alias serves: declared, planned, applied, and taken back."},
    {"name": "rollouts", "description": "A candidate's way to all the traffic, step by step, and the way back."},
    {"name": "shadow", "description": "What copies of requests tell of each version: scores, drift, noise, gates."},
    {"name": "journal", "description": "Who decided what, when, why and on which figures; chained by hash."},
    {"name": "keys", "description": "Who may do what: made, rotated and revoked."},
    {"name": "status", "description": "Engines, workers, store and replicas, as they are now."},
    {"name": "probes", "description": "For load balancers and Prometheus; no key is asked for."},
)

_KEY: Final = "key"
_REFUSAL: Final = f"#/components/schemas/{RefusalView.__name__}"
_SHARED: Final[Mapping[str, str]] = {
    "401": "No key, or one that is not known or has expired",
    "403": "The key's role does not allow it, or a name or source is not allowed",
    "500": "The gateway failed; its log says why",
    "503": "The store or an engine is away; try again after `Retry-After` seconds",
}
_OF_CHANGES: Final[Mapping[str, str]] = {
    "400": "Malformed",
    "409": "It does not fit the state as it is; or the first request with this idempotency key is being carried out",
    "413": "The body is too large",
    "422": "The idempotency key came with another request before",
}
_ETAG: Final = {"description": "The state's version, for `If-Match`", "schema": {"type": "string"}}


def refusals(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return `responses` of FastAPI for a path's own refusals, given as status → meaning."""
    return {status: {"model": RefusalView, "description": meaning} for status, meaning in meanings.items()}


def describe(app: FastAPI) -> None:
    """Replace the application's OpenAPI document by ours, which is made at the first request for it."""
    made: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        if not made:
            made.append(_make_document(app))
        return made[0]

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own page on extending OpenAPI does


def _make_document(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=TITLE,
        version=VERSION,
        summary="Adapters, routes, rollouts, journal and keys of a Loragate gateway.",
        description=ABOUT,
        routes=app.routes,
        tags=list(TAGS),
    )
    schemas = schema["components"]["schemas"]
    for path, method, operation in _operations(schema):
        _summarize(operation)
        _forget_the_frameworks_own(operation)
        if path in OPEN_PATHS:
            operation["security"] = []
        else:
            _add_role(operation, f"{method} {path}")
            _add_refusals(operation, _SHARED)
        if method in METHODS:
            _add_idempotency(operation, f"{method} {path}")
        elif _takes_something(operation):
            _add_refusals(operation, {"400": "Malformed"})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schema["components"]["securitySchemes"] = {
        _KEY: {"type": "http", "scheme": "bearer", "description": "A key of `loragate keys create`"}
    }
    schema["security"] = [{_KEY: []}]
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def _summarize(operation: dict[str, Any]) -> None:
    """Set the summary to the description's first paragraph; FastAPI would take the function's name."""
    text = operation.get("description", operation["summary"])
    operation["summary"] = text.split("\n\n")[0].replace("\n", " ").removesuffix(".")


def _forget_the_frameworks_own(operation: dict[str, Any]) -> None:
    """Remove FastAPI's 422 for malformed requests: this API answers them with 400, in OpenAI's error shape."""
    found = operation["responses"].get("422")
    if found is not None and "HTTPValidationError" in str(found):
        del operation["responses"]["422"]


def _takes_something(operation: dict[str, Any]) -> bool:
    return any("schema" in each for each in operation.get("parameters", ()))


def _add_role(operation: dict[str, Any], name: str) -> None:
    role = ROLES.get(name)
    if role is not None:  # an operation without a role is refused to everybody by the guard, and found by a test
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds role `{role}`.".lstrip()
        operation["x-role"] = role.value


def _add_refusals(operation: dict[str, Any], meanings: Mapping[str, str]) -> None:
    responses = operation["responses"]
    for status, meaning in meanings.items():
        content = {"application/json": {"schema": {"$ref": _REFUSAL}}}
        responses.setdefault(status, {"description": meaning, "content": content})
    operation["responses"] = dict(sorted(responses.items()))


def _add_idempotency(operation: dict[str, Any], name: str) -> None:
    operation.setdefault("parameters", []).append(
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "description": "Of your making, such as a UUID: a repeat is not carried out, but answered as the first was"
            + (", though without the key that was made: 409" if name in SHOW_A_KEY else "")
            + f"; the reply has the header `{REPLAYED}: true` then. Kept for a day.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]+$"},
        }
    )
    _add_refusals(operation, _OF_CHANGES)
    takes_version = any(each["name"] == "if-match" for each in operation["parameters"])
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            replayed = {"description": "`true` if this repeats an earlier reply", "schema": {"type": "string"}}
            response["headers"] = {REPLAYED: replayed} | ({"ETag": _ETAG} if takes_version else {})
