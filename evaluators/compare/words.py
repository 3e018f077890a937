"""A text's words, for comparators that count them; in scripts without spaces every letter is one."""

import re
from typing import Final

# Thai, Lao, Myanmar, Khmer, kana and Han. Not Hangul: Korean writes spaces.
_SPACELESS: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SPACELESS_LETTER: Final = re.compile(rf"[{_SPACELESS}]")
_WORD: Final = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")
# Up to eight of one sign are one piece, so a table's rule is short and an endless row of dots is not.
_PIECE: Final = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|([^\w\s])\1{{0,7}}")
# Longer than nearly every word there is: what is longer is no word, and is looked at letter by letter.
MAX_WORD: Final = 60


def is_spaceless(letter: str) -> bool:
    """Whether a letter is of a script that writes no spaces between words."""
    return _SPACELESS_LETTER.fullmatch(letter) is not None


def words(text: str) -> list[str]:
    """Return the words of a text, case folded; signs are left out."""
    return _WORD.findall(text.casefold())


def pieces(text: str) -> list[str]:
    """Return words and signs of a text, case folded; a run of letters that is no word comes as letters."""
    found: list[str] = []
    for match in _PIECE.finditer(text.casefold()):
        if match.end() - match.start() > MAX_WORD:
            found.extend(match[0])
        else:
            found.append(match[0])
    return found
