"""A request as the engine gets it: one write, only `model` rewritten."""

from functools import lru_cache

import msgspec

from gateway.receive.endpoints import Dialect
from gateway.receive.lax import is_refused, is_stream, is_true
from gateway.receive.request import Request
from gateway.receive.wire import addressed


@lru_cache(maxsize=4096)
def quoted(name: str) -> bytes:
    """Return `name` as a JSON string."""
    return msgspec.json.encode(name)


def asks_for_usage(request: Request) -> bool:
    """Whether a stream's usage is asked for that its sender will not see: for the limits and the metrics."""
    fields = request.fields
    if fields is None or request.endpoint.dialect is not Dialect.COMPLETIONS or not is_stream(fields.stream):
        return False
    options = fields.stream_options
    asked = options.get("include_usage") if isinstance(options, dict) else None
    return not is_true(asked) and not is_refused(asked)


def message(request: Request, version: str) -> bytes:
    """Return the request's bytes for an engine that calls the version so.

    Raises:
        BadRequest: The body has two `model` keys.
    """
    fields = request.fields
    if fields is None:
        return b"%b %b HTTP/1.1\r\nhost: engine\r\nx-request-id: %b\r\n%b\r\n" % (
            request.endpoint.method, request.endpoint.path, request.id, request.extra_headers,
        )  # fmt: skip
    body = addressed(request.body, fields, quoted(version), ask_usage=asks_for_usage(request))
    return b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        request.endpoint.path, len(body), request.id, request.extra_headers, body,
    )  # fmt: skip
