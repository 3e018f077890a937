"""The version number of the rules by which rollouts are judged, and the changes since earlier versions.

A rollout's record has the number of the rules that it began with, or was last resumed with. A gateway with
other rules pauses the rollout, with a sentence on each gate of its stage that works differently now. When a
person resumes it, a new stage begins by the new rules, whose counts begin at zero.
"""

from collections.abc import Callable
from typing import Final

from gateway.rollout.gates.gate import Gate, GateSource
from gateway.rollout.plan import Stage

# 1: requests counted, in two bounds; gates passed at their own part of alpha; sessions counted as they ended.
RULES: Final = 2

_WHOLE_ALPHA: Final = "every gate passes at the whole alpha of the plan"
_TIMED: Final = ("ttft", "itl")
# For each change: a test for the gates that it concerns, and its description.
_CHANGED: Final[tuple[tuple[Callable[[Gate], bool], str], ...]] = (
    (
        lambda gate: gate.source is GateSource.COUNTS,
        "counts each unit once, in place of each request, in one e-value of both arms",
    ),
    (lambda gate: gate.source is GateSource.PAIRS, "counts sessions in the order in which they began"),
    (lambda gate: gate.name in _TIMED, "reads only pairs whose caller was served by control"),
    (lambda gate: gate.name == "kl", "fails by a tighter lower bound, and passes by an estimate of the divergence"),
)


def what_changed(stage: Stage) -> str:
    """Return why a stage that began by older rules is paused, as one sentence for people."""
    gate_changes = [
        f"`{gate.name}` {' and '.join(changes)}"
        for gate in stage.gates
        if (changes := [change for applies, change in _CHANGED if applies(gate)])
    ]
    return (
        f"this release judges otherwise than the one that began the stage: {'; '.join((*gate_changes, _WHOLE_ALPHA))}. "
        "`resume` begins the stage anew by these rules"
    )
