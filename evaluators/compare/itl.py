"""ITL: the control's mean time between tokens over both arms' together; below 0.5 the candidate is slower.

Limits: both answers must have been streamed and have at least two tokens. Moves with the engines'
load, so it is judged against the noise pairs.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.compare.relative import control_share
from evaluators.observation import Pair


def _share(pair: Pair) -> float | Reason:
    return control_share(pair.control.itl_seconds, pair.candidate.itl_seconds, Reason.NOT_STREAMED)


ITL: Final = Similarity(name="itl", version="1", measure=_share, needs_whole=False)
