"""How many pairs a gate takes: docs/gates.md's table, and what default margins cost beside none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from evaluators.judge.criteria import METRICS, WEIGHT_ROOM, criterion
from simulations.capital import Array, crossings, log_e_above, log_e_below
from simulations.promises import KL_BOUNDARY, Size
from simulations.traffic import Draw, Traffic

GATES = (3, 9)
_MARGIN = METRICS["refusal"].margin
_BOUNDARY = 0.5 - _MARGIN / 2
Make = Callable[[Traffic], Draw]


def _refusals(rate: float) -> Make:
    """Goodness of `refusal` where the candidate alone refuses so often."""
    return lambda traffic: traffic.pass_rates(-rate, rate)


def _nats(mean: float) -> Make:
    return lambda traffic: traffic.divergences(mean)


# Row → drawn how, against which boundary, failing or passing, after how many pairs at most.
ROWS: dict[str, list[tuple[Make, float, bool, int]]] = {
    "pass `refusal`, no difference at all": [(lambda t: t.pass_rates(0.0, 0.0), _BOUNDARY, False, 1_000)],
    "fail, the candidate alone refuses: always": [(_refusals(1.0), _BOUNDARY, True, 100)],
    "… every second time": [(_refusals(0.5), _BOUNDARY, True, 400)],
    "… every fifth time": [(_refusals(0.2), _BOUNDARY, True, 2_000)],
    "… every tenth time": [(_refusals(0.1), _BOUNDARY, True, 4_000)],
    "pass `kl: {limit: 0.5}` at 0.05 nats; at 0.2; at 0.4": [
        (_nats(mean), KL_BOUNDARY, False, most) for mean, most in ((0.05, 500), (0.2, 1_000), (0.4, 4_000))
    ],
    "fail it at 0.7 nats; at 1; at 3": [
        (_nats(mean), KL_BOUNDARY, True, most) for mean, most in ((0.7, 4_000), (1.0, 1_000), (3.0, 200))
    ],
}


def pairs_needed(size: Size) -> dict[str, dict[str, list[float]]]:
    """Return the median number of sessions that each row takes, by how many gates share alpha out."""
    return {
        row: {
            str(gates): [
                _median(*each, replace(size, alpha=size.alpha / gates if each[2] else size.alpha), row)
                for each in cases
            ]
            for gates in GATES
        }
        for row, cases in ROWS.items()
    }


def _median(make: Make, boundary: float, fails: bool, looks: int, size: Size, name: str) -> float:
    evidence: Callable[[Array, float], Array] = log_e_below if fails else log_e_above
    draw = make(size.traffic(name, looks))
    found = crossings(draw, lambda values: evidence(values, boundary), size.runs, size.alpha)
    return float(np.quantile(found, 0.5, method="higher"))


# Case → the metric whose default margin is meant, and what is drawn.
CASES: dict[str, tuple[str, Make]] = {
    "pass rate -5 points, 12 % discordant": ("expected", lambda t: t.pass_rates(-0.05, 0.12)),
    "pass rate -10 points, 12 % discordant": ("expected", lambda t: t.pass_rates(-0.10, 0.12)),
    "pass rate -20 points, 24 % discordant": ("expected", lambda t: t.pass_rates(-0.20, 0.24)),
    "valid JSON -5 points, 6 % discordant": ("json_valid", lambda t: t.pass_rates(-0.05, 0.06)),
    "valid JSON -10 points, 12 % discordant": ("json_valid", lambda t: t.pass_rates(-0.10, 0.12)),
    "judge's win rate 0.45": ("judge", lambda t: t.wins(0.45)),
    "judge's win rate 0.40": ("judge", lambda t: t.wins(0.40)),
    "judge's win rate 0.30": ("judge", lambda t: t.wins(0.30)),
}
_MOST = 8_000


def default_margins(size: Size) -> dict[str, dict[str, Any]]:
    """Return how many sessions it takes to fail without a margin, and at the metric's default; None where never."""
    return {
        name: {
            "margin": METRICS[metric].margin,
            "none": _waiting(metric, make, 0.0, size, name),
            "default": _waiting(metric, make, METRICS[metric].margin, size, name),
        }
        for name, (metric, make) in CASES.items()
    }


def _waiting(metric: str, make: Make, margin: float, size: Size, name: str) -> float | None:
    demand = criterion(metric, margin=margin)
    boundary = demand.boundary
    assert boundary is not None
    draw = make(size.traffic(name, _MOST))

    def pulled(runs: int) -> Array:  # as preferences are counted with weights of 1
        values = draw(runs)
        return values if metric != "judge" else boundary + (values - boundary) / WEIGHT_ROOM

    found = crossings(pulled, lambda values: log_e_below(values, boundary), min(size.runs, 1_000), size.alpha)
    median = float(np.quantile(found, 0.5, method="higher"))
    return median if np.isfinite(median) else None
