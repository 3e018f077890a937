"""What `simulations/live.py` is asked, and the tables that its answers make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.traffic import judge_streams
from gateway.rollout.gates.unit_shares import Count, units_of
from simulations.live import GATES, Account, Scene, drawn, first_verdict
from simulations.promises import Size

Answers = dict[str, dict[str, Any]]
WEIGHTS = (0.01, 0.05, 0.50)
STEPS = (0.05, 0.25, 0.50)

HONEST = (0.0, 0.0)

# Of harmless candidates: what it is, and the scene at any weight.
HARMLESS: Mapping[str, Scene] = {
    **{
        f"{bad:.1%} of units always fail, {requests} requests each".replace("%", " %"): Scene(
            weight=0.05, bad=(bad, bad), requests=float(requests)
        )
        for bad in (0.005, 0.02, 0.05)
        for requests in (1, 10, 30)
    },
    "engines down for 30 s from the first second": Scene(weight=0.05, outage=(1.0, 30.0)),
    "engines down for 30 s anywhere": Scene(weight=0.05, outage=("anywhere", 30.0)),
    "traffic up and down by nine tenths": Scene(weight=0.05, errors=(0.01, 0.01), tide=True),
    "latency: 5 % of units have long prompts, 20 requests each": Scene(
        weight=0.05, bad=(0.05, 0.05), requests=20.0, margin=0.05
    ),
    "ratio 2: 2 % of units always fail, 10 requests each": Scene(weight=0.05, bad=(0.02, 0.02), ratio=2.0),
    "margin 0: 2 % of units always fail, 10 requests each": Scene(weight=0.05, bad=(0.02, 0.02), margin=0.0),
}


def false_rollbacks(size: Size, cases: Mapping[str, Scene] = HARMLESS) -> Answers:
    """Return, for each case and weight, the share of runs of half an hour in which the gate ever fails.

    Half of the runs of other simulations: each takes longer.
    """
    found: Answers = {}
    for case, scene in cases.items():
        found[case] = {}
        for weight in WEIGHTS:
            rng = np.random.default_rng(size.seed + sum(map(ord, case)) + round(1_000 * weight))
            there = replace(scene, weight=weight)
            runs = size.runs // 2
            hits = sum(
                np.isfinite(first_verdict(there, drawn(there, rng), Verdict.FAIL, size.alpha)[0]) for _ in range(runs)
            )
            found[case][f"{weight:.0%}"] = float(hits / runs)
    return found


# Units of one request: the gate, the errors of control and of candidate, and what is waited for.
POWER: Mapping[str, tuple[Gate, float, float, Verdict]] = {
    "fails: all fail": (Gate(name="error_rate", margin=0.01), 0.0, 1.0, Verdict.FAIL),
    "fails: 10 % fail": (Gate(name="error_rate", margin=0.01), 0.0, 0.1, Verdict.FAIL),
    "fails: 5 % against 1 %": (Gate(name="error_rate", margin=0.01), 0.01, 0.05, Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, margin 0": (Gate(name="error_rate"), 0.001, 0.005, Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, ratio 1": (Gate(name="error_rate", ratio=1.0), 0.001, 0.005, Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, ratio 2": (Gate(name="error_rate", ratio=2.0), 0.001, 0.005, Verdict.FAIL),
    "passes: no errors": (Gate(name="error_rate", margin=0.01), 0.0, 0.0, Verdict.PASS),
    "passes: 0.5 % in both": (Gate(name="error_rate", margin=0.01), 0.005, 0.005, Verdict.PASS),
    "passes: `latency`, 5 % slow in both": (Gate(name="latency", margin=0.05), 0.05, 0.05, Verdict.PASS),
}
_MAX_UNITS = 1_000_000


def power(size: Size) -> Answers:
    """Return, for each case and step, how many of the candidate's units it takes at exactly the expected rates."""
    return {
        case: {f"{weight:.0%}": _units_until(gate, weight, rates, verdict, size.alpha) for weight in STEPS}
        for case, (gate, *rates, verdict) in POWER.items()
    }


def _units_until(gate: Gate, weight: float, rates: Sequence[float], verdict: Verdict, alpha: float) -> float | None:
    """Return after how many units the gate says so and goes on saying so for as many again by a fifth."""
    n, since = 1, None
    while n < _MAX_UNITS:
        control, candidate = (
            units_of(Count(n=units, bad=round(rate * units)))
            for units, rate in zip((round(n * (1 - weight) / weight), n), rates, strict=True)
        )
        streams = Streams(control=control, candidate=candidate, weight=round(TOTAL_WEIGHT * weight))
        if judge_streams(gate, streams, alpha / GATES, alpha).verdict is not verdict:
            since = None
        elif since is None:
            since = n
        elif n >= 1.2 * since:
            return float(since)
        n += max(1, n // 100)
    return None


def time_to_rollback(size: Size) -> Answers:
    """Return after how many seconds a candidate that fails everything is taken back, in a step of 5 %."""
    found: Answers = {}
    for requests in (1, 10):
        for rate in (1, 10, 100):
            scene = Scene(
                weight=0.05,
                rate=rate / requests,
                requests=float(requests),
                errors=(0.001, 1.0),
                seconds=ceil(min(3_600, 4_000 * requests / rate + 120)),
            )
            rng = np.random.default_rng(size.seed + 10 * rate + requests)
            runs = max(50, size.runs // 4)
            times = [first_verdict(scene, drawn(scene, rng), Verdict.FAIL, size.alpha)[0] for _ in range(runs)]
            found[f"{rate} requests/s, {requests} of a unit"] = {
                "p50": float(np.quantile(times, 0.5, method="higher")),
                "p99": float(np.quantile(times, 0.99, method="higher")),
            }
    return found


def hidden(size: Size) -> Answers:
    """Return how often a candidate at 10 % errors is found in half an hour beside an account that is bad on control."""
    found: Answers = {}
    for share in (0.05, 0.2):
        rest = (1 - share) / 4
        accounts = (Account(share=share, bad=(1.0, 0.0)), *[Account(share=rest, bad=HONEST)] * 4)
        scene = Scene(weight=0.05, accounts=accounts, errors=(0.001, 0.1))
        found[f"an account with {share:.0%} of units fails on the control alone".replace("%", " %")] = {}
        for weight in WEIGHTS[2:]:
            rng = np.random.default_rng(size.seed + round(100 * share) + round(1_000 * weight))
            there = replace(scene, weight=weight)
            runs = max(10, size.runs // 200)
            hits = sum(
                np.isfinite(first_verdict(there, drawn(there, rng), Verdict.FAIL, size.alpha)[0]) for _ in range(runs)
            )
            found[f"an account with {share:.0%} of units fails on the control alone".replace("%", " %")][
                f"{weight:.0%}"
            ] = float(hits / runs)
    return found
