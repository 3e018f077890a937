"""Tool calls: how much both answers' calls agree, in names and in the values of their arguments.

Calls are matched one to one, in whatever order they came. A matched pair counts 0.5 for its name
and 0.5 times the share of arguments (key and value) that both have; the sum is divided by the
larger number of calls. Values count, not spelling: spaces, the order of keys and 1.0 for 1 are
the same. The weights are ours.

Limits: a value that is a little different counts as different. One arm that calls and one that
talks score 0; if neither calls there is no number. Symmetric.
"""

from typing import Any, Final

from evaluators.compare.canonical import canonical_text, parse_arguments
from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair, ToolCall

FOR_THE_NAME: Final = 0.5
MAX_CALLS: Final = 64  # of each arm; every call is compared with every other


def _arguments(call: ToolCall) -> frozenset[tuple[str, str]]:
    found: Any = parse_arguments(call.arguments)
    if isinstance(found, dict):
        return frozenset((key, canonical_text(value)) for key, value in found.items())
    return frozenset({("", canonical_text(found))})


def _credit(ours: tuple[str, frozenset[tuple[str, str]]], theirs: tuple[str, frozenset[tuple[str, str]]]) -> float:
    if ours[0] != theirs[0]:
        return 0.0
    every = ours[1] | theirs[1]
    shared = len(ours[1] & theirs[1]) / len(every) if every else 1.0
    return FOR_THE_NAME + (1 - FOR_THE_NAME) * shared


def _agreement(pair: Pair) -> float | Reason:
    if not pair.control.tool_calls and not pair.candidate.tool_calls:
        return Reason.NO_TOOL_CALLS
    ours = [(call.name, _arguments(call)) for call in pair.control.tool_calls[:MAX_CALLS]]
    theirs = [(call.name, _arguments(call)) for call in pair.candidate.tool_calls[:MAX_CALLS]]
    # Best matches first; ties by place, in a way that does not care which arm is which.
    credits_ = sorted(
        (-_credit(one, other), at + to, at, to) for at, one in enumerate(ours) for to, other in enumerate(theirs)
    )
    matched_ours: set[int] = set()
    matched_theirs: set[int] = set()
    total = 0.0
    for lost, _, at, to in credits_:
        if at not in matched_ours and to not in matched_theirs:
            matched_ours.add(at)
            matched_theirs.add(to)
            total -= lost
    return total / max(len(ours), len(theirs))


TOOL_CALLS: Final = Similarity(name="tool_calls", version="1", measure=_agreement)
