"""Make one HTML page of a shadow report, with tables and with plots as SVG inside it.

This module formats a report's figures; `gateway/pages/templates/shadow_report.html.j2` lays them out.
Invariant: every text of a report is escaped; the page has no script and loads nothing from any host.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.cli.shadow_table import (
    LEGEND,
    DriftFigure,
    count_of,
    figures_of,
    format_reasons,
    gate_name,
    mark,
    over_time_line,
    queue_line,
    reason_lines,
)
from gateway.cli.tables import when
from gateway.pages.render import render_page
from gateway.plots.shadow import plot_evidence, plot_kl, plot_log_ratios, plot_scores_by_task
from gateway.plots.svg import PlotsMissing

if TYPE_CHECKING:
    from gateway.admin.models.rollouts import ReadingView
    from gateway.admin.models.shadow import ComparisonView, DriftView, FigureView, MovedView, ShadowReport, TaskView

__all__ = ["PlotsMissing", "page"]


def page(report: "ShadowReport") -> str:
    """Return a report as a page.

    Raises:
        PlotsMissing: matplotlib is not installed.
    """
    cut = ", the last of more" if report.is_cut else ""
    rollout = report.rollout
    return render_page(
        "shadow_report.html.j2",
        alias=report.alias,
        size=f"{count_of(report.pairs, 'pair')}{cut}, compared from {_span(report.since, report.at)}",
        rollout=rollout,
        gates=[_gate(gate) for gate in rollout.gates or ()] if rollout is not None else [],
        evidence=plot_evidence(rollout.evidence) if rollout is not None and rollout.evidence else None,
        comparisons=[_comparison(each, report) for each in report.comparisons],
        over_time=[(each.version, over_time_line(each)) for each in report.over_time],
        origins=[line[:1].upper() + line[1:] for line in _origins(report)],
        legend=LEGEND,
    )


def _gate(gate: "ReadingView") -> dict[str, str]:
    return {
        "name": gate_name(gate),
        "verdict": gate.verdict,
        "e_value": _format(gate.e_value, ",.3g"),
        "n": f"{gate.n:,}",
        "reason": gate.reason,
    }


def _comparison(each: "ComparisonView", report: "ShadowReport") -> dict[str, Any]:
    pairs, sessions = count_of(each.n, "pair"), count_of(each.sessions, "session")
    drift = each.drift
    return {
        "kind": each.kind,
        "version": each.version,
        "control": each.control,
        "size": f"{pairs} of {sessions}, {_span(each.first_at, each.last_at)}",
        "tiles": list(_tiles(each)),
        "drift_plots": list(_drift_plots(each, report)),
        "moved_tokens": [_token_row(token) for token in drift.top_moved] if drift is not None else [],
        "task_plot": None if each.kind == "noise" else plot_scores_by_task(each),
        "scores": [_score(figure) for figure in figures_of(each)],
        # A single task has the same figures as the whole comparison.
        "tasks": [_task(task) for task in each.tasks] if len(each.tasks) > 1 else [],
    }


def _tiles(each: "ComparisonView") -> Iterator[tuple[str, str]]:
    """Yield the main figures, shown in large type, each with its label."""
    drift, judge = each.drift, each.judge
    if drift is not None:
        kl = mark(_format(drift.kl, ".4f"), drift.stands_out.get("kl"))
        yield kl, "KL, estimated, nats a token" + _interval_note(drift.low, drift.high)
        yield f"{drift.kl_bound:.4f}", "KL at least" + _interval_note(drift.kl_bound_low, drift.kl_bound_high)
        yield _format(drift.bits_per_byte, ".4f"), "KL, estimated, bits a byte"
        yield _format(drift.noise, ".4f"), "KL of noise, estimated"
        yield _format(drift.quantiles.get("p90"), ".3f"), "KL, estimated, 90th percentile"
        yield f"{drift.moved_share:.1%}", "tokens moved by over 1 nat"
        yield f"{drift.top1_agreement:.1%}", "same first choice"
    if judge is not None:
        ratio = mark(f"{judge.win_ratio:.1%}", judge.stands_out)
        yield ratio, f"judge's win ratio (itself: {_format(judge.noise, '.1%')})"
    for about, lengths in (("control's", each.control_tokens), ("version's", each.other_tokens)):
        if lengths is not None:
            yield f"{lengths.mean:.0f}", f"{about} tokens a reply"


def _interval_note(low: float | None, high: float | None) -> str:
    return "" if low is None else f" ({low:.3f} … {high:.3f})"


def _drift_plots(each: "ComparisonView", report: "ShadowReport") -> Iterator[str]:
    if each.drift is None or each.kind == "noise":
        return
    if each.drift.kl is not None:
        yield plot_kl(each, each.drift, _kl_limit(report, each))
    yield plot_log_ratios(each, each.drift, _noise_drift(report, each))


def _token_row(token: "MovedView") -> dict[str, str]:
    return {
        "token": repr(token.token)[1:-1],
        "log_ratio": f"{token.log_ratio:+.1f}",
        "count": f"{token.count:,}",
    }


def _task(task: "TaskView") -> dict[str, Any]:
    return {
        "name": task.task or "(none named)",
        "size": count_of(task.n, "pair"),
        "scores": [_score(figure) for figure in task.figures],
    }


def _score(figure: "FigureView | DriftFigure") -> dict[str, str]:
    """Return a row of a table of scores; if each answer is scored by itself, with the difference in points."""
    values: tuple[float | None, ...] = (figure.mean, figure.noise, figure.low, figure.high)
    if figure.is_difference:
        values = tuple(None if value is None else 2 * value - 1 for value in values)
    mean, noise, low, high = values
    form, ends = ("+.1%", "+.1%") if figure.is_difference else (".4f", ".3f")
    return {
        "comparator": figure.comparator,
        "n": f"{figure.n:,}",
        "control": _format(figure.control, ".1%"),
        "version": _format(figure.candidate, ".1%"),
        "score": mark(_format(mean, form), figure.stands_out),
        "interval": "–" if low is None or high is None else f"{low:{ends}} … {high:{ends}}",
        "noise": _format(noise, form),
        "excess": "–" if figure.is_difference else _format(figure.excess, "+.4f"),
        "unscored": format_reasons(figure.unscored) or "–",
    }


def _origins(report: "ShadowReport") -> Iterator[str]:
    """Yield a line for each source of pairs, and for each reason why requests were not compared."""
    yield queue_line(report.queue)
    yield from reason_lines(report)
    for opinion in report.feedback:
        yield f"Feedback on the {opinion.arm}: {opinion.n:,}, of them bad {opinion.bad:,}"
    for text in report.calibration:
        yield f"Judge: {text}"
    if report.spent_tokens is not None:
        yield f"Spent in the last hour: {report.spent_tokens:,} tokens"


def _kl_limit(report: "ShadowReport", each: "ComparisonView") -> float | None:
    """Return the limit of the rollout's gate on KL, in nats, if the gate judges this comparison."""
    rollout = report.rollout
    if rollout is None or each.version != rollout.candidate or each.kind != "candidate":
        return None
    return next((gate.limit for gate in rollout.gates or () if gate.gate == "kl"), None)


def _noise_drift(report: "ShadowReport", each: "ComparisonView") -> "DriftView | None":
    """Return the control's noise, else the version's."""
    for version in (each.control, each.version):
        for other in report.comparisons:
            if other.kind == "noise" and other.version == version and other.drift is not None:
                return other.drift
    return None


def _span(first: float, last: float) -> str:
    return f"{when(int(first))} to {when(int(last))}"


def _format(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
