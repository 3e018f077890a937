"""Turn errors of the control plane into HTTP replies, in OpenAI's error shape."""

from dataclasses import asdict
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adapters.artifact import InvalidArtifact
from adapters.catalog import UnknownVersion
from adapters.ports import HostUnavailable, LoadRefused, Unfit
from adapters.recipe import CannotFuse
from adapters.reference import InvalidReference
from adapters.sources import SourceError, SourceNotAllowed, SourceUnavailable
from adapters.verify import Refused
from gateway.admin.rollouts.operations import UnknownRollout
from gateway.admin.routes.files import InvalidRoutes
from gateway.admin.routes.operations import StateMoved, UnknownRoute
from gateway.admin.state import Conflict
from gateway.errors import LoragateError
from gateway.rollout.explain import InvalidHead, UnknownDecision
from gateway.rollout.plan_parser import InvalidPlan
from gateway.store.errors import StoreError, StoreTooNew, StoreUnavailable
from gateway.store.idempotency import KeyReused, KeyWasMade, StillRunning
from gateway.store.keys import KeyOutOfUse, UnknownKey

# HTTP status and error code by exception. The first that matches is used, so subclasses stand before their bases.
STATUS: Final[dict[type[Exception], tuple[int, str]]] = {
    InvalidReference: (400, "invalid_name"),
    SourceNotAllowed: (403, "source_not_allowed"),
    SourceUnavailable: (502, "source_unavailable"),
    SourceError: (422, "invalid_source"),
    Refused: (422, "invalid_adapter"),
    InvalidArtifact: (422, "invalid_adapter"),
    CannotFuse: (422, "cannot_fuse"),
    Unfit: (422, "fingerprint_failed"),
    LoadRefused: (422, "load_refused"),
    UnknownVersion: (404, "not_found"),
    UnknownKey: (404, "not_found"),
    KeyOutOfUse: (409, "conflict"),
    UnknownRoute: (404, "not_found"),
    UnknownRollout: (404, "not_found"),
    UnknownDecision: (404, "not_found"),
    InvalidHead: (400, "invalid_head"),
    InvalidPlan: (422, "invalid_plan"),
    InvalidRoutes: (422, "invalid_routes"),
    StateMoved: (412, "state_moved"),
    KeyReused: (422, "idempotency_key_reused"),
    StillRunning: (409, "idempotency_key_in_use"),
    KeyWasMade: (409, "key_was_made"),
    Conflict: (409, "conflict"),
    HostUnavailable: (503, "engine_unavailable"),
    StoreUnavailable: (503, "store_unavailable"),
    StoreTooNew: (503, "store_too_new"),
    StoreError: (500, "store_failed"),
    OSError: (507, "not_stored"),
    UnicodeEncodeError: (400, "invalid_request"),
    RecursionError: (400, "invalid_request"),
}

# Error codes for `HTTPException`s, which the framework raises, by status.
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
# `Retry-After` of a 503 if the error has no time of its own.
RETRY_SECONDS: Final = 2


def refusal(error: Exception) -> JSONResponse:
    """Return the HTTP reply for an error."""
    status, body = error_body(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}  # `Allow` of a 405
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        after = error.retry_after_seconds if isinstance(error, LoragateError) else None
        headers["retry-after"] = str(after or RETRY_SECONDS)
    return JSONResponse(body, status, headers)


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body for an error; for one that is not in `STATUS`, a 500 without its text."""
    if isinstance(error, LoragateError):
        return error.status, _body(error.message, error.code, error.type)
    if isinstance(error, HTTPException):
        return error.status_code, _body(str(error.detail), _CODES.get(error.status_code, "invalid_request"))
    if isinstance(error, RequestValidationError):
        problems = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return 400, _body(problems, "invalid_request")
    if isinstance(error, UnicodeEncodeError):  # JSON can escape a lone surrogate, which UTF-8 cannot encode
        return 400, _body(
            f"`{error.object[:100]}` is no text: a lone surrogate is in it; send UTF-8", "invalid_request"
        )
    if isinstance(error, RecursionError):
        return 400, _body("The body is nested too deeply; no value that is taken here is.", "invalid_request")
    for kind, (status, code) in STATUS.items():
        if isinstance(error, kind):
            remedy = f"; {error.remedy}" if isinstance(error, CannotFuse) else ""
            body = _body(f"{error}{remedy}", code)
            if isinstance(error, Refused):
                body["error"]["problems"] = [asdict(problem) for problem in error.report.problems]
            elif isinstance(error, InvalidRoutes | InvalidPlan):
                body["error"]["problems"] = [_printable(problem) for problem in error.problems]
            elif isinstance(error, CannotFuse):
                body["error"] |= {"reason": error.code, "remedy": error.remedy}
            return status, body
    return 500, _body("The gateway failed; its log says why.", "internal_error", "server_error")


def _body(message: str, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": _printable(message), "type": kind, "param": None, "code": code}}


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
