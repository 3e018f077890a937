"""The identity of a request, for three uses: its unit of assignment, its session in samples, and its cache affinity.

All three read the same places (a header and fields of the body), in different orders. The arm and the sample depend on
the user, so the header that an operator's own front end sets comes first. A prefix cache depends on the text, so the
field that is meant for it, `prompt_cache_key`, comes first, then the users, and the header last.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

from gateway.decide.assign import CONVERSATION, DEFAULT_SOURCES
from gateway.decide.authenticate import Principal
from gateway.openai.body import Fields, LargeFields
from gateway.openai.body_values import text_at, text_in_large
from gateway.openai.conversation import conversation_hash, large_conversation_hash
from gateway.openai.endpoints import Endpoint
from gateway.openai.pieces import Pieces
from gateway.openai.prefix import prefix_key


class IdentifiedRequest(Protocol):
    """The parts of a request that identify its user or conversation."""

    endpoint: Endpoint
    body: bytes | Pieces
    fields: Fields | None
    caller: Principal
    unit_header: bytes | None
    unit_headers: Mapping[bytes, bytes]


def unit_of(request: IdentifiedRequest, sources: tuple[str, ...]) -> str:
    """Return the unit of assignment: from the first of `sources` that the request has, else the key's."""
    if sources == DEFAULT_SOURCES and not request.unit_header and not request.endpoint.has_metadata_user:
        fields = request.fields  # quick path: the usual request names no unit, so no source has to be read
        if fields is None or not (fields.safety_identifier or fields.user or fields.prompt_cache_key):
            return request.caller.account or request.caller.id
    for source in sources:
        if source == "key":
            break
        found = _value_at(request, source)
        if found and isinstance(found, str):
            return found
    return request.caller.unit


def client_identity(request: IdentifiedRequest) -> str:
    """Return the identity that the client has stated, by the first default source that the request has; else empty."""
    for source in DEFAULT_SOURCES:
        found = _value_at(request, source) if source != "key" else None
        if found and isinstance(found, str):
            return found
    return ""


def affinity_of(request: IdentifiedRequest) -> int | None:
    """Return a 64-bit hash that is equal for requests which probably share a prompt prefix; None if nothing tells.

    Of the first of these that the request has: `prompt_cache_key`, `safety_identifier`, `user`, the unit header, the
    beginning of the conversation.
    """
    fields = request.fields
    if fields is None:
        return None
    common = request.unit_header or b""
    for value in (fields.user, fields.safety_identifier, fields.prompt_cache_key):
        if value and isinstance(value, str):
            common = value.encode("utf-8", "surrogatepass")
    common = common or prefix_key(fields)
    return int.from_bytes(blake2b(common, digest_size=8).digest(), "big") if common else None


def _value_at(request: IdentifiedRequest, source: str) -> object:
    if source == "header":
        return request.unit_header.decode("latin-1") if request.unit_header else None
    if source == "user":
        return _user(request)
    if source == CONVERSATION:
        return _conversation(request)
    kind, colon, what = source.partition(":")
    if not colon:
        return getattr(request.fields, source, None)
    if kind == "trusted":
        return _value_at(request, what) if request.caller.may_pin() else None
    if kind == "header":
        return request.unit_headers.get(what.encode(), b"").decode("latin-1")
    return _value_in_body(request, what)


def _value_in_body(request: IdentifiedRequest, path: str) -> str | None:
    first, _, rest = path.partition(".")
    fields = request.fields
    if isinstance(fields, LargeFields):
        return text_in_large(request.body, fields, path)
    if first == "metadata":  # parsed with the fields already
        return text_at(bytes(fields.metadata), rest) if rest and fields is not None else None
    return text_at(request.body, path) if isinstance(request.body, bytes) else None


def _user(request: IdentifiedRequest) -> object:
    """Return the user that the body names: in `user`, or for Anthropic's messages in `metadata.user_id`."""
    user = getattr(request.fields, "user", None)
    if not user and request.endpoint.has_metadata_user:
        return _value_in_body(request, "metadata.user_id")
    return user


def _conversation(request: IdentifiedRequest) -> str | None:
    body, dialect, caller = request.body, request.endpoint.dialect, request.caller.unit
    fields = request.fields
    if not isinstance(fields, LargeFields):
        return conversation_hash(body, dialect, caller) if isinstance(body, bytes) else None
    if isinstance(body, bytes):
        return conversation_hash(fields.repaired or body, dialect, caller, may_have_surrogates=False)
    return large_conversation_hash(body, fields.outline, dialect, caller)
