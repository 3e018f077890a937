"""Whom a request is of: the unit that keeps its arm, what it is called in samples, which prefix cache may know it.

All three look in the same places, a header and fields of the body, and differ in the order. An arm and a sample belong
to whoever asks, so the header that an operator's own front end sets comes first (DESIGN 4.3). A prefix cache belongs
to a text: the field that was made for it, `prompt_cache_key`, comes first, then users, and the header last.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

from gateway.decide.assign import CONVERSATION, DEFAULT_SOURCES
from gateway.decide.authenticate import Principal
from gateway.openai.body import Fields, LargeFields
from gateway.openai.body_values import text_at, text_in_large
from gateway.openai.conversation import beginning_of, beginning_of_large
from gateway.openai.endpoints import Endpoint
from gateway.openai.pieces import Pieces
from gateway.openai.prefix import opening_of


class IdentifiedRequest(Protocol):
    """A request, as far as it tells whom it is of."""

    endpoint: Endpoint
    body: bytes | Pieces
    fields: Fields | None
    caller: Principal
    unit_header: bytes | None
    unit_headers: Mapping[bytes, bytes]


def unit_of(request: IdentifiedRequest, sources: tuple[str, ...]) -> str:
    """Return the unit of assignment: the first source that tells one, else the key."""
    if sources == DEFAULT_SOURCES and not request.unit_header and not request.endpoint.has_metadata_user:
        fields = request.fields  # the usual request names no unit: one look, and no call for each source
        if fields is None or not (fields.safety_identifier or fields.user or fields.prompt_cache_key):
            return request.caller.account or request.caller.id
    for source in sources:
        if source == "key":
            break
        found = _value_at(request, source)
        if found and isinstance(found, str):
            return found
    return request.caller.unit


def name_of(request: IdentifiedRequest) -> str:
    """Return whom a request says that it is of: the first of the default sources that tells; empty if none does."""
    for source in DEFAULT_SOURCES:
        found = _value_at(request, source) if source != "key" else None
        if found and isinstance(found, str):
            return found
    return ""


def affinity_of(request: IdentifiedRequest) -> int | None:
    """Return a 64-bit hash of what a request has in common with those whose prefix it may share; None if nothing.

    In order: the body's `prompt_cache_key`, `safety_identifier`, `user`, the unit header, how the
    conversation begins.
    """
    fields = request.fields
    if fields is None:
        return None
    common = request.unit_header or b""
    for value in (fields.user, fields.safety_identifier, fields.prompt_cache_key):
        if value and isinstance(value, str):
            common = value.encode("utf-8", "surrogatepass")
    common = common or opening_of(fields)
    return int.from_bytes(blake2b(common, digest_size=8).digest(), "big") if common else None


def _value_at(request: IdentifiedRequest, source: str) -> object:
    if source == "header":
        return request.unit_header.decode("latin-1") if request.unit_header else None
    if source == "user":
        return _user(request)
    if source == CONVERSATION:
        return _beginning(request)
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
    if first == "metadata":  # has been found already
        return text_at(bytes(fields.metadata), rest) if rest and fields is not None else None
    return text_at(request.body, path) if isinstance(request.body, bytes) else None


def _user(request: IdentifiedRequest) -> object:
    """Return whom the body names as its user: `user`, in Anthropic's messages `metadata.user_id`."""
    user = getattr(request.fields, "user", None)
    if not user and request.endpoint.has_metadata_user:
        return _value_in_body(request, "metadata.user_id")
    return user


def _beginning(request: IdentifiedRequest) -> str | None:
    body, dialect, caller = request.body, request.endpoint.dialect, request.caller.unit
    fields = request.fields
    if not isinstance(fields, LargeFields):
        return beginning_of(body, dialect, caller) if isinstance(body, bytes) else None
    if isinstance(body, bytes):
        return beginning_of(fields.mended or body, dialect, caller, may_have_halves=False)
    return beginning_of_large(body, fields.outline, dialect, caller)
