"""The gate `manual`, which passes when a person approves the stage."""

from types import MappingProxyType
from typing import Final

from evaluators.judge.verdict import Verdict
from gateway.rollout.gates.gate import Gate, GateKind, GateSource
from gateway.rollout.gates.look import Look
from gateway.rollout.gates.reading import Reading


def judge_manual(gate: Gate, approved_by: str | None) -> Reading:
    """Return the reading of the `manual` gate: it passes once a person has approved the stage."""
    if approved_by is None:
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason="waits for a person's approval")
    return Reading(gate=gate.name, verdict=Verdict.PASS, reason=f"approved by `{approved_by}`")


def _judge(gate: Gate, look: Look) -> Reading:
    return judge_manual(gate, look.approved_by)


KINDS: Final = {"manual": GateKind(defaults=MappingProxyType({}), source=GateSource.PERSON, judge=_judge)}
