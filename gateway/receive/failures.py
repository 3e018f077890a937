"""The one place where an error becomes bytes for a client.

Errors have OpenAI's shape, in whole replies and inside streams that have begun. Only messages that this project wrote
are sent: never the text of another library's exception, which could leak internals.
"""

import http
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import LoragateError, MethodNotAllowed
from gateway.openai.endpoints import Dialect
from gateway.receive.request import Request

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


def status_line(status: int) -> bytes:
    """Return the HTTP/1.1 status line of `status`, line end included."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))


def body_of(error: LoragateError) -> bytes:
    """Return the JSON body of an error, in OpenAI's shape."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def connection_header(*, keep_alive: bool, is_http10: bool) -> bytes:
    """Return the `Connection` header line; empty where the HTTP version's default says the same."""
    if not keep_alive:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if is_http10 else b""


def refusal(request: Request, error: LoragateError, *, keep_alive: bool) -> bytes:
    """Return the whole reply to a request that ends with `error` before its reply has begun."""
    more = request.reply_headers
    return reply_of(error, request.id, keep_alive=keep_alive, is_http10=request.is_http10, headers=more)


def reply_of(
    error: LoragateError,
    request_id: bytes,
    *,
    keep_alive: bool,
    is_http10: bool = False,
    with_body: bool = True,
    headers: bytes = b"",
) -> bytes:
    """Return a whole HTTP reply with `error`; `headers` are more header lines."""
    body = body_of(error)
    lines = [
        status_line(error.status),
        b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
        b"x-request-id: %b\r\n" % request_id if request_id else b"",
        b"retry-after: %d\r\n" % error.retry_after_seconds if error.retry_after_seconds else b"",
        error.headers,
        headers,
        b"www-authenticate: Bearer\r\n" if error.status == 401 else b"",
        b"allow: %b\r\n" % error.allow if isinstance(error, MethodNotAllowed) else b"",
        connection_header(keep_alive=keep_alive, is_http10=is_http10),
        b"\r\n",
        body if with_body else b"",
    ]
    return b"".join(lines)


def event_of(error: LoragateError, dialect: Dialect) -> bytes:
    """Return the server-sent event that ends a stream which can no longer be completed."""
    kind = "api_error" if dialect is Dialect.MESSAGES else error.type
    fields = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return error_event(fields, dialect)


def error_event(fields: Mapping[str, Any], dialect: Dialect) -> bytes:
    """Return the error event of a dialect, with an error's `message`, `type`, `param` and `code`."""
    if dialect is Dialect.MESSAGES:
        nested = {"type": "error", "error": {"type": fields["type"], "message": fields["message"]}}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(nested)
    if dialect is Dialect.RESPONSES:
        flat = {"type": "error", "code": fields["code"], "message": fields["message"], "param": fields["param"]}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(flat)
    return b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode({"error": fields})
