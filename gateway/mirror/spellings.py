"""The same words, spelled otherwise: escapes of JSON, of URLs and of HTML, full-width signs, signs without width.

`alice\\u0040example.com` in a tool's arguments and `alice%40example.com` in a URL are addresses. Pure.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

_JSON: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([/\"\\]))")
# At most seven digits: what is longer is no sign. By name only those that addresses hold.
_HTML: Final = re.compile(r"&(?:#x([0-9a-fA-F]{1,6})|#([0-9]{1,7})|(commat|period|amp|lowbar|plus|colon|sol));?")
_NAMED: Final = {"commat": "@", "period": ".", "amp": "&", "lowbar": "_", "plus": "+", "colon": ":", "sol": "/"}
_PERCENT: Final = re.compile(r"%[0-9a-fA-F]{2}")


def plain_spelling(text: str) -> str:
    """Return a text with its escapes and its unusual signs as what they stand for."""
    if "\\" in text:
        text = _JSON.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
    if "%" in text and _PERCENT.search(text):
        text = unquote(text)
    if "&" in text:
        text = _HTML.sub(_sign, text)
    if not text.isascii():
        text = "".join(
            sign for sign in unicodedata.normalize("NFKC", text) if sign < "\xad" or unicodedata.category(sign) != "Cf"
        )
    return text


def _sign(found: re.Match[str]) -> str:
    if found[3]:
        return _NAMED[found[3]]
    code = int(found[1], 16) if found[1] else int(found[2])
    return chr(code) if code < 0x110000 else found[0]
