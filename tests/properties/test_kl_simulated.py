"""What a gate on divergence promises, over seeded sessions of known truth: FAIL by a bound, PASS by an estimate."""

import numpy as np
import pytest

from evaluators.judge.classify import CriterionEvidence
from evaluators.judge.criteria import MIN_SAMPLES, criterion
from evaluators.judge.verdict import Verdict
from evaluators.observation import Drift, Kind, ScoredPair
from simulations.traffic import kl_values

pytestmark = pytest.mark.simulation

ALPHA = 0.05
RUNS, SESSIONS, LOOK = 300, 300, 10
# As measured on real adapters (bench/README.md): what the bound tells, and how far estimates scatter about the truth.
TOLD = 0.8
SCATTER = 0.35


def verdicts(truth: float, limit: float, *, seed: int) -> dict[Verdict, float]:
    """How often a candidate whose mean divergence is `truth` fails and passes, at any of its looks."""
    rng = np.random.default_rng(seed)
    values = kl_values(truth)
    counts = dict.fromkeys(Verdict, 0)
    for _ in range(RUNS):
        truths = values[rng.integers(0, len(values), SESSIONS)]
        # Skewed, without bias, often below 0: a token of the tail is rare, and counts much where `other` lacks it.
        estimates = truths + SCATTER * (rng.exponential(1.0, SESSIONS) - 1.0)
        counts[_first(truths, estimates, limit)] += 1
    return {label: count / RUNS for label, count in counts.items()}


def _first(truths: np.ndarray, estimates: np.ndarray, limit: float) -> Verdict:
    evidence = CriterionEvidence(criterion("kl", limit=limit, alpha=ALPHA), idle_seconds=0)
    for at, (true, kl) in enumerate(zip(truths, estimates, strict=True), start=1):
        drift = Drift(
            n_tokens=9, log_ratio=0.0, kl=float(kl), kl_bound=TOLD * float(true), moved_share=0.0, top1_agreement=1.0
        )
        evidence.add(
            ScoredPair(
                sample=str(at), alias="a", kind=Kind.CANDIDATE, control="c", other="o", at=float(at), drift=drift
            )
        )
        if at % LOOK == 0:
            evidence.close(at + 1.0)
            label = evidence.classify().label
            if label is not Verdict.INCONCLUSIVE:
                return label
    return Verdict.INCONCLUSIVE


def test_at_its_limit_a_candidate_passes_and_fails_no_oftener_than_alpha() -> None:
    found = verdicts(0.5, 0.5, seed=1)
    assert found[Verdict.PASS] <= ALPHA
    assert found[Verdict.FAIL] <= ALPHA


def test_what_its_bound_alone_would_pass_does_not_pass() -> None:
    # The truth is above the limit and the bound is below it: 0.6 and 0.48 nats.
    found = verdicts(0.6, 0.5, seed=2)
    assert found[Verdict.PASS] <= ALPHA
    assert found[Verdict.INCONCLUSIVE] > 0.9


def test_far_from_its_limit_it_is_decided_rightly() -> None:
    assert verdicts(1.0, 0.5, seed=3)[Verdict.FAIL] > 0.99
    assert verdicts(0.2, 0.5, seed=4)[Verdict.PASS] > 0.99
    assert MIN_SAMPLES < SESSIONS
