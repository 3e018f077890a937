"""One value out of a JSON body by its path, without building the rest of it. Pure."""

from typing import Final

import msgspec

from gateway.receive.wire import mended

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
# How a text or a number begins; anything else names nobody, and may be large.
_SCALAR: Final = b'"-0123456789'
_OBJECT: Final = ord("{")


def text_at(body: bytes, path: str) -> str | None:
    """Return the text at `path`, or a whole number there as text; None if there is neither.

    Args:
        body: JSON.
        path: Names of members, with dots between them: `metadata.user_id`.
    """
    try:
        return _text_at(body, path)
    except msgspec.DecodeError:
        pass
    except (UnicodeDecodeError, RecursionError):
        return None
    try:
        return _text_at(mended(body), path)  # half an emoji elsewhere must not hide who asks
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


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
