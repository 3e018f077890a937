"""Edit similarity: 1 - (insertions, deletions, replacements) / length of the longer answer, in characters.

Source: Levenshtein's distance, normalised by the longer text, as rapidfuzz computes it
(`rapidfuzz.distance.Levenshtein.normalized_similarity`).

Limits: a paraphrase of the same content scores low; word order counts. One empty answer beside one
with text scores 0. Symmetric.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair


def _similarity(pair: Pair) -> float | Reason:
    from rapidfuzz.distance import Levenshtein

    ours, theirs = pair.control.text, pair.candidate.text
    if not ours.strip() and not theirs.strip():
        return Reason.EMPTY
    return Levenshtein.normalized_similarity(ours, theirs)


EDIT: Final = Similarity(name="edit", version="1", measure=_similarity)
