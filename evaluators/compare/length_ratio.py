"""Length ratio: the shorter answer's length over the longer one's, in characters.

Limits: says nothing of content. Text alone counts, so two answers that only call tools have no
ratio, and one that calls tools beside one that talks has 0. Tokens, reasoning included, are
compared by `tokens`. Symmetric.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair


def _ratio(pair: Pair) -> float | Reason:
    shorter, longer = sorted((len(pair.control.text.strip()), len(pair.candidate.text.strip())))
    return shorter / longer if longer else Reason.EMPTY


LENGTH_RATIO: Final = Similarity(name="length_ratio", version="1", measure=_ratio)
