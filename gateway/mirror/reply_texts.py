"""Extract every text of a reply; a stream's texts are joined from its events. Pure.

This includes names of fields, ids, comments and names of events. The tokens of a list are joined, so that a word that
was split into two tokens is found.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from gateway.mirror.redactors import NotRedacted

# Fields with tokens or their bytes, which are joined into one text.
_IN_A_ROW: Final = frozenset(("token", "decoded_token", "tokens", "bytes"))
# Token ids repeat the reply's and the prompt's text in a form that redactors cannot read.
_TOKENS: Final = frozenset(("token_ids", "prompt_token_ids"))
# Ends of the names of fields whose numbers an engine makes itself.
_COUNTS: Final = ("_tokens", "_at", "created", "index", "seed", "rank")
_FEWEST_DIGITS: Final = 4
# Floats up to this size are taken for log-probabilities, which go down to -9999.0, and not for personal numbers.
_MAX_FLOAT: Final = 1e6
# Fields that say which part of a reply an event belongs to.
_PARTS: Final = ("index", "output_index", "content_index", "summary_index", "item_id")

_NAMED: Final = frozenset(("index", "output_index"))

_Place = tuple[Any, ...]


def no_name_twice(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields. Refuse a name that is there twice: all but its last value would escape redaction."""
    values = dict(fields)
    if len(values) < len(fields):
        raise ValueError
    return values


def texts_of(reply: bytes, *, is_stream: bool) -> list[str]:
    """Return the texts of a reply; none for an empty reply.

    Raises:
        NotRedacted: It cannot be parsed, or holds token ids.
    """
    if not reply:
        return []
    joined: dict[_Place, list[str]] = {}
    for line, event in _events(reply) if is_stream else ((None, reply),):
        if line is not None:
            joined.setdefault((line,), []).append(_text_of(event))
            continue
        try:
            values = json.loads(event, object_pairs_hook=no_name_twice)
        except (ValueError, RecursionError):
            raise NotRedacted("not_redactable", "a reply is no JSON that can be read") from None
        kind = values.get("type") if isinstance(values, dict) else None
        for place, text in _leaves(values, (kind,), ""):
            joined.setdefault(place, []).append(text)
    return ["".join(parts) for parts in joined.values()]


def _text_of(line: bytes) -> str:
    return line.decode("utf-8", "replace") + "\n"


def _events(stream: bytes) -> Iterator[tuple[str | None, bytes]]:
    """Yield (None, data) for each event, and (`comment` or `line`, line) for every other line.

    Source: WHATWG HTML, 9.2.6: several `data` lines are one text.
    """
    data: list[bytes] = []
    for line in (*stream.removeprefix(b"\xef\xbb\xbf").splitlines(), b""):
        name, _, value = line.partition(b":")
        if name == b"data" and line:
            data.append(value.removeprefix(b" "))
        elif line:
            yield "comment" if not name else "line", line
        elif data:
            event, data = b"\n".join(data), []
            if event.strip() and event.strip() != b"[DONE]":
                yield None, event


def _leaves(value: Any, place: _Place, key: str) -> Iterator[tuple[_Place, str]]:
    """Yield every text with its place: the path of fields, and the part of the reply that it belongs to."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) > _MAX_FLOAT):
        text = str(int(value))
        if len(text) >= _FEWEST_DIGITS and not key.endswith(_COUNTS):
            yield (*place, "number"), f"{text}\n"
    elif isinstance(value, list):
        yield from _list(value, place, key)
    elif isinstance(value, dict):
        for name in _PARTS:
            if isinstance(value.get(name), int | str):
                place = (*place, f"#{name}={value[name]}")
        for name, each in value.items():
            yield (("name", name), name) if name not in _IN_A_ROW else (("name", name), "")
            if name in _TOKENS and each:
                raise NotRedacted("not_redactable", "a reply with token ids cannot be looked into")
            yield from _leaves(each, (*place, name), name)


def _list(value: list[Any], place: _Place, key: str) -> Iterator[tuple[_Place, str]]:
    if key == "bytes" and all(isinstance(each, int) for each in value):
        yield (*place, "bytes"), bytes(each & 0xFF for each in value).decode("utf-8", "replace")
        return
    if key == "prompt_logprobs":  # a list of objects by token id, one for each position
        for each in value:
            for token in each.values() if isinstance(each, dict) else ():
                yield from _leaves(token, place, "")
        return
    in_a_row = key == "tokens" or (bool(value) and isinstance(value[0], dict) and not _IN_A_ROW.isdisjoint(value[0]))
    for number, each in enumerate(value):
        # An item that names its part may be at any index of an event's list, so the index is not part of its place.
        is_named = in_a_row or (isinstance(each, dict) and not _NAMED.isdisjoint(each))
        yield from _leaves(each, place if is_named else (*place, number), key)
