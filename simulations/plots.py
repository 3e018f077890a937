"""The figures of docs/statistics.md."""

from collections.abc import Mapping
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.statistics.betting import Evidence
from evaluators.statistics.confidence_sequence import bounds
from simulations.capital import log_e_below
from simulations.traffic import Traffic

Results = Mapping[str, Any]
_MUTED, _OURS, _BAD = "#8a8f98", "#1f6feb", "#d1242f"


def draw(results: Results, folder: Path) -> list[Path]:
    """Write every figure as SVG, and return where."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "loragate"  # the same file on every run
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    return [
        _watching(results, folder / "watching.svg"),
        _sessions(results, folder / "sessions.svg"),
        _evidence(folder / "evidence.svg"),
        _bounds(folder / "bounds.svg"),
    ]


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path


def _wrong_by_look(axes: Any, told: Mapping[str, Any], alpha: float) -> None:
    for (name, case), colour in zip(told.items(), (_BAD, _OURS), strict=True):
        marks = [int(mark) for mark in case["by_look"]]
        axes.plot(marks, [100 * share for share in case["by_look"].values()], "o-", color=colour, label=name)
    axes.axhline(100 * alpha, color=_MUTED, linestyle="--", label=f"alpha, {100 * alpha:g} %")
    axes.set_xscale("log")
    axes.legend(frameon=False)


def _watching(results: Results, path: Path) -> Path:
    figure, axes = _axes("Watched after every pair", "pairs", "truth excluded so far, % of runs")
    _wrong_by_look(axes, results["peeking"], 0.05)
    return _save(figure, path)


def _sessions(results: Results, path: Path) -> Path:
    title = "Ten turns a session, intra-session correlation 0.5, nothing is wrong"
    figure, axes = _axes(title, "pairs", "rolled back so far, % of runs")
    _wrong_by_look(axes, results["sessions"], results["size"]["alpha"])
    return _save(figure, path)


def _evidence(path: Path) -> Path:
    """Ten rollouts of a candidate that passes 5 points less often, and ten of one that is as good."""
    figure, axes = _axes("Evidence that the candidate is worse, 12 % discordant", "pairs", "e-value")
    for difference, colour, label in ((0.0, _OURS, "as good"), (-0.05, _BAD, "5 points worse")):
        evidence = log_e_below(Traffic(7, 1_500).pass_rates(difference, 0.12)(10), 0.5)
        for run, line in enumerate(evidence):
            drawn = np.exp(np.clip(line[::5], -7, 12))  # every fifth look: the file stays small
            looks = np.arange(1, len(line) + 1)[::5]
            axes.plot(looks, drawn, color=colour, linewidth=0.8, label=label if not run else None)
    axes.axhline(100, color=_MUTED, linestyle="--", label="1/alpha: rolled back")
    axes.set_yscale("log")
    axes.set_ylim(1e-5, exp(12))  # room for the legend
    axes.legend(frameon=False, loc="lower right")
    return _save(figure, path)


def _bounds(path: Path) -> Path:
    """One run's bounds of a difference of -5 points."""
    figure, axes = _axes("Bounds of candidate - control at every look (99 %)", "pairs", "difference, points")
    looks = np.unique(np.geomspace(5, 5_000, 60).astype(int))
    values = Traffic(3, 5_000).pass_rates(-0.05, 0.12)(1)[0]
    lows, highs, means, evidence, done = [], [], [], Evidence(), 0
    for look in looks:
        for value in values[done:look]:
            evidence = evidence.add(float(value))
        done = look
        low, high = bounds(evidence, 0.01)
        lows.append(200 * low - 100)
        highs.append(200 * high - 100)
        means.append(200 * (evidence.mean or 0.0) - 100)
    axes.fill_between(looks, lows, highs, color=_OURS, alpha=0.2, linewidth=0, label="where it is")
    axes.plot(looks, means, color=_OURS, label="observed")
    axes.axhline(-5, color=_MUTED, linestyle="--", label="the truth, -5")
    axes.set_xscale("log")
    axes.set_ylim(-60, 60)
    axes.legend(frameon=False)
    return _save(figure, path)
