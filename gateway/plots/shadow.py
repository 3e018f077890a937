"""The plots of a shadow report: drift pair by pair and token by token, evidence, and scores by task."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.plots.svg import (
    ALARM,
    CONTROL,
    GOOD,
    SERIES,
    VERSION,
    draw_axes,
    draw_figure,
    place_legend_beside,
    use_logarithmic_axis,
)

if TYPE_CHECKING:
    from gateway.admin.models.shadow import ComparisonView, DriftView, EvidenceView, TaskView

# Looks at evidence that are each marked by a dot.
FEW_LOOKS: Final = 30
MAX_PANELS: Final = 6
MAX_TASKS: Final = 8
# A logarithmic axis has no 0; what engines tell is right to about this many nats.
SMALLEST_KL: Final = 1e-4


def plot_kl(comparison: "ComparisonView", drift: "DriftView", limit: float | None) -> str:
    """Return each pair's estimated KL in the order of the pairs, by task, with noise and the gate's limit."""
    # Estimates may be below 0, which a logarithmic axis shows at its end.
    points = [(at, each.task, each.kl) for at, each in enumerate(comparison.points, start=1) if each.kl is not None]
    scale = comparison.n / max(1, len(comparison.points))
    noise = drift.noise

    def draw(axes: Any) -> None:
        for number, task in enumerate(_tasks(comparison)):
            of_task = [(at * scale, max(SMALLEST_KL, kl)) for at, its_task, kl in points if its_task == task]
            if of_task:
                colour = SERIES[number % len(SERIES)]
                axes.scatter(*zip(*of_task, strict=True), s=13, color=colour, alpha=0.75, lw=0, label=_label_of(task))
        sums, running = 0.0, []
        for count, (at, _, kl) in enumerate(points, start=1):
            sums += kl
            running.append((at * scale, max(SMALLEST_KL, sums / count)))
        axes.plot(*zip(*running, strict=True), color="#222222", lw=1.6, label="mean so far")
        if noise is not None:
            axes.axhline(max(SMALLEST_KL, noise), color=CONTROL, lw=1.2, ls=":", label=f"noise {noise:.4f}")
        if limit is not None:
            axes.axhline(limit, color=ALARM, lw=1.4, ls="--", label=f"limit {limit:g}")
        axes.set(xlabel="pair", ylabel="KL, nats a token", title="KL as estimated, pair by pair")
        use_logarithmic_axis(axes)
        place_legend_beside(axes)

    return draw_axes(draw, f"kl {comparison.version} {comparison.kind}", height=3.2)


def plot_log_ratios(comparison: "ComparisonView", drift: "DriftView", noise: "DriftView | None") -> str:
    """Return the histogram of how far single tokens moved, with that of noise behind it."""
    bounds = drift.bounds
    names = [f"< {bounds[0]:g}", *(f"{low:g}–{high:g}" for low, high in itertools.pairwise(bounds))]
    names.append(f"> {bounds[-1]:g}")

    def draw(axes: Any) -> None:
        places = range(len(names))
        shares = _shares(drift.histogram)
        bars = axes.bar(places, shares, width=0.62, color=VERSION, label=comparison.version, zorder=2)
        for bar, share in zip(bars, shares, strict=True):
            if share:
                label = f"{share:.1%}" if share >= 0.001 else "<0.1%"
                axes.annotate(label, (bar.get_x() + bar.get_width() / 2, share), ha="center", va="bottom", fontsize=8)
        if noise is not None and any(noise.histogram):
            floor = _shares(noise.histogram)
            edges = [-0.5, *(place + 0.5 for place in places)]
            axes.step(edges, [floor[0], *floor], where="pre", color=CONTROL, lw=1.3, label="noise", zorder=3)
        axes.set_xticks(list(places), names)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set(
            xlabel="size of the log-ratio of one token, nats",
            ylabel="share of the tokens",
            title="How far single tokens moved",
        )
        axes.legend(loc="upper right")

    return draw_axes(draw, f"tokens {comparison.version} {comparison.kind}", height=2.9)


def plot_evidence(evidence: Sequence["EvidenceView"]) -> str:
    """Return how the evidence of each gate grew, with the bounds from which it fails and passes."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(evidence), 1, squeeze=False)[:, 0]
        for axes, each in zip(panels, evidence, strict=True):
            sessions = each.sessions
            # Straight lines: many sessions may end at one look, which a step would draw as a wall.
            style = {"lw": 1.6, "marker": "." if len(sessions) <= FEW_LOOKS else ""}
            axes.plot(sessions, _raise_to_axis(each.e_fail), color=ALARM, label="for failing", **style)
            axes.plot(sessions, _raise_to_axis(each.e_pass), color=GOOD, label="for passing", **style)
            for bound, what, dashes in ((each.bound, "fails", "--"), (each.pass_bound, "passes", ":")):
                axes.axhline(bound, color="#222222", lw=1.2, ls=dashes, label=f"{what} from {bound:,.0f}")
            axes.set(xlabel="sessions", ylabel="e-value", title=f"Gate {each.gate}")
            use_logarithmic_axis(axes)
            place_legend_beside(axes)

    return draw_figure(draw, "e-values", height=2.3 * len(evidence))


def plot_scores_by_task(comparison: "ComparisonView") -> str | None:
    """Return what comparators say of each task: both arms, or score and noise. None without any score."""
    tasks = comparison.tasks[:MAX_TASKS]
    panels = _most_moved(tasks)
    if not panels:
        return None

    def draw(figure: Any) -> None:
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, panels, strict=False):
            _draw_comparator(axes, name, tasks)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:  # the first task stands on top
            axes.set_yticks(range(len(tasks)), [f"{_label_of(each.task)} ({each.n:,})" for each in tasks])
            axes.set_ylim(len(tasks) - 0.4, -0.6)

    rows = -(-len(panels) // 3)
    return draw_figure(draw, f"tasks {comparison.version}", height=rows * (0.95 + 0.42 * len(tasks)))


def _draw_comparator(axes: Any, name: str, tasks: Sequence["TaskView"]) -> None:
    """Draw one comparator: a grey dot where equal would be, a blue one where the version is, and the way between."""
    is_difference = False
    for place, task in enumerate(tasks):
        figure = next((each for each in task.figures if each.comparator == name), None)
        if figure is None:
            continue
        is_difference = figure.is_difference
        equal, score = (figure.control, figure.candidate) if is_difference else (figure.noise, figure.mean)
        if equal is not None:
            axes.plot([equal, score], [place, place], color=ALARM, lw=2, alpha=0.55, zorder=2, solid_capstyle="butt")
            axes.scatter([equal], [place], s=42, color=CONTROL, zorder=3)
        axes.scatter([score], [place], s=42, color=VERSION, zorder=4)
    axes.set_title(f"{name}: {'control → version' if is_difference else 'noise → version'}", fontsize=9.5)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _most_moved(tasks: Sequence["TaskView"]) -> list[str]:
    """Return the comparators that move most in some task, the most moved first; KL has a plot of its own."""
    moves: dict[str, float] = {}
    for task in tasks:
        for figure in task.figures:
            name = figure.comparator
            if name in ("kl", "kl_bound"):
                continue
            if figure.control is not None and figure.candidate is not None:
                move = abs(figure.candidate - figure.control)
            else:
                move = abs(figure.excess or 0.0)
            moves[name] = max(moves.get(name, 0.0), move)
    return sorted(moves, key=lambda name: (-moves[name], name))[:MAX_PANELS]


def _tasks(comparison: "ComparisonView") -> list[str]:
    return [each.task for each in comparison.tasks]


def _label_of(task: str) -> str:
    # matplotlib leaves out labels that begin with an underscore.
    return "(no task)" if not task else task if not task.startswith("_") else f" {task}"


def _shares(counts: Sequence[int]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total for count in counts]


def _raise_to_axis(values: Sequence[float]) -> list[float]:
    # Evidence against may become as good as none, which a logarithmic axis cannot show.
    return [max(1e-4, value) for value in values]
