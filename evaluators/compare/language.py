"""Language: whether both answers are written in the same language.

Source: py3langid, a fork of langid.py (Lui and Baldwin, 2012, ACL demo P12-3005), 97 languages, on
the first 2,000 characters without code blocks and links.

Limits: there is no number below 40 bytes of letters (40 Latin ones, 20 Cyrillic, 14 Chinese),
where it guesses. Norwegian's two forms, Croatian with Bosnian and Serbian, and Indonesian with
Malay count as one each, because it cannot tell them apart. Lists of names or numbers may be taken
for anything; the noise pairs show how often. Symmetric.
"""

import re
from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair

MAX_CHARACTERS: Final = 2_000  # the identifier is sure long before
FEWEST_BYTES: Final = 40  # of letters in UTF-8, so that a script that says more with a letter needs fewer
_NOT_PROSE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_ONE: Final = {"nb": "no", "nn": "no", "bs": "hr", "sr": "hr", "ms": "id"}


def language_of(text: str) -> str | None:
    """Return a text's language (ISO 639-1), or None where there is too little prose to tell."""
    import py3langid

    prose = _NOT_PROSE.sub(" ", text[: 2 * MAX_CHARACTERS])[:MAX_CHARACTERS]
    if len("".join(filter(str.isalpha, prose)).encode(errors="replace")) < FEWEST_BYTES:
        return None
    found = str(py3langid.classify(prose)[0])
    return _ONE.get(found, found)


def _is_same(pair: Pair) -> float | Reason:
    if not pair.control.text.strip() or not pair.candidate.text.strip():
        return Reason.EMPTY
    ours = language_of(pair.control.text)
    theirs = language_of(pair.candidate.text) if ours else None
    return Reason.TOO_SHORT if ours is None or theirs is None else float(ours == theirs)


LANGUAGE: Final = Similarity(name="language", version="1", measure=_is_same, needs_whole=False)
