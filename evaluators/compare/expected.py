"""Expected: whether an answer holds what the caller says that a right one holds (`metadata.expected`).

Both are case folded, their spaces evened out (NFKC). The words must stand by themselves: `4` is not
found in `14`, `4.5`, `x4` or ` -4`. Where a script has no spaces no boundary is asked for.

Limits: it looks for the words, not for the meaning: "not Paris" holds `Paris`, and "four" is not
`4`. An answer without text is wrong, unless it called a tool: then there is no answer yet.
"""

import unicodedata
from typing import Final

from evaluators.compare.comparator import Difference, Direction, Reason
from evaluators.compare.words import is_spaceless
from evaluators.observation import Observation, Prompt

# Of what a caller says: to look for more at each place of an answer would take minutes. Characters.
LONGEST: Final = 4_000


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _stands_alone(text: str, first: int, last: int) -> bool:
    """Whether the words in `text[first:last]` are no part of a longer word or number."""
    before, after = text[max(first - 2, 0) : first], text[last : last + 2]
    if text[first].isdigit():
        is_fraction = len(before) == 2 and before[0].isdigit() and before[1] in ".,"
        is_negative = before[-1:] in ("-", "−") and (len(before) == 1 or before[0].isspace())
        if is_fraction or is_negative:
            return False
    if text[last - 1].isdigit() and len(after) == 2 and after[0] in ".," and after[1].isdigit():
        return False
    if _is_in_word(text[first]) and _is_letter(before[-1:]):
        return False
    return not (_is_in_word(text[last - 1]) and _is_letter(after[:1]))


def _is_letter(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _is_in_word(letter: str) -> bool:
    return (letter.isalnum() or letter == "_") and not is_spaceless(letter)


def _look(prompt: Prompt, answer: Observation) -> float | Reason:
    wanted = _even(prompt.expected or "")
    if not wanted or len(wanted) > LONGEST:
        return Reason.NO_EXPECTED
    if not answer.text.strip() and answer.tool_calls:
        return Reason.TOOL_CALLS
    text = _even(answer.text)
    first = text.find(wanted)
    while first >= 0 and not _stands_alone(text, first, first + len(wanted)):
        first = text.find(wanted, first + 1)
    return float(first >= 0)


EXPECTED: Final = Difference(name="expected", version="1", direction=Direction.HIGHER_IS_BETTER, look=_look)
