"""Read JSON of untrusted requests and replies; the only exception that is raised is `NotComparable`.

Bodies come from clients and replies from engines, so any value may have a wrong type: every value is read by a function
that returns an empty value or None if the type is not the expected one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec


class NotComparable(Exception):
    """A request or a reply that cannot be compared; `reason` says why in a word, from a closed set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


NOTHING: Final[Mapping[str, Any]] = {}
# Any escape, so that the second backslash of `\\ud800` begins none.
_SURROGATES: Final = re.compile(
    rb"\\(?:u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|[89a-fA-F])[0-9a-fA-F]{2}|.)", re.DOTALL
)
_PAIR_BYTES: Final = len(rb"\ud83d\ude00")
_LINE_ENDS: Final = re.compile(rb"\r\n|\r")
# Largest number of tokens, or token id, that is believed: a larger one is an error of the engine. SQLite and
# MessagePack cannot store more than 64 bits.
MAX_COUNTED: Final = 2**31
_MARK: Final = b"\xef\xbb\xbf"


def object_of(data: bytes, reason: str = "not_json") -> dict[str, Any]:
    """Decode a JSON object.

    Half of a surrogate pair that stands alone (RFC 8259, 8.2: allowed, and common where JavaScript cut an
    emoji in two) becomes U+FFFD, so that every text that comes out can be encoded.

    Raises:
        NotComparable: `data` is not a JSON object, is nested too deeply, or is not UTF-8; with `reason`.
    """
    found: dict[str, Any] = _decode(data, dict[str, Any], reason)
    return found


def members_of(data: bytes) -> dict[str, msgspec.Raw]:
    """Return a JSON object's members with each value's bytes unchanged, except for lone halves of surrogate pairs.

    Raises:
        NotComparable: `data` is not a JSON object.
    """
    found: dict[str, msgspec.Raw] = _decode(data, dict[str, msgspec.Raw], "not_json")
    return found


def _decode(data: bytes, kind: Any, reason: str) -> Any:
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(_replace_lone_surrogates(data), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotComparable(reason) from None


def _replace_lone_surrogates(data: bytes) -> bytes:
    return _SURROGATES.sub(_replacement, data)


def _replacement(escape: re.Match[bytes]) -> bytes:
    is_lone = escape[0][1:3].lower() == b"ud" and len(escape[0]) < _PAIR_BYTES
    return rb"\ufffd" if is_lone else escape[0]


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, empty for anything else."""
    return value if isinstance(value, dict) else NOTHING


def list_of(value: Any) -> list[Any]:
    """Return a JSON array, empty for anything else."""
    return value if isinstance(value, list) else []


def mappings_of(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a JSON array; none for anything else."""
    return [item for item in list_of(value) if isinstance(item, dict)]


def text_of(value: Any) -> str:
    """Return a JSON string, empty for anything else."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    """Return a whole number from 0 to 2³¹, None for anything else: no engine counts further, and no store takes all."""
    return value if type(value) is int and 0 <= value <= MAX_COUNTED else None


def number_of(value: Any) -> float | None:
    """Return a number, None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def ids_of(value: Any) -> tuple[int, ...] | None:
    """Return token ids, None for anything that is no array of whole numbers from 0."""
    if not isinstance(value, list) or any(count_of(item) is None for item in value):
        return None
    return tuple(value)


def json_text_of(value: Any) -> str:
    """Return a value as JSON text; a string is taken to be such a text already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def events_of(stream: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events, `[DONE]` and comments left out.

    An incomplete event at the end of the stream is left out: the stream was cut off there.

    Source: WHATWG HTML, 9.2.6: lines end with CR, LF or both, several `data` lines are one text.

    Raises:
        NotComparable: `not_json` if an event with others after it is no JSON object.
    """
    blocks = _LINE_ENDS.sub(b"\n", stream.removeprefix(_MARK)).split(b"\n\n")
    last = len(blocks) - 1
    for number, block in enumerate(blocks):
        lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if not lines or lines == [b"[DONE]"]:
            continue
        try:
            yield object_of(b"\n".join(lines))
        except NotComparable:
            if number < last:
                raise
