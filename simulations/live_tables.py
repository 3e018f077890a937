"""What `simulations/live.py` is asked, and the tables that its answers make."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from gateway.decide.verdict import Verdict
from simulations.live import Account, Scene, drawn, first_verdict
from simulations.promises import Size

Answers = dict[str, dict[str, Any]]
WEIGHTS = (0.01, 0.05, 0.50)
STEPS = (0.05, 0.25, 0.50)

HONEST = (0.0, 0.0)
_LOUD = {"both arms": (1.0, 1.0), "the candidate alone": (0.0, 1.0), "the control alone": (1.0, 0.0)}

# Of harmless candidates: what it is, and the scene at any weight.
HARMLESS: Mapping[str, Scene] = {
    **{
        f"{bad:.1%} of units always fail, {requests} requests each".replace("%", " %"): Scene(
            weight=0.05, bad=(bad, bad), requests=float(requests)
        )
        for bad in (0.005, 0.02, 0.05)
        for requests in (1, 10, 30)
    },
    **{
        f"an account with 20 % of units fails in {where}": Scene(
            weight=0.05, accounts=(Account(share=0.2, bad=bad), *[Account(share=0.2, bad=HONEST)] * 4)
        )
        for where, bad in _LOUD.items()
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

    Half of the runs of other simulations, and a twentieth where several accounts call, which take longer.
    """
    found: Answers = {}
    for case, scene in cases.items():
        found[case] = {}
        for weight in WEIGHTS:
            rng = np.random.default_rng(size.seed + sum(map(ord, case)) + round(1_000 * weight))
            there = replace(scene, weight=weight)
            runs = size.runs // (20 if scene.accounts else 2)
            hits = sum(
                np.isfinite(first_verdict(there, drawn(there, rng), Verdict.FAIL, size.alpha)[0]) for _ in range(runs)
            )
            found[case][f"{weight:.0%}"] = float(hits / runs)
    return found


# Units of one request: (errors of control, of candidate), margin or ratio, and what is waited for.
POWER: Mapping[str, tuple[Scene, Verdict]] = {
    "fails: all fail": (Scene(weight=0.05, errors=(0.001, 1.0)), Verdict.FAIL),
    "fails: 10 % fail": (Scene(weight=0.05, errors=(0.001, 0.1)), Verdict.FAIL),
    "fails: 5 % against 1 %": (Scene(weight=0.05, errors=(0.01, 0.05)), Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, margin 0": (Scene(weight=0.05, errors=(0.001, 0.005), margin=0.0), Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, ratio 1": (Scene(weight=0.05, errors=(0.001, 0.005), ratio=1.0), Verdict.FAIL),
    "fails: 0.5 % against 0.1 %, ratio 2": (Scene(weight=0.05, errors=(0.001, 0.005), ratio=2.0), Verdict.FAIL),
    "passes: no errors": (Scene(weight=0.05, errors=(0.0, 0.0)), Verdict.PASS),
    "passes: 0.5 % in both": (Scene(weight=0.05, errors=(0.005, 0.005)), Verdict.PASS),
    "passes: latency, 5 % slow in both, margin 5 %": (
        Scene(weight=0.05, errors=(0.05, 0.05), margin=0.05), Verdict.PASS,
    ),
}  # fmt: skip
# The candidate's units that a run has at most, and more at higher weights: beyond what nine in ten runs take.
_ENOUGH = {"ratio": 12_000, "margin 0": 6_000}


def power(size: Size, requests: float = 1.0) -> Answers:
    """Return, for each case and step, how many of the candidate's units it takes: the median of some runs."""
    found: Answers = {}
    runs = max(10, size.runs // 40)
    for case, (scene, verdict) in POWER.items():
        found[case] = {}
        least = next((units for word, units in _ENOUGH.items() if word in case), 2_500)
        for weight in STEPS:
            rng = np.random.default_rng(size.seed + sum(map(ord, case)) + round(1_000 * weight))
            enough = least * (1 + 4 * weight)
            there = replace(scene, weight=weight, requests=requests, rate=enough / weight / 1_800, seconds=1_800)
            units = [first_verdict(there, drawn(there, rng), verdict, size.alpha) for _ in range(runs)]
            found[case][f"{weight:.0%}"] = _median([n if np.isfinite(at) else np.inf for at, n in units])
    return found


def _median(values: list[float]) -> float | None:
    middle = float(np.quantile(values, 0.5, method="higher"))
    return middle if np.isfinite(middle) else None


def time_to_rollback(size: Size) -> Answers:
    """Return after how many seconds a candidate that fails everything is taken back, in a step of 5 %."""
    found: Answers = {}
    for requests in (1, 10):
        for rate in (1, 10, 100):
            scene = Scene(
                weight=0.05, rate=rate / requests, requests=float(requests), errors=(0.001, 1.0),
                seconds=ceil(min(3_600, 4_000 * requests / rate + 120)),
            )  # fmt: skip
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
        for weight in WEIGHTS[1:]:
            rng = np.random.default_rng(size.seed + round(100 * share) + round(1_000 * weight))
            there = replace(scene, weight=weight)
            runs = max(20, size.runs // 100)
            hits = sum(
                np.isfinite(first_verdict(there, drawn(there, rng), Verdict.FAIL, size.alpha)[0]) for _ in range(runs)
            )
            found[f"an account with {share:.0%} of units fails on the control alone".replace("%", " %")][
                f"{weight:.0%}"
            ] = float(hits / runs)
    return found
