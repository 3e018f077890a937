"""Finish reason: whether both answers ended for the same reason (`stop`, `length`, `tool_calls`, …).

Limits: at a temperature above 0 answers near the length limit differ by chance. Where the engine
did not say, there is no number. Symmetric.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair


def _is_same(pair: Pair) -> float | Reason:
    ours, theirs = pair.control.finish_reason, pair.candidate.finish_reason
    return Reason.UNKNOWN if ours is None or theirs is None else float(ours == theirs)


FINISH_REASON: Final = Similarity(name="finish_reason", version="1", measure=_is_same)
