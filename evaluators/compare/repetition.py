"""Repetition: the share of an answer's runs of four words that it had already said.

Source: `seq-rep-4` of Welleck et al. (2020), Neural Text Generation with Unlikelihood Training,
ICLR, arXiv:1908.04319: 1 - distinct 4-grams / 4-grams. Changed: over words and signs instead of
the model's tokens; an unbroken run of more than 60 letters counts letter by letter, so `hahaha…`
is seen as the loop that it is.

Limits: an answer of fewer than four pieces repeats nothing. Tables, lists of records and verses
repeat themselves rightly: compare with the other arm, as this comparator does. Empty is no number.
"""

from typing import Final

from evaluators.compare.comparator import Difference, Direction, Reason
from evaluators.compare.words import pieces
from evaluators.observation import Observation, Prompt

RUN: Final = 4  # pieces; of the sizes that the source reports, the one that it ranks models by


def repetition_share(text: str) -> float:
    """Return the share in [0, 1] of runs of four pieces that had occurred before; 0 for fewer than four."""
    found = pieces(text)
    runs = list(zip(*(found[start:] for start in range(RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _look(_prompt: Prompt, answer: Observation) -> float | Reason:
    if not answer.text.strip():
        return Reason.TOOL_CALLS if answer.tool_calls else Reason.EMPTY
    return repetition_share(answer.text)


REPETITION: Final = Difference(
    name="repetition", version="1", direction=Direction.LOWER_IS_BETTER, look=_look, needs_whole=False
)
