"""Undo other spellings of a text: escapes of JSON, scripts, URLs and HTML, full-width characters, other dashes,
characters without width. Pure.

`alice\\u0040example.com` in a tool's arguments and `alice%40example.com` in a URL are addresses, and redactors must
find them.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|([/\"\\]))")
# Numbers may have any count of leading zeros. Of the named characters, only those that occur in addresses.
_HTML: Final = re.compile(
    r"&(?:#[xX]0*+([0-9a-fA-F]{1,6})|#0*+([0-9]{1,7})|(commat|period|amp|lowbar|plus|colon|sol));?"
)
_NAMED: Final = {"commat": "@", "period": ".", "amp": "&", "lowbar": "_", "plus": "+", "colon": ":", "sol": "/"}
_PERCENT: Final = re.compile(r"%[0-9a-fA-F]{2}")
# Each protocol around a text escapes it once more, such as a URL in a tool's arguments in a message.
_MAX_LAYERS: Final = 4


def plain_spelling(text: str) -> str:
    """Return a text with its escapes undone, nested ones included, and its unusual characters made usual ones."""
    for _ in range(_MAX_LAYERS):
        plain = _plainer(text)
        if plain == text:
            break
        text = plain
    return text


def _plainer(text: str) -> str:
    if "\\" in text:
        text = _ESCAPE.sub(_unescape, text)
    if "%" in text and _PERCENT.search(text):
        text = unquote(text)
    if "&" in text:
        text = _HTML.sub(_sign, text)
    if not text.isascii():
        text = "".join([_usual(sign) for sign in unicodedata.normalize("NFKC", text)])
    return text


def _usual(sign: str) -> str:
    if sign < "\xad":
        return sign
    kind = unicodedata.category(sign)
    return "" if kind == "Cf" else "-" if kind == "Pd" else sign


def _unescape(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if not digits:
        return found[4]
    code = int(digits, 16)
    return chr(code) if code < 0x110000 else found[0]


def _sign(found: re.Match[str]) -> str:
    if found[3]:
        return _NAMED[found[3]]
    code = int(found[1], 16) if found[1] else int(found[2])
    return chr(code) if code < 0x110000 else found[0]
