"""Check before a rollout starts that its route yields the compared pairs that the plan's gates read.

A plan that is refused here would never be decided: one of its gates would wait for scores that
no evaluator makes.
"""

from collections.abc import Iterator
from typing import Final

from evaluators.compare.registry import comparators
from evaluators.judge.criteria import REGISTERED
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.rollout.gates.gate import GateSource
from gateway.rollout.plan import Plan, Stage

JUDGE: Final = "judge"
# Metrics that need no comparator of the route: they come from scoring tokens, and from the requests themselves.
ALWAYS: Final = frozenset(("kl", "token_flip", "moved_share", "failed"))


def pairs_problem(plan: Plan, route: RouteRecord) -> str | None:
    """Return why the route's mirror policy cannot yield the pairs that a plan's gates read; None if it can.

    The text names each thing that is missing, and how to give it.
    """
    stages = [stage for stage in plan.stages if stage.wants_pairs]
    if not stages:
        return None
    policy = route.mirror or MirrorPolicy()
    if policy.capture == "off":
        return (
            f"the plan compares requests of `{route.alias}` on both versions, and its route says `capture: off`; "
            "set `mirror.capture` to `full` or `metrics_only` there, or take `shadow` and the gates that read pairs out"
        )
    missing = list(dict.fromkeys(each for stage in stages for each in _find_missing(stage, policy)))
    return "; ".join(missing) or None


def _find_missing(stage: Stage, policy: MirrorPolicy) -> Iterator[str]:
    for gate in stage.gates:
        if gate.source is not GateSource.PAIRS:
            continue
        if gate.name == JUDGE and policy.judge is None:
            yield "gate `judge` needs a model that judges: give the route a `mirror.judge`"
        elif gate.name in ALWAYS or gate.name == JUDGE:
            continue
        elif policy.comparators is not None and gate.name not in policy.comparators:
            yield f"gate `{gate.name}` needs the comparator of its name: add it to the route's `mirror.comparators`"
        elif gate.name.startswith(REGISTERED) and gate.name not in comparators():
            yield f"gate `{gate.name}`: no comparator of this name is installed on this gateway"


def share_to_judge(route: RouteRecord) -> float:
    """Return the share of a route's pairs that a model judges; 1 where none does."""
    judge = route.mirror.judge if route.mirror is not None else None
    return 1.0 if judge is None or judge.share == 0 else judge.share / TOTAL_WEIGHT
