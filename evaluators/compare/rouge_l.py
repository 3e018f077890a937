"""ROUGE-L: the longest common subsequence of words, as the F1 of its shares of both answers.

Source: Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, ACL workshop Text
Summarization Branches Out, W04-1013; the subsequence is rapidfuzz's (`LCSseq`). Changed: beta is 1,
and words are Unicode words, single letters where a script has no spaces; nothing is stemmed.

Limits: word order counts, synonyms do not. Punctuation and case are ignored. Symmetric.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.compare.words import words
from evaluators.observation import Pair


def _f1(pair: Pair) -> float | Reason:
    from rapidfuzz.distance import LCSseq

    ours, theirs = words(pair.control.text), words(pair.candidate.text)
    if not ours and not theirs:
        return Reason.EMPTY
    return 2 * LCSseq.similarity(ours, theirs) / (len(ours) + len(theirs))


ROUGE_L: Final = Similarity(name="rouge_l", version="1", measure=_f1)
