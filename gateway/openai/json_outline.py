"""Where the members of a JSON object stand, found in steps that are short whatever the object holds.

A parser in C reads 32 MiB in one call of 15 to 170 ms, and nothing else runs meanwhile: it holds
the interpreter's lock, so a thread would not help. This takes a body a window at a time and
yields after each. It knows what is inside strings and how deep brackets nest, and nothing
more: commas, literals and numbers inside values are the engine's to judge, which parses the
body anyway. Its work grows with the body's length alone: see docs/decisions/0024-large-bodies.md.
"""

import codecs
import json
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

from gateway.errors import BadRequest
from gateway.openai.pieces import Pieces

# Nested deeper, json.loads in the engine runs out of stack and answers 500. Twice what strict
# JSON-schema tools produce; Go's encoding/json stops at 10,000, .NET's at 64, orjson at 1,024.
DEEPEST_NESTING: Final = 200
# Of the object itself: OpenAI's endpoints know about 40, and each costs some microseconds.
MAX_MEMBERS: Final = 1024
# In values. Ten thousand messages with parts and tool calls have about 100,000 arrays and objects.
MAX_CONTAINERS: Final = 1_000_000
MAX_STRINGS: Final = 2_000_000
# One step: at worst 5 ms, usually 0.1 ms.
WINDOW_BYTES: Final = 32 * 1024

_MEMBERS_A_STEP: Final = 32  # there may be thousands in a window
_FIRST_BYTES: Final = 64  # of a value that is looked at first, four times as much each time after
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_SCALAR: Final = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
# Up to the closing quote, or a backslash at the very end whose escape is still to come.
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_QUOTE, _BACKSLASH, _COLON, _COMMA = b'"\\:,'
_OPENING, _CLOSING = b"{}"

Span = tuple[int, int]
Steps = Generator[None, None, None]
T = TypeVar("T")


class Outline(NamedTuple):
    """Where an object's parts stand, in bytes.

    Attributes:
        opening: Behind the opening brace.
        closing: The closing brace.
        is_empty: It has no members.
        members: Name → where its values are: the first and, if there are several, the last.
    """

    opening: int
    closing: int
    is_empty: bool
    members: dict[str, list[Span]]


def outline_of(body: bytes, wanted: Collection[str]) -> Outline:
    """Return where the members named in `wanted` stand in a JSON object, without a pause.

    Raises:
        BadRequest: It is no JSON object, or has too many parts.
    """
    return finished(outline_in_steps(Pieces((body,)), wanted))


def finished(steps: Generator[None, None, T]) -> T:
    """Take all steps at once and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def outline_in_steps(body: Pieces, wanted: Collection[str]) -> Generator[None, None, Outline]:
    """Find where the members named in `wanted` stand in a JSON object; yields after each short step.

    Raises:
        BadRequest: It is no JSON object, or has too many parts.
    """
    walk = _Walk(body)
    longest_key = 2 + 6 * max(map(len, wanted))  # quotes, and each letter as `\\u00xx`
    members: dict[str, list[Span]] = {}
    yield from walk.to_next()
    walk.expect(_OPENING)
    opening = walk.place
    yield from walk.to_next()
    is_empty = walk.byte == _CLOSING
    count = 0
    while not is_empty:
        count += 1
        if count > MAX_MEMBERS:
            raise BadRequest(f"The body has more than {MAX_MEMBERS:,} members of its own, the limit; send fewer.")
        if not count % _MEMBERS_A_STEP:
            yield
        key = yield from walk.key(longest_key)
        yield from walk.to_next()
        walk.expect(_COLON)
        yield from walk.to_next()
        start = walk.place
        yield from walk.value()
        if key in wanted:
            members.setdefault(key, [])[1:] = [(start, walk.place)]
        yield from walk.to_next()
        if walk.byte == _CLOSING:
            break
        walk.expect(_COMMA)
        yield from walk.to_next()
    closing = walk.place
    walk.expect(_CLOSING)
    yield from walk.to_end()
    return Outline(opening, closing, is_empty, members)


def check_nesting(body: bytes) -> None:
    """Refuse a JSON text of at most some thousand brackets if they nest too deeply.

    Raises:
        BadRequest: They do.
    """
    outside, _, _ = outside_of(body, in_string=0)
    _levels(outside.translate(None, _NOT_BRACKETS), 0)


class _Walk:
    """A place in a body, and the window of bytes around it."""

    def __init__(self, body: Pieces) -> None:
        self._body = body
        self._windows = _windows(body.parts)
        self._window = b""
        self._base = 0  # where the window begins
        self._at = 0  # in the window
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._is_in_letter = False  # a window has ended within a letter of several bytes
        self._containers = 0
        self._quotes = 0

    @property
    def place(self) -> int:
        """Where we are in the body."""
        return self._base + self._at

    @property
    def byte(self) -> int:
        """What is there; after `to_next`."""
        return self._window[self._at]

    def expect(self, byte: int) -> None:
        """Pass a byte that has to be there."""
        if self._window[self._at] != byte:
            raise self.invalid()
        self._at += 1

    def invalid(self) -> BadRequest:
        """Return the error of a body that is no JSON object."""
        return BadRequest(f"The body is not a valid JSON object (near byte {self.place}).")

    def to_next(self) -> Steps:
        """Go to the next byte that is no white space."""
        while True:
            if self._at < len(self._window):
                if self._window[self._at] > 0x20:
                    return
                self._at = _ends(_SPACE, self._window, self._at)
                if self._at < len(self._window):
                    return
            if not self._advance():
                raise self.invalid()
            yield

    def to_end(self) -> Steps:
        """Pass the white space behind the object, and see that there is nothing else."""
        while True:
            self._at = _ends(_SPACE, self._window, self._at)
            if self._at < len(self._window):
                raise self.invalid()
            if not self._advance():
                break
            yield
        if self._is_in_letter:
            raise self.invalid()

    def key(self, longest: int) -> Generator[None, None, str]:
        """Pass a key and return it; one longer than `longest` is nobody's."""
        if self.byte != _QUOTE:
            raise self.invalid()
        start = self.place
        yield from self._string()
        if self.place - start > longest:
            return ""
        raw = self._body.cut(start, self.place) if start < self._base else self._window[start - self._base : self._at]
        if b"\\" not in raw:
            return raw[1:-1].decode()
        try:
            key: str = json.loads(raw, strict=False)
        except ValueError:
            raise self.invalid() from None
        return key

    def value(self) -> Steps:
        """Pass a value."""
        first = self.byte
        if first == _QUOTE:
            yield from self._string()
        elif first in b"[{":
            yield from self._nested()
        else:
            start = self.place
            while True:
                self._at = _ends(_SCALAR, self._window, self._at)
                if self._at < len(self._window) or not self._advance():
                    break
                yield
            if self.place == start:
                raise self.invalid()

    def _string(self) -> Steps:
        self._at += 1
        while True:
            window, at = self._window, self._at
            quote = window.find(b'"', at)
            end = len(window) if quote < 0 else quote
            if window.find(b"\\", at, end) >= 0:
                end = _ends(_IN_STRING, window, at)
                if window[end : end + 1] == b"\\":
                    end += 2  # the window ends within an escape
            self._at = end
            if end < len(window):
                self._at += 1
                return
            if not self._advance():
                raise self.invalid()
            yield

    def _nested(self) -> Steps:
        """Pass an array or an object: larger and larger slices until one holds its end, then smaller ones."""
        depth, in_string, is_escaped = 1, 0, False  # 1: the object whose member this is
        size = _FIRST_BYTES
        limit = len(self._window)
        while True:
            if self._at >= len(self._window):
                if not self._advance():
                    raise self.invalid()
                limit = len(self._window)
                yield
            end = min(self._at + size, limit)
            outside, quotes, ends_escaped = outside_of(self._window[self._at : end], in_string, is_escaped=is_escaped)
            brackets = outside.translate(None, _NOT_BRACKETS)
            lowest, after = _levels(brackets, depth)
            is_in_here = lowest <= 1
            if is_in_here and end - self._at > 1:
                limit = end
                size = (end - self._at) // 2
                continue
            self._count(brackets, quotes)
            self._at = end
            if is_in_here:
                return
            depth, in_string, is_escaped = after, in_string ^ (quotes & 1), ends_escaped
            size = max((limit - end) // 2, 1) if limit < len(self._window) else min(4 * size, WINDOW_BYTES)

    def _count(self, brackets: bytes, quotes: int) -> None:
        self._containers += brackets.count(b"[") + brackets.count(b"{")
        self._quotes += quotes
        if self._containers > MAX_CONTAINERS:
            raise BadRequest(
                f"The body has more than {MAX_CONTAINERS:,} arrays and objects, the limit; send less in one request."
            )
        if self._quotes > 2 * MAX_STRINGS:
            raise BadRequest(f"The body has more than {MAX_STRINGS:,} strings, the limit; send less in one request.")

    def _advance(self) -> bool:
        """Take the next window; False behind the last one."""
        window = next(self._windows, None)
        if window is None:
            return False
        if self._is_in_letter or not window.isascii():
            try:
                self._utf8.decode(window)
            except UnicodeDecodeError:
                raise self.invalid() from None
            self._is_in_letter = bool(self._utf8.getstate()[0])
        self._at -= len(self._window)
        self._base += len(self._window)
        self._window = window
        return True


def _windows(parts: Sequence[bytes]) -> Iterator[bytes]:
    for part in parts:
        for at in range(0, len(part), WINDOW_BYTES):
            yield part[at : at + WINDOW_BYTES]


def _ends(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return where a pattern that may match nothing ends."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def outside_of(text: bytes, in_string: int, *, is_escaped: bool = False) -> tuple[bytes, int, bool]:
    """Return what stands outside of strings, how many quotes there are, and whether an escape is still to end.

    Args:
        text: A part of a JSON text.
        in_string: 1 if it begins within a string, else 0.
        is_escaped: Its first byte belongs to an escape.
    """
    if is_escaped:
        text = text[1:]
    ends_escaped = False
    if b"\\" in text:
        # Pairs of backslashes first, so that one which is left in front of a quote escapes it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        ends_escaped = text.endswith(b"\\")
    between = text.split(b'"')
    return b"".join(between[in_string::2]), len(between) - 1, ends_escaped


def _levels(brackets: bytes, depth: int) -> tuple[int, int]:
    """Return the lowest level that brackets lead to from `depth`, or a bound below it that is above 1; and the last.

    Raises:
        BadRequest: They lead too deep.
    """
    opened = brackets.count(b"[") + brackets.count(b"{")
    closed = len(brackets) - opened
    after = depth + opened - closed
    if depth - closed > 1 and depth + opened <= DEEPEST_NESTING:
        return depth - closed, after
    levels = list(accumulate(map(_STEP.__getitem__, brackets), initial=depth))
    if max(levels) > DEEPEST_NESTING:
        raise BadRequest(f"The body is nested more than {DEEPEST_NESTING} levels deep.")
    return min(levels[1:], default=depth), after
