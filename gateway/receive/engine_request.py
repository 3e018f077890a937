"""A request's bytes as an engine gets them: the client's body with only `model` rewritten, ready for one write."""

from functools import lru_cache

import msgspec

from gateway.openai.body import LargeFields, edits, rewrite_model
from gateway.openai.endpoints import Dialect
from gateway.openai.pieces import Pieces
from gateway.ports import Outgoing
from gateway.receive.request import Request


@lru_cache(maxsize=4096)
def json_string(name: str) -> bytes:
    """Return `name` as a JSON string."""
    return msgspec.json.encode(name)


def asks_for_usage(request: Request) -> bool:
    """Whether the gateway adds a request for usage to a stream whose client asked for none, for limits and metrics."""
    fields = request.fields
    return fields is not None and request.endpoint.dialect is Dialect.COMPLETIONS and fields.leaves_usage()


def encode_request(request: Request, version: str, *, ask_usage: bool) -> Outgoing:
    """Return the request's bytes for an engine.

    Args:
        request: The client's request.
        version: The engine's name for the version, sent as `model`.
        ask_usage: Whether to add a request for usage; see `asks_for_usage`.

    Raises:
        BadRequest: The body has two `model` keys.
    """
    fields = request.fields
    if fields is None:
        return b"%b %b HTTP/1.1\r\nhost: engine\r\nx-request-id: %b\r\n%b\r\n" % (
            request.endpoint.method,
            request.endpoint.path,
            request.id,
            request.extra_headers,
        )
    if not isinstance(request.body, bytes):
        return _in_parts(request.body, request, version, ask_usage=ask_usage)
    body = rewrite_model(request.body, fields, json_string(version), ask_usage=ask_usage)
    return b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        request.endpoint.path,
        len(body),
        request.id,
        request.extra_headers,
        body,
    )


def _in_parts(body: Pieces, request: Request, version: str, *, ask_usage: bool) -> Outgoing:
    """Return a large request in parts, without copying its body."""
    fields = request.fields
    assert isinstance(fields, LargeFields)  # a body in pieces was parsed in steps
    changes = edits(body, fields, fields.outline, json_string(version), ask_usage=ask_usage)
    parts = body.apply_edits(changes)
    head = b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n" % (
        request.endpoint.path,
        sum(map(len, parts)),
        request.id,
        request.extra_headers,
    )
    return [head, *parts]
