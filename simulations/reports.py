"""What a report says of pairs that slide on: its intervals, and its marks."""

from math import log

import numpy as np

from evaluators.statistics.betting import BETS, SHARES
from evaluators.statistics.multiple import e_bh
from simulations.capital import Array, Mask, chunks, log_e_above, log_e_below
from simulations.promises import Size

WINDOW, SESSIONS, EVERY = 1_000, 20_000, 10
FIGURES, DIFFERENT, AT = 20, 5, 600
_BETS, _LOG_SHARES = np.array(BETS), np.log(SHARES)


def sliding(size: Size, alpha: float = 0.05) -> dict[str, dict[str, float]]:
    """Return how often a 95 % interval lacks the truth, of a window that slides and of one that grows.

    A look after every tenth session; at a look, and ever in the run.
    """
    traffic = size.traffic("sliding", SESSIONS)
    cases = {
        "difference of pass rates": (traffic.pass_rates(0.0, 0.12), 0.5),
        "Beta(8, 2)": (traffic.shares(8, 2), 0.8),
    }
    runs = min(size.runs, 1_000)
    told = {}
    for name, (draw, truth) in cases.items():
        wrong = {"the last 1,000 sessions": [0.0, 0], "all sessions so far": [0.0, 0]}
        for some in chunks(runs, 20):
            for window, outside in _outside(draw(some), truth, alpha).items():
                wrong[window][0] += float(outside.mean(axis=1).sum())
                wrong[window][1] += int(outside.any(axis=1).sum())
        for window, (share, ever) in wrong.items():
            told[f"{name}, {window}"] = {"at_a_look": share / runs, "ever": ever / runs}
    return told


def _outside(values: Array, truth: float, alpha: float) -> dict[str, Mask]:
    """Return (n_runs, n_looks) whether the truth is outside of the interval, for both windows."""
    shape = (len(values), SESSIONS // EVERY + 1)
    back = WINDOW // EVERY
    largest = {
        "the last 1,000 sessions": np.full((shape[0], shape[1] - back), -np.inf),
        "all sessions so far": np.full((shape[0], shape[1] - 1), -np.inf),
    }
    for side, mean in ((values, truth), (1 - values, 1 - truth)):
        evidence = {name: np.full(each.shape, -np.inf) for name, each in largest.items()}
        for bet, share in zip(_BETS, _LOG_SHARES, strict=True):
            sums = np.zeros(shape)
            sums[:, 1:] = (np.log1p(bet * side) - np.log1p(bet * mean)).cumsum(axis=1)[:, EVERY - 1 :: EVERY]
            gains = {"the last 1,000 sessions": sums[:, back:] - sums[:, :-back], "all sessions so far": sums[:, 1:]}
            evidence = {name: np.logaddexp(each, share + gains[name]) for name, each in evidence.items()}
        largest = {name: np.maximum(each, evidence[name]) for name, each in largest.items()}
    return {name: each >= -log(alpha / 2) for name, each in largest.items()}


def marks(size: Size, alpha: float = 0.05) -> dict[str, dict[str, float]]:
    """Return, of reports of twenty figures, how many marks are wrong and how many differences are marked.

    Pass rates, 12 % discordant, 600 sessions; five figures differ by 8 points, or none does. Four figures in ten say
    much the same as the first.
    """
    told: dict[str, dict[str, float]] = {}
    for different in (0, DIFFERENT):
        found = _report_e_values(size, different)
        rules = {
            "each interval for itself": found >= 1 / alpha,
            "e-BH (ours)": np.array([e_bh(list(row), alpha) for row in found]),
        }
        for name, marked in rules.items():
            wrong = marked[:, different:].sum(axis=1)
            told[f"{name}; {different} of {FIGURES} differ"] = {
                "wrong": float(np.mean(wrong / np.maximum(1, marked.sum(axis=1)))),
                "any_wrong": float(np.mean(wrong > 0)),
                "found": float(marked[:, :different].mean()) if different else 0.0,
            }
    return told


def _report_e_values(size: Size, different: int) -> Array:
    """Return (n_runs, FIGURES) e-values against "no difference"; the first `different` differ."""
    traffic = size.traffic(f"marks {different}", AT)
    same, worse = traffic.pass_rates(0.0, 0.12), traffic.pass_rates(-0.08, 0.12)
    rows = []
    for runs in chunks(min(size.runs, 1_000)):
        common = same(runs)
        e_values = np.empty((runs, FIGURES))
        for figure in range(FIGURES):
            values = worse(runs) if figure < different else same(runs)
            if figure >= different and figure % 5 < 2:
                values = np.where(traffic.rng.random(values.shape) < 0.8, common, values)
            above, below = log_e_above(values, 0.5)[:, -1], log_e_below(values, 0.5)[:, -1]
            e_values[:, figure] = (np.exp(above) + np.exp(below)) / 2
        rows.append(e_values)
    return np.concatenate(rows)
