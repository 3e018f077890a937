"""A rollout's plan: shadow first perhaps, then steps of rising weight, each with its gates.

A plan is a value; `plan_parser.py` makes it of what YAML or JSON holds, or of one line of
text, and reports every problem at once. `canonical` is the one way to write it and parses
to the same plan again; `config_hash` names it in the journal.

    shadow: {pairs: 500, max_pairs: 2000, share: 10%, gates: [refusal, {kl: {limit: 0.5}}]}
    steps:
      - {weight: 1%, min_time: 10m, min_samples: 200, gates: [error_rate, {latency: {margin: 2%}}, manual]}
      - {weight: 25%, min_time: 1h}
      - {weight: 100%}

A last step of 100 % is the promotion itself: nothing is left to compare with. Without it
the plan ends in a pause, and promoting is a person's decision.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from evaluators.statistics.multiple import bonferroni
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates.gate import Gate, GateSource
from gateway.rollout.journal import canonical_json

# With none of them wrong an error rate above 5 % is excluded, at the alpha that a gate has in a plan of four steps.
MIN_SAMPLES: Final = 200
# A step that a day of traffic cannot decide needs a person: it holds every hour of the daily cycle.
MAX_TIME_SECONDS: Final = 24 * 3600
# Every tenth request: with ten requests a second, 500 pairs in eight minutes, at a tenth of the load again.
SHARE: Final = 1_000
# A person who reads an answer and writes the next question takes less; a session that goes on later counts anew.
IDLE_SECONDS: Final = 30
# Of `pairs`: the sample budget that must do, or a person decides.
BUDGET: Final = 4
# Chance that the statistical gates roll a harmless candidate back at any time in the whole rollout.
ALPHA: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stretch of a plan. Weight 0 is shadow, where samples are pairs.

    Attributes:
        weight: The candidate's share of the units in basis points.
        min_seconds: No going on before; a failure does not wait for it.
        max_seconds: Pause then, if the gates still do not pass.
        min_samples: The candidate's requests (shadow: pairs) before going on.
        max_samples: Pause then, if the gates still do not pass; None: time alone decides.
        gates: All of them must pass, but for muted ones.
        share: The share of requests that is compared on both arms, in basis points; 0 in a stage that reads no pairs.
        idle_seconds: A session ends when it has been silent for so long; 0 in a stage that reads no pairs.
    """

    weight: int
    min_seconds: int = 0
    max_seconds: int = MAX_TIME_SECONDS
    min_samples: int = MIN_SAMPLES
    max_samples: int | None = None
    gates: tuple[Gate, ...] = ()
    share: int = 0
    idle_seconds: int = 0

    @property
    def is_shadow(self) -> bool:
        """Whether the candidate answers copies only."""
        return self.weight == 0

    @property
    def wants_pairs(self) -> bool:
        """Whether requests must be compared on both arms."""
        return self.is_shadow or any(gate.source is GateSource.PAIRS for gate in self.gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What automation may do, and when. Made by `plan_parser.parse_plan`.

    Attributes:
        stages: Shadow, if any, then the ramp, without a step of 100 %.
        promotes: Whether the plan makes the candidate the control after its last stage.
        needs_audit: Whether a rollout may start only after an audit that passed.
        alpha: To fail, shared out evenly over all statistical gates of all stages; muted ones take no share. Each
            passes at all of it.
    """

    stages: tuple[Stage, ...]
    promotes: bool = False
    needs_audit: bool = False
    alpha: float = ALPHA

    @property
    def alpha_per_gate(self) -> float:
        """The part of alpha at which each statistical gate of each stage fails (Bonferroni).

        They pass at the whole of it: a rollout goes on only where all gates of all stages do, so a candidate that
        any one of them should stop is let through with a chance of at most alpha (intersection-union test: R. Berger
        (1982), Technometrics 24(4), 295-300, doi:10.1080/00401706.1982.10487790).
        """
        count = sum(gate.takes_alpha for stage in self.stages for gate in stage.gates)
        return bonferroni(self.alpha, count)

    @property
    def config_hash(self) -> str:
        """SHA-256 of the canonical plan, in hex."""
        return hashlib.sha256(canonical_json(canonical(self)).encode()).hexdigest()


def canonical(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, nothing left to defaults: basis points, seconds, shares."""
    steps = [_canonical_stage(stage) for stage in plan.stages if not stage.is_shadow]
    if plan.promotes:
        steps.append({"weight": TOTAL_WEIGHT})
    values: dict[str, Any] = {"steps": steps, "audit": plan.needs_audit, "alpha": plan.alpha}
    for stage in plan.stages:
        if stage.is_shadow:
            values["shadow"] = _canonical_stage(stage)
    return values


def _canonical_stage(stage: Stage) -> dict[str, Any]:
    values: dict[str, Any] = {
        "min_time": stage.min_seconds,
        "max_time": stage.max_seconds,
        "gates": [{gate.name: gate.parameters()} for gate in stage.gates],
    }
    if stage.wants_pairs:  # of other stages these say nothing, and have never been written
        values |= {"share": stage.share, "idle": stage.idle_seconds}
    if stage.is_shadow:
        return values | {"pairs": stage.min_samples, "max_pairs": stage.max_samples}
    return values | {"weight": stage.weight, "min_samples": stage.min_samples, "max_samples": stage.max_samples}
