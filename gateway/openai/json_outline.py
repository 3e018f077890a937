"""Locates the members of a JSON object in short steps, whatever the object holds.

A parser in C reads 32 MiB in one call of 15 to 170 ms, and nothing else runs meanwhile: it holds the interpreter's
lock, so a thread would not help. This walk takes a body a window at a time and yields after each. It tracks only
strings and the nesting of brackets: commas, literals and numbers inside values are left to the engine, which parses the
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

# With much deeper nesting json.loads in the engine runs out of stack and answers 500. This is twice what strict
# JSON-schema tools produce; Go's encoding/json stops at 10,000, .NET's at 64, orjson at 1,024.
DEEPEST_NESTING: Final = 200
# Members of the top-level object: OpenAI's endpoints know about 40, and each costs some microseconds.
MAX_MEMBERS: Final = 1024
# Inside values. Ten thousand messages with parts and tool calls have about 100,000 arrays and objects.
MAX_CONTAINERS: Final = 1_000_000
MAX_STRINGS: Final = 2_000_000
# The size of one step: at worst 5 ms, usually 0.1 ms.
WINDOW_BYTES: Final = 32 * 1024

_MEMBERS_A_STEP: Final = 32  # a window may hold thousands of members
_FIRST_BYTES: Final = 64  # the first slice of a nested value; each next slice is four times as large
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_SCALAR: Final = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
# Matches up to the closing quote, or to a backslash at the window's end whose escape is cut off.
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_QUOTE, _BACKSLASH, _COLON, _COMMA = b'"\\:,'
_OPENING, _CLOSING = b"{}"

Span = tuple[int, int]
Steps = Generator[None, None, None]
T = TypeVar("T")


class Outline(NamedTuple):
    """Byte positions in a JSON object.

    Attributes:
        opening: The position after the opening brace.
        closing: The position of the closing brace.
        is_empty: Whether it has no members.
        members: Name → positions of its values: the first and, if the name is repeated, the last.
    """

    opening: int
    closing: int
    is_empty: bool
    members: dict[str, list[Span]]


def outline_of(body: bytes, wanted: Collection[str]) -> Outline:
    """Return the positions of the members named in `wanted`, in one go.

    Raises:
        BadRequest: The body is no JSON object, or has too many parts.
    """
    return run_to_end(outline_in_steps(Pieces((body,)), wanted))


def run_to_end(steps: Generator[None, None, T]) -> T:
    """Run a generator of steps to its end, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def outline_in_steps(body: Pieces, wanted: Collection[str]) -> Generator[None, None, Outline]:
    """Return the positions of the members named in `wanted`; yields after each short step.

    Raises:
        BadRequest: The body is no JSON object, or has too many parts.
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
    """Check how deep the brackets of a JSON text nest; for texts with some thousand brackets at most.

    Raises:
        BadRequest: They nest deeper than `DEEPEST_NESTING`.
    """
    outside, _, _ = outside_of(body, in_string=0)
    _levels(outside.translate(None, _NOT_BRACKETS), 0)


class _Walk:
    """A position in a body, and the window of bytes around it."""

    def __init__(self, body: Pieces) -> None:
        self._body = body
        self._windows = _windows(body.parts)
        self._window = b""
        self._base = 0  # the window's position in the body
        self._at = 0  # the position in the window
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._is_in_letter = False  # the window ended inside a multi-byte character
        self._containers = 0
        self._quotes = 0

    @property
    def place(self) -> int:
        """The position in the body."""
        return self._base + self._at

    @property
    def byte(self) -> int:
        """The byte at the position; valid after `to_next`."""
        return self._window[self._at]

    def expect(self, byte: int) -> None:
        """Skip a byte, which has to be `byte`."""
        if self._window[self._at] != byte:
            raise self.invalid()
        self._at += 1

    def invalid(self) -> BadRequest:
        """Return the error for a body that is no JSON object."""
        return BadRequest(f"The body is not a valid JSON object (near byte {self.place}).")

    def to_next(self) -> Steps:
        """Skip white space."""
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
        """Skip the white space after the object, and check that nothing else follows."""
        while True:
            self._at = _ends(_SPACE, self._window, self._at)
            if self._at < len(self._window):
                raise self.invalid()
            if not self._advance():
                break
            yield

    def key(self, longest: int) -> Generator[None, None, str]:
        """Skip a key and return it; empty if it is longer than `longest`, so none of the wanted ones."""
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
        """Skip a value."""
        first = self.byte
        if first == _QUOTE:
            yield from self._string()
        elif first in b"[{":
            yield from self._skip_nested()
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
                    end += 2  # the window ends inside an escape
            self._at = end
            if end < len(window):
                self._at += 1
                return
            if not self._advance():
                raise self.invalid()
            yield

    def _skip_nested(self) -> Steps:
        """Skip an array or an object: by growing slices until one holds its end, then by halving that slice."""
        depth, in_string, is_escaped = 1, 0, False  # depth 1: inside the top-level object
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
        """Take the next window; False after the last one."""
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
    """Return where the match of `pattern` at `at` ends; `at` if it matches nothing."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def outside_of(text: bytes, in_string: int, *, is_escaped: bool = False) -> tuple[bytes, int, bool]:
    """Return the bytes outside of strings, the number of quotes, and whether the text ends inside an escape.

    Args:
        text: A part of a JSON text.
        in_string: 1 if it begins inside a string, else 0.
        is_escaped: Whether its first byte is the second byte of an escape.
    """
    if is_escaped:
        text = text[1:]
    ends_escaped = False
    if b"\\" in text:
        # Pairs of backslashes are removed first: a backslash left before a quote then escapes it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        ends_escaped = text.endswith(b"\\")
    between = text.split(b'"')
    return b"".join(between[in_string::2]), len(between) - 1, ends_escaped


def _levels(brackets: bytes, depth: int) -> tuple[int, int]:
    """Return the lowest and the last nesting level that `brackets` lead to from `depth`.

    The lowest is exact if it is 1 or less; above that it may be a lower bound that is still above 1.

    Raises:
        BadRequest: They lead deeper than `DEEPEST_NESTING`.
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
