"""TTFT: the control's time to first token over both arms' together; below 0.5 the candidate is slower.

Limits: the copy is asked later, at low priority, maybe on another engine and with a warmer prefix
cache, so alone it says little: it is judged against the noise pairs, which wait in the same way.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.compare.relative import control_share
from evaluators.observation import Pair


def _share(pair: Pair) -> float | Reason:
    return control_share(pair.control.ttft_seconds, pair.candidate.ttft_seconds, Reason.NOT_STREAMED)


TTFT: Final = Similarity(name="ttft", version="1", measure=_share, needs_whole=False)
