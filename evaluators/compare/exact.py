"""Exact: whether both answers are the same, to the character.

Text and tool calls must be equal; arguments of calls count by their value, so spaces and the order
of keys in them do not. Two answers without text and calls are the same answer.

Limits: at a temperature above 0 nearly every pair differs, so it says something only beside the
noise pairs, or at temperature 0. Symmetric.
"""

from typing import Final

from evaluators.compare.canonical import canonical_call
from evaluators.compare.comparator import Similarity
from evaluators.observation import Pair


def _is_same(pair: Pair) -> float:
    control, candidate = pair.control, pair.candidate
    if control.text != candidate.text or len(control.tool_calls) != len(candidate.tool_calls):
        return 0.0
    calls = zip(control.tool_calls, candidate.tool_calls, strict=True)
    return float(all(canonical_call(ours) == canonical_call(theirs) for ours, theirs in calls))


EXACT: Final = Similarity(name="exact", version="1", measure=_is_same)
