"""Make a text harmless to whoever reads it: what a terminal or a log would obey is shown, not sent.

A reason, a key's name or an engine's error is written by somebody else. Control characters move the
cursor, rename the window or forge a line of the log; marks of direction and characters without width
make a text read as another one. All of these are written as escapes, `\\x1b` or `\\u202e`; letters of
every script stay as they are. Pure.
"""

import unicodedata
from typing import Final

# Control, format (marks of direction, characters without width), halves of surrogate pairs, ends of lines.
_ESCAPED_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# Letters and marks by their category, and nothing on the screen: fillers, a joiner, a blank, old vowel marks.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, most: int | None = None) -> str:
    """Return a text as it may be shown on a line of a terminal or of a log.

    Args:
        text: Anything; lone halves of surrogate pairs too.
        most: Characters at most; what is longer ends with `…`.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most - 1]}…"
    if text.isascii() and text.isprintable():
        return text
    shown = text.translate(_TABLE)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def needs_escape(letter: str) -> bool:
    """Whether a character is written as its escape."""
    return unicodedata.category(letter) in _ESCAPED_CATEGORIES or letter in _INVISIBLE


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Table(dict[int, str | None]):
    """What each character becomes, found when it is met; nothing is kept, as there are a million of them."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        return _escape(letter) if needs_escape(letter) else letter


_TABLE: Final = _Table()
