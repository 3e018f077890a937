"""Checks of large prompts for the policy for engine fields, in short steps: number of items, and media. Pure.

For valid JSON the results are those of a parser and of `media.py`; for invalid JSON they are arbitrary, but no error.
"""

import json
import re
from collections.abc import Generator, Iterator
from itertools import accumulate, islice
from typing import Final

from gateway.openai.json_outline import Span, outside_of
from gateway.openai.media import (
    NULL,
    PLAIN,
    RELEVANT_KEYS,
    Finding,
    by_rule,
    findings,
    level_of_object,
    level_of_text,
    may_hold_media,
)
from gateway.openai.pieces import Pieces
from gateway.openai.surrogates import repair_surrogates

# The size of one step: at worst 10 ms, if nearly every byte is a bracket; usually 0.1 ms.
WINDOW_BYTES: Final = 4 * 1024
# Keys that are longer than this are not read: none of the relevant ones is.
_MAX_KEY_BYTES: Final = 4096
# The longest hint (`media.HINTS`) that may lie across two windows.
_MAX_HINT_BYTES: Final = 16

_SPACE: Final = b" \t\r\n"
_INNERMOST: Final = re.compile(rb"\[[^\[\]{}]*+\]|\{[^\[\]{}]*+\}")
_NOT_MARKS: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}
_COMMA: Final = ord(",")

# A whole string, the beginning of one, an array or object without strings and containers, a bracket, or a colon with
# the first byte of a number or literal after it.
_TOKEN: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|"|\[[^\[\]{}":]*+\]|\{[^\[\]{}":]*+\}|\[|\]|\{|\}'
    rb'|:[ \t\r\n]*+[^"\[\]{} \t\r\n]?+',
    re.DOTALL,
)
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_LETTER: Final = re.compile(rb"\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL)
# How many characters of a string value are read: they show whether it is a `data:` address or `prompt_embeds`.
_LETTERS: Final = 24


def count_in_steps(body: Pieces, span: Span) -> Generator[None, None, int]:
    """Return how many prompts a value holds: the items of a list, but 1 for a string or a list of token ids."""
    start, end = span
    if body.cut(start, start + 1) != b"[":
        return 1
    depth, count, in_string, is_escaped, has_begun = 1, 1, 0, False, False
    for window in _windows(body, (start + 1, end)):
        if not has_begun:
            first = window.lstrip(_SPACE)[:1]
            if first.isdigit() or first == b"]":
                return 1
            has_begun = first != b""
        outside, quotes, is_escaped = outside_of(window, in_string, is_escaped=is_escaped)
        in_string ^= quotes & 1
        commas, depth = _commas(outside, depth)
        count += commas
        yield
    return count


def _commas(outside: bytes, depth: int) -> tuple[int, int]:
    """Return how many commas belong to the list itself, and the nesting depth after them."""
    if b"[" in outside or b"{" in outside:
        outside = _INNERMOST.sub(b"", outside)
    marks = outside.translate(None, _NOT_MARKS)
    only_commas = marks.count(b",")
    if only_commas == len(marks):
        return (only_commas if depth == 1 else 0), depth
    levels = list(accumulate(map(_STEP.__getitem__, marks), initial=depth))
    return sum(mark == _COMMA and level == 1 for mark, level in zip(marks, levels, strict=False)), levels[-1]


def media_in_steps(body: Pieces, span: Span) -> Generator[None, None, dict[str, str]]:
    """Return what `media.media_fields` does for the value at `span`; yields after each short step."""
    behind = b""
    for window in _windows(body, span):
        if may_hold_media(behind + window):
            break
        behind = (behind + window)[-_MAX_HINT_BYTES:]  # windows may be shorter than a hint
        yield
    else:
        return {}
    reader = _Reader()
    for window in _windows(body, span):
        reader.take(window)
        yield
    return by_rule(reader.result())


class _Open:
    """An array or an object whose end has not been read yet.

    A repeated member replaces the earlier one, so what was found in that is forgotten.
    """

    __slots__ = ("found", "is_object", "key", "levels")

    def __init__(self, *, is_object: bool) -> None:
        self.is_object = is_object
        self.key: str | None = None  # the member whose value is next or has not ended
        self.levels: dict[str, int] = {}  # of relevant members; see `media.py`
        self.found: dict[str | None, set[Finding]] = {}  # by the member that holds it; None: never forgotten

    def begin(self, key: str | None) -> None:
        """Begin a member; None stands for a key that could not be read."""
        self.key = key
        if key is not None:
            self.found.pop(key, None)
            self.set_level(PLAIN)

    def set_level(self, level: int) -> None:
        """Set the level of the present member, if its key is relevant."""
        if self.key in RELEVANT_KEYS:
            self.levels[self.key] = level

    def end(self, inner: "_Open") -> None:
        """Take over what was found in an item or member that has ended."""
        if inner.levels or inner.found:
            found = set(findings(inner.levels)).union(*inner.found.values())
            if found:
                self.found.setdefault(self.key, set()).update(found)
        if inner.is_object and self.key != "type":
            self.set_level(level_of_object(inner.levels.get("url", PLAIN)))
        self.key = None


class _Reader:
    """Reads JSON a window at a time, and keeps for each open object the levels of its relevant members."""

    def __init__(self) -> None:
        self._open = [_Open(is_object=False)]
        self._text = b""  # the last string, or its beginning
        self._is_whole = True  # whether `_text` is the whole string
        self._waits_for_value = False  # a colon has been read
        self._in_string = False
        self._in_escape = False  # the second byte of an escape is in the next window

    def result(self) -> set[Finding]:
        """Return all findings, once the last window has been read."""
        while len(self._open) > 1:
            self._close()
        return set().union(*self._open[0].found.values())

    def take(self, window: bytes) -> None:
        """Read the next window."""
        at = self._rest_of_text(window, 0) if self._in_string else 0
        if self._waits_for_value:
            first = window[at:].lstrip(_SPACE)[:1]
            if first and first not in b'"[{':
                self._on_scalar(first)
        for token in _TOKEN.finditer(window, at):
            found = token[0]
            first = found[:1]
            if first == b'"':
                if len(found) > 1:
                    self._text, self._is_whole = found[1:-1], True
                    self._end_text()
                else:  # the window ends inside the string
                    self._in_string, self._text, self._is_whole = True, b"", True
                    self._rest_of_text(window, token.end())
                    return
            elif first == b":":
                self._on_colon()
                if found[-1] not in b": \t\r\n":
                    self._on_scalar(found[-1:])
            elif first in b"[{":
                self._waits_for_value = False
                if len(found) > 1:  # a whole array or object without anything relevant
                    self._open[-1].key = None
                    continue
                self._open.append(_Open(is_object=first == b"{"))
            else:
                self._close()

    def _rest_of_text(self, window: bytes, start: int) -> int:
        """Skip a string that spans windows, and keep its beginning; return where the window goes on."""
        found = _IN_STRING.match(window, start + self._in_escape)
        end = len(window) if found is None else found.end()
        self._in_escape = window[end : end + 1] == b"\\"
        end += self._in_escape
        if self._is_whole:
            self._text += window[start:end]
            self._is_whole = len(self._text) <= _MAX_KEY_BYTES
        if end >= len(window):
            return end
        self._in_string = False
        self._end_text()
        return end + 1

    def _end_text(self) -> None:
        if self._waits_for_value:
            self._waits_for_value = False
            member = self._open[-1]
            if member.key in RELEVANT_KEYS:
                member.set_level(level_of_text(member.key, _first_letters(self._text)))
            member.key = None

    def _on_colon(self) -> None:
        if self._open[-1].is_object:
            self._waits_for_value = True
            self._open[-1].begin(_read(self._text) if self._is_whole else None)

    def _on_scalar(self, first: bytes) -> None:
        self._waits_for_value = False
        self._open[-1].set_level(NULL if first == b"n" else PLAIN)
        self._open[-1].key = None

    def _close(self) -> None:
        if len(self._open) > 1:
            inner = self._open.pop()
            self._open[-1].end(inner)


def _read(text: bytes) -> str | None:
    """Return a JSON string's value, given its bytes between the quotes; None if they are invalid."""
    if b"\\" not in text:
        return text.decode("utf-8", "replace")
    try:
        key: str = json.loads((b'"%b"' % repair_surrogates(text)).decode("utf-8", "replace"), strict=False)
    except ValueError:
        return None
    return key


def _first_letters(text: bytes) -> str:
    return _read(b"".join(letter[0] for letter in islice(_LETTER.finditer(text), _LETTERS))) or ""


def _windows(body: Pieces, span: Span) -> Iterator[bytes]:
    start, end = span
    at = 0
    for part in body.parts:
        first, last = max(start - at, 0), min(end - at, len(part))
        for begin in range(first, last, WINDOW_BYTES):
            yield part[begin : min(begin + WINDOW_BYTES, last)]
        at += len(part)
