"""Escapes characters of untrusted text that a terminal or log would act on, or that hide what it says. Pure.

An operator's reason, a key's name or an engine's error may hold anything. Control characters move the cursor, rename
the window or forge a log line; direction marks and zero-width characters make a text look like another one. All of
these are written as escapes, `\\x1b` or `\\u202e`; letters of every script stay unchanged.
"""

import unicodedata
from typing import Final

# Control characters, format characters (direction marks, zero width), lone surrogates, line and paragraph separators.
_ESCAPED_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# Characters that are letters or marks by category but invisible: fillers, a joiner, a blank, old vowel marks.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, most: int | None = None) -> str:
    """Return a text that is safe to show on one line of a terminal or log.

    Args:
        text: Any text, even with lone surrogates.
        most: The most characters; a longer text is cut and ends with `…`.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most - 1]}…"
    if text.isascii() and text.isprintable():
        return text
    shown = text.translate(_TABLE)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def needs_escape(letter: str) -> bool:
    """Whether a character is written as an escape."""
    return unicodedata.category(letter) in _ESCAPED_CATEGORIES or letter in _INVISIBLE


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Table(dict[int, str | None]):
    """A table for `str.translate` that computes each entry on use, and stores none: there are a million characters."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        return _escape(letter) if needs_escape(letter) else letter


_TABLE: Final = _Table()
