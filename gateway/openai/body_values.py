"""Reads one value of a JSON body by its path, without building the rest of the body. Pure."""

from typing import Final

import msgspec

from gateway.openai.body import AT_ONCE_BYTES, LargeFields
from gateway.openai.pieces import Pieces
from gateway.openai.surrogates import repair_surrogates

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
# First bytes of strings and numbers; other values cannot name a unit, and may be large.
_SCALAR: Final = b'"-0123456789'
_OBJECT: Final = ord("{")
# The largest `metadata` that is read in a large body: parsing it takes some milliseconds.
_MAX_METADATA_BYTES: Final = 64 * 1024


def text_at(body: bytes, path: str) -> str | None:
    """Return the string at `path`, or the decimal text of an integer there; None if there is neither.

    Args:
        body: JSON text.
        path: Names of members with dots between them, such as `metadata.user_id`.
    """
    try:
        return _text_at(body, path)
    except msgspec.DecodeError:
        pass
    except (UnicodeDecodeError, RecursionError):
        return None
    try:
        return _text_at(repair_surrogates(body), path)  # a lone surrogate elsewhere must not hide the value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def text_in_large(body: bytes | Pieces, fields: LargeFields, path: str) -> str | None:
    """Return what `text_at` does, for a body read in steps; in one above 1 MiB only paths in `metadata` are read."""
    first, _, rest = path.partition(".")
    if first == "metadata" and not rest:
        return None
    if isinstance(body, bytes) and len(body) <= AT_ONCE_BYTES:
        try:
            return _text_at(fields.repaired or body, path)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
    spans = fields.outline.members.get("metadata")
    if first != "metadata" or spans is None:
        return None
    start, end = spans[-1]
    if end - start > _MAX_METADATA_BYTES:
        return None
    return text_at(body[start:end] if isinstance(body, bytes) else body.cut(start, end), rest)


def _text_at(body: bytes, path: str) -> str | None:
    raw: bytes | msgspec.Raw = body
    for name in path.split("."):
        if raw is not body and memoryview(raw)[0] != _OBJECT:
            return None
        found = _MEMBERS.decode(raw).get(name)
        if found is None:
            return None
        raw = found
    if memoryview(raw)[0] not in _SCALAR:
        return None
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
