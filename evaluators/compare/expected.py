"""Expected: whether an answer holds what the caller says that a right one holds (`metadata.expected`).

Both are case folded, their spaces evened out (NFKC). The words must stand by themselves: `4` is not
found in `14`, `4.5`, `x4` or ` -4`. Where a script has no spaces no boundary is asked for.

Limits: it looks for the words, not for the meaning: "not Paris" holds `Paris`, and "four" is not
`4`. An answer without text is wrong, unless it called a tool: then there is no answer yet.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

from evaluators.compare.comparator import Difference, Direction, Reason
from evaluators.compare.words import is_spaceless
from evaluators.observation import Observation, Prompt


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=256)
def _pattern(wanted: str) -> re.Pattern[str]:
    first, last = wanted[0], wanted[-1]
    before = after = ""
    if first.isdigit():
        before = r"(?<![\d][.,])(?<!\s[-−])(?<!^[-−])"
    if last.isdigit():
        after = r"(?![.,]\d)"
    if _is_in_word(first):
        before += r"(?<!\w)"
    if _is_in_word(last):
        after += r"(?!\w)"
    return re.compile(f"{before}{re.escape(wanted)}{after}")


def _is_in_word(letter: str) -> bool:
    return (letter.isalnum() or letter == "_") and not is_spaceless(letter)


def _look(prompt: Prompt, answer: Observation) -> float | Reason:
    wanted = _even(prompt.expected or "")
    if not wanted:
        return Reason.NO_EXPECTED
    if not answer.text.strip() and answer.tool_calls:
        return Reason.TOOL_CALLS
    return float(_pattern(wanted).search(_even(answer.text)) is not None)


EXPECTED: Final = Difference(name="expected", version="1", direction=Direction.HIGHER_IS_BETTER, look=_look)
