"""The gate that a person answers: `manual`."""

from types import MappingProxyType
from typing import Final

from evaluators.judge.verdict import Verdict
from gateway.rollout.gates.gate import Gate, GateKind, GateSource
from gateway.rollout.gates.look import Look
from gateway.rollout.gates.reading import Reading


def judge_manual(gate: Gate, approved_by: str | None) -> Reading:
    """Return whether a person has approved this step."""
    if approved_by is None:
        return Reading(gate=gate.name, verdict=Verdict.INCONCLUSIVE, reason="waits for a person's approval")
    return Reading(gate=gate.name, verdict=Verdict.PASS, reason=f"approved by `{approved_by}`")


def _judge(gate: Gate, look: Look) -> Reading:
    return judge_manual(gate, look.approved_by)


KINDS: Final = {"manual": GateKind(defaults=MappingProxyType({}), source=GateSource.PERSON, judge=_judge)}
