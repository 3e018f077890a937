"""chrF: how many of the control's runs of 1 to 6 characters the candidate has, and the other way round.

Source: Popović (2015), chrF: character n-gram F-score for automatic MT evaluation, WMT 15,
doi:10.18653/v1/W15-3049, as sacrebleu computes it for one sentence with its defaults (chrF2: six
characters, no words, beta 2, spaces left out), over 100. The control's answer is the reference.

Limits: beta 2 weighs what the candidate left out twice as much as what it added, so it is not
symmetric: swap the answers and the number moves a little. It reads characters, so it works without
word boundaries (Chinese, Japanese, Thai); texts about the same subject share many short runs, so
0.3 is already little.
"""

from functools import cache
from typing import Any, Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _similarity(pair: Pair) -> float | Reason:
    reference, hypothesis = pair.control.text.strip(), pair.candidate.text.strip()
    if reference == hypothesis:  # rounding would make it 0.9999…
        return 1.0 if reference else Reason.EMPTY
    if not reference or not hypothesis:
        return 0.0
    found: float = _metric().sentence_score(hypothesis, [reference]).score / 100
    return min(found, 1.0)


CHRF: Final = Similarity(name="chrf", version="1", measure=_similarity)
