"""The gates on compared pairs: one for each metric of the comparators, and `score:NAME` for users' own comparators.

`rollout/stage_evidence.py` adds up the evidence of a stage's pairs and `evaluators/judge` judges it. Each judgement
uses one stage's pairs and one gate's share of alpha, and is valid at all looks together.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evaluators.compare.comparator import Direction, Shape
from evaluators.judge.criteria import METRICS, MIN_SAMPLES, Metric, plugin_metric
from evaluators.judge.verdict import Verdict
from gateway.rollout.gates.gate import Gate, GateKind, GateSource
from gateway.rollout.gates.look import Look
from gateway.rollout.gates.reading import Reading


def no_pairs(gate: Gate, why: str = "no pair has been compared yet (n=0)") -> Reading:
    """Return the reading of a gate that has no pairs: inconclusive."""
    return Reading(
        gate=gate.name,
        verdict=Verdict.INCONCLUSIVE,
        reason=why,
        is_muted=gate.is_muted,
        is_critical=gate.is_critical,
    )


def _judge(gate: Gate, look: Look) -> Reading:
    found = look.facts.pair_readings.get(gate.name)
    return no_pairs(gate) if found is None else replace(found, is_muted=gate.is_muted, is_critical=gate.is_critical)


def _kind(metric: Metric) -> GateKind:
    defaults = {"margin": metric.margin, "limit": metric.limit, "min_samples": MIN_SAMPLES}
    return GateKind(defaults=MappingProxyType(defaults), source=GateSource.PAIRS, judge=_judge, scale=metric.scale)


KINDS: Final = {name: _kind(metric) for name, metric in METRICS.items()}
# The shape here is a placeholder: the real one is known by the user's comparator, which is not looked up here.
OF_A_USERS_COMPARATOR: Final = _kind(plugin_metric(Shape.SIMILARITY, Direction.HIGHER_IS_BETTER))
