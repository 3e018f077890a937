"""What each refusal of the control plane is to an HTTP client, in OpenAI's error shape."""

from dataclasses import asdict
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from adapters.artifact import InvalidArtifact
from adapters.catalog import UnknownVersion
from adapters.ports import HostUnavailable, LoadRefused, Unfit
from adapters.recipe import CannotFuse
from adapters.reference import InvalidReference
from adapters.sources import SourceError, SourceNotAllowed, SourceUnavailable
from adapters.verify import Refused
from gateway.control.state import Conflict
from gateway.errors import LoragateError
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keys import UnknownKey

# Subclasses before what they derive from: the first that fits is it.
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
    Conflict: (409, "conflict"),
    HostUnavailable: (503, "engine_unavailable"),
    StoreUnavailable: (503, "store_unavailable"),
    StoreError: (500, "store_failed"),
    OSError: (507, "not_stored"),
    UnicodeEncodeError: (400, "invalid_request"),
}


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body for an error; 500 without its text for one that is not ours."""
    if isinstance(error, LoragateError):
        return error.status, _body(error.message, error.code, error.type)
    if isinstance(error, HTTPException):
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return error.status_code, _body(str(error.detail), code)
    if isinstance(error, RequestValidationError):
        problems = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return 400, _body(problems, "invalid_request")
    if isinstance(error, UnicodeEncodeError):  # JSON can name half of a character, and no file or reply can hold it
        return 400, _body(
            f"`{error.object[:100]}` is no text: a lone surrogate is in it; send UTF-8", "invalid_request"
        )
    for kind, (status, code) in STATUS.items():
        if isinstance(error, kind):
            remedy = f"; {error.remedy}" if isinstance(error, CannotFuse) else ""
            body = _body(f"{error}{remedy}", code)
            if isinstance(error, Refused):
                body["error"]["problems"] = [asdict(problem) for problem in error.report.problems]
            elif isinstance(error, CannotFuse):
                body["error"] |= {"reason": error.code, "remedy": error.remedy}
            return status, body
    return 500, _body("The gateway failed; its log says why.", "internal_error", "server_error")


def _body(message: str, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    message = message.encode(errors="backslashreplace").decode()
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
