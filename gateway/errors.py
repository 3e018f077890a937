"""The errors that are sent to clients; each has its own status, type and code.

    LoragateError
    ├── RequestError               the client's mistake: 4xx
    │   ├── BadRequest             400  invalid_request
    │   ├── Unauthenticated        401  invalid_api_key | expired_api_key
    │   ├── Forbidden              403  role_not_allowed | pin_not_allowed | arm_not_allowed
    │   ├── ModelNotFound          404  model_not_found
    │   ├── PathNotFound           404  unknown_path
    │   ├── MethodNotAllowed       405  method_not_allowed
    │   ├── RequestTimeout         408  request_timeout
    │   ├── PayloadTooLarge        413  request_too_large
    │   ├── UnsupportedEncoding    415  unsupported_encoding
    │   ├── ExpectationFailed      417  expectation_failed
    │   ├── RateLimited            429  rate_limit_exceeded
    │   └── HeadersTooLarge        431  headers_too_large
    └── ServingError               a fault of the gateway or an engine: 5xx, a retry may help
        ├── EngineFailed           502  engine_failed
        ├── EngineUnavailable      503  engine_unavailable
        ├── VersionNotReady        503  version_not_ready
        ├── Overloaded             503  overloaded
        ├── RouteTableUnreadable   503  route_table_unreadable
        └── EngineTimeout          504  engine_timeout

`Saturated` is not in the tree: it is never sent to a client, but makes a request wait in the queue.

`status` is the HTTP status, `type` and `code` are OpenAI's fields, `param` names the field at fault, and
`retry_after_seconds` becomes the `Retry-After` header. Messages are written in this project: never the text of another
library's exception. Only `receive/failures.py` turns an error into bytes.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from gateway.decide.exposure import Exposure


class LoragateError(Exception):
    """An error that is sent to the client, in OpenAI's error shape."""

    status: ClassVar[int] = 500
    type: str = "server_error"
    code: str = "internal_error"
    param: str | None = None
    retry_after_seconds: int | None = None
    headers: bytes = b""  # more header lines

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code


class RequestError(LoragateError):
    """The request is at fault; sending it again unchanged will not help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class BadRequest(RequestError):
    """The body or the HTTP framing is invalid."""


class Unauthenticated(RequestError):
    """There is no key, it is unknown, or it has expired."""

    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    """The key is valid, but its role does not allow this. (A model that a key may not use is a 404 instead.)"""

    status = 403
    type = "permission_error"
    code = "role_not_allowed"


class ModelNotFound(RequestError):
    """No alias, version or base that this key may use has this name."""

    status = 404
    code = "model_not_found"
    param = "model"


class PathNotFound(RequestError):
    """The gateway does not serve the path."""

    status = 404
    code = "unknown_path"


class MethodNotAllowed(RequestError):
    """The path takes another method, which is `allow` (RFC 9110, 15.5.6)."""

    status = 405
    code = "method_not_allowed"
    allow: bytes = b""


class RequestTimeout(RequestError):
    """The client took too long to send its request."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class PayloadTooLarge(RequestError):
    """The body is larger than the limit."""

    status = 413
    code = "request_too_large"


class UnsupportedEncoding(RequestError):
    """The body is compressed, which the gateway does not support."""

    status = 415
    code = "unsupported_encoding"


class ExpectationFailed(RequestError):
    """The `Expect` header is not `100-continue`."""

    status = 417
    code = "expectation_failed"


class RateLimited(RequestError):
    """A rate limit of the key or the alias is exhausted; `type` is `requests` or `tokens`, as with OpenAI."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class HeadersTooLarge(RequestError):
    """Too many header bytes or header lines."""

    status = 431
    code = "headers_too_large"


class ServingError(LoragateError):
    """The request is valid, but cannot be served now. `exposure` is set if an arm had been assigned."""

    status = 502
    code = "engine_failed"
    exposure: "Exposure | None" = None


class EngineFailed(ServingError):
    """An engine accepted the request, and closed the connection before its reply or sent bytes that are not HTTP."""

    retry_after_seconds = 1


class EngineUnavailable(ServingError):
    """No engine can be reached."""

    status = 503
    code = "engine_unavailable"
    retry_after_seconds = 5


class VersionNotReady(ServingError):
    """The version is registered, but no engine has it loaded. `version` is set if waiting for a load may help."""

    status = 503
    code = "version_not_ready"
    retry_after_seconds = 2
    version: str | None = None


class Overloaded(ServingError):
    """The worker has as many connections, waiting requests or bytes of bodies as its limits allow."""

    status = 503
    code = "overloaded"
    retry_after_seconds = 1


class RouteTableUnreadable(ServingError):
    """The worker cannot read the newest route table, and the previous one may accept keys that have been revoked."""

    status = 503
    code = "route_table_unreadable"
    retry_after_seconds = 5


class Saturated(Exception):
    """Every engine that could serve `version` has as many requests as it may: wait for one to end. Never sent."""

    def __init__(self, version: str) -> None:
        super().__init__(f"no engine has room for `{version}`")
        self.version = version
        self.exposure: Exposure | None = None


class EngineTimeout(ServingError):
    """The engine sent nothing for longer than the limit allows."""

    status = 504
    type = "timeout_error"
    code = "engine_timeout"
