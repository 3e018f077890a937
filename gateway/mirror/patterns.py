"""Search an operator's pattern in callers' texts, in time that is linear in the text's length.

A backtracking engine such as Python's needs exponential time for `(\\w+\\s?)+@corp\\.example` and one plain sentence,
and holds the interpreter meanwhile. RE2 is an automaton. It has no look-around and no back-references, so a policy with
these is refused when it is written; and other threads run while it searches.

RE2's classes `\\w`, `\\d`, `\\s` and its boundary `\\b` are for ASCII only. A pattern must not find less than its
writer means. So in the text that RE2 searches, characters beyond ASCII that the pattern does not name are replaced by
one ASCII character each, which keeps the positions. One search is linear, but there may be one for each character, and
a large pattern takes many steps for each. So callers must be able to end the search. Pure.
"""

import re
from functools import cache
from typing import Final

import re2

LONGEST: Final = 1_000
# The size of a compiled pattern in RE2's instructions. One search takes at most this many steps a byte, usually one.
MAX_PROGRAM: Final = 2_000
_MEMORY_BYTES: Final = 8 * 1024 * 1024

# One token of a pattern: an escape, a whole class, or a construct that Python and RE2 write differently.
_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*+\]|\{,(?=\d+\})|\$", re.DOTALL)
_NAMES_MORE: Final = re.compile(r"\\[pPxuUN]|[^\x00-\x7f]")
_UNICODE: Final = {"w": r"\p{L}\p{N}_", "d": r"\p{Nd}", "s": r"\s\v\x1c-\x1f\x{85}\p{Z}"}


class InvalidPattern(ValueError):
    """The text is not a pattern that can be searched for in linear time; the message says why and what to write."""


class Pattern:
    """A compiled pattern.

    Args:
        text: In the syntax that RE2 and Python share.

    Raises:
        InvalidPattern: The text is not such a pattern.
    """

    def __init__(self, text: str) -> None:
        if not text or len(text) > LONGEST:
            raise InvalidPattern(f"has a pattern of {len(text)} characters; give 1 to {LONGEST}")
        self._names_more = _NAMES_MORE.search(text) is not None
        # `_` stands for every letter, unless the pattern names `_`, as `[^\W\d_]` does for letters.
        self._stand_in = _StandIn("x" if "_" in text else "_")
        options = re2.Options()
        options.max_mem = _MEMORY_BYTES
        options.log_errors = False
        try:
            self._regexp = re2.compile(_translate(text, names_more=self._names_more), options)
            size = self._regexp.programsize
        except (re2.error, UnicodeEncodeError) as error:
            raise InvalidPattern(f"is no regular expression that RE2 can search for ({_message_of(error)})") from None
        if size > MAX_PROGRAM:
            raise InvalidPattern(
                f"takes {size:,} instructions, more than {MAX_PROGRAM:,}; write smaller counts in `{{…}}`"
            )

    def replace(self, text: str, by: str) -> str:
        """Return a text in which every match is replaced, from left to right without overlaps."""
        # RE2 takes UTF-8, which has no lone surrogates. Replacing one character by one keeps the positions.
        shadow = text if text.isascii() and not self._names_more else text.translate(_NO_SURROGATES)
        if not self._names_more:
            shadow = shadow.translate(self._stand_in)
        parts: list[str] = []
        end = 0
        for found in self._regexp.finditer(shadow):
            first, last = found.span()
            if first == last:
                continue  # `x*` matches the empty text everywhere; there is nothing to replace
            parts += text[end:first], by
            end = last
        return "".join((*parts, text[end:])) if parts else text


@cache
def pattern_of(text: str) -> Pattern:
    """Return a compiled pattern, from a cache.

    Raises:
        InvalidPattern: The text is not a pattern.
    """
    return Pattern(text)


class _NoSurrogates(dict[int, int]):
    def __missing__(self, code: int) -> int:
        return 0xFFFD if 0xD800 <= code < 0xE000 else code


_NO_SURROGATES: Final = _NoSurrogates()


class _StandIn(dict[int, str | int]):
    """Maps a character to one that ASCII's classes treat in the same way."""

    def __init__(self, letter: str) -> None:
        super().__init__()
        self._letter = letter

    def __missing__(self, code: int) -> str | int:
        sign = chr(code)
        if sign != "\n" and sign.isspace():
            found: str | int = " " if sign not in "\t\f\r" else code
        elif code < 0x80:
            found = code
        else:
            found = "0" if sign.isdecimal() else self._letter if sign.isalnum() else code
        if code < 0x250:  # cache the alphabets of most texts
            self[code] = found
        return found


def _translate(text: str, *, names_more: bool) -> str:
    """Return Python's spelling of a pattern in RE2's. Raises InvalidPattern where RE2 has no equivalent."""

    def one(found: re.Match[str]) -> str:
        part = found[0]
        if part == r"\Z":
            return r"\z"
        if part == r"\C":
            raise InvalidPattern(r"has `\C`, which is a byte; write `.` for a character")
        if part == "$":
            # In Python `$` also matches before a final line end.
            return "$" if re.search(r"\(\?[a-zA-Z]*m", text) else r"(?:\n?\z)"
        if part == "{,":
            return "{0,"
        if not names_more:
            return part
        if part in (r"\b", r"\B"):
            raise InvalidPattern(
                rf"has `{part}` beside letters that are not ASCII, of which RE2 knows no boundary; leave it out"
            )
        if part[0] == "[":
            return _class_of_all_letters(part)
        if part[0] == "\\" and part[1].lower() in _UNICODE:
            return f"[{'^' if part[1].isupper() else ''}{_UNICODE[part[1].lower()]}]"
        return part

    return _TOKEN.sub(one, text)


def _class_of_all_letters(part: str) -> str:
    def one(found: re.Match[str]) -> str:
        letter = found[0][1]
        if letter in "WSD":
            raise InvalidPattern(rf"has `\{letter}` in a class beside letters that are not ASCII; write `\P{{L}}`")
        return _UNICODE.get(letter, found[0])

    return re.sub(r"\\.", one, part, flags=re.DOTALL)


def _message_of(error: Exception) -> str:
    found = str(error.args[0] if error.args else error)
    text = found[2:-1] if found[:2] in ("b'", 'b"') else found
    if "perl operator" in text or "escape sequence" in text or "named capture" in text or "group" in text:
        return f"{text}; it neither looks around nor back: write what is to be found itself"
    return text
