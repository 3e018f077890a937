"""The gates that compared pairs answer: one for each metric that comparators make, and `score:NAME` for users' own.

What the pairs of a stage say is gathered in `rollout/stage_evidence.py` and judged in `evaluators/judge`. It is of one
stage's pairs and of one gate's share of alpha, and holds at every look at once.
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
    """Return what a gate says of no pairs: inconclusive."""
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
# Of whatever shape: its comparator says that, and is not asked here.
OF_A_USERS_COMPARATOR: Final = _kind(plugin_metric(Shape.SIMILARITY, Direction.HIGHER_IS_BETTER))
