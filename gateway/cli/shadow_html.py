"""A shadow report as one HTML page that needs nothing else: tables, and plots as SVG inside.

This module makes texts and plots of a report's figures; `gateway/pages/templates/shadow_report.html.j2` sets them.
Invariant: whatever stands in a report is escaped; the page has no script and asks no other host.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.cli.shadow_table import LEGEND, levels_of, marked, marked_out, over_time_line, queue_line, several
from gateway.cli.tables import when
from gateway.pages.render import render_page
from gateway.plots.shadow import plot_evidence, plot_kl, plot_log_ratios, plot_scores_by_task
from gateway.plots.svg import PlotsMissing

__all__ = ["PlotsMissing", "page"]


def page(report: Mapping[str, Any]) -> str:
    """Return a report as a page.

    Raises:
        PlotsMissing: matplotlib is not installed.
    """
    cut = ", the last of more" if report["is_cut"] else ""
    rollout = report["rollout"]
    return render_page(
        "shadow_report.html.j2",
        alias=report["alias"],
        size=f"{several(report['pairs'], 'pair')}{cut}, compared from {_span(report['since'], report['at'])}",
        rollout=rollout,
        gates=[_gate(gate) for gate in rollout["gates"] or ()] if rollout is not None else [],
        evidence=plot_evidence(rollout["evidence"]) if rollout is not None and rollout["evidence"] else None,
        comparisons=[_comparison(each, report) for each in report["comparisons"]],
        over_time=[(each["version"], over_time_line(each)) for each in report["over_time"]],
        origins=[line[:1].upper() + line[1:] for line in _origins(report)],
        legend=LEGEND,
    )


def _gate(gate: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": marked(gate),
        "verdict": gate["verdict"],
        "e_value": _number(gate["e_value"], ",.3g"),
        "n": f"{gate['n']:,}",
        "reason": gate["reason"],
    }


def _comparison(each: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    pairs, sessions = several(each["n"], "pair"), several(each["sessions"], "session")
    drift = each["drift"]
    return {
        "kind": each["kind"],
        "version": each["version"],
        "control": each["control"],
        "size": f"{pairs} of {sessions}, {_span(each['first_at'], each['last_at'])}",
        "tiles": list(_tiles(each)),
        "drift_plots": list(_drift_plots(each, report)),
        "moved_tokens": [_moved_token(moved) for moved in drift["top_moved"]] if drift is not None else [],
        "task_plot": None if each["kind"] == "noise" else plot_scores_by_task(each),
        "scores": [_score(figure) for figure in (*levels_of(each), *each["figures"])],
        # One task has the same figures as the whole.
        "tasks": [_task(task) for task in each["tasks"]] if len(each["tasks"]) > 1 else [],
    }


def _tiles(each: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures that are seen first, each with what it is."""
    drift, judge = each["drift"], each["judge"]
    if drift is not None:
        kl = marked_out(_number(drift["kl"], ".4f"), {"stands_out": drift["stands_out"].get("kl")})
        yield kl, "KL, estimated, nats a token" + _within(drift, "low", "high")
        yield f"{drift['kl_bound']:.4f}", "KL at least" + _within(drift, "kl_bound_low", "kl_bound_high")
        yield _number(drift["bits_per_byte"], ".4f"), "KL, estimated, bits a byte"
        yield _number(drift["noise"], ".4f"), "KL of noise, estimated"
        yield _number(drift["quantiles"].get("p90"), ".3f"), "KL, estimated, 90th percentile"
        yield f"{drift['moved_share']:.1%}", "tokens moved by over 1 nat"
        yield f"{drift['top1_agreement']:.1%}", "same first choice"
    if judge is not None:
        ratio = marked_out(f"{judge['win_ratio']:.1%}", judge)
        yield ratio, f"judge's win ratio (itself: {_number(judge['noise'], '.1%')})"
    for name, about in (("control_tokens", "control's"), ("other_tokens", "version's")):
        if each[name] is not None:
            yield f"{each[name]['mean']:.0f}", f"{about} tokens a reply"


def _within(drift: Mapping[str, Any], low: str, high: str) -> str:
    return "" if drift[low] is None else f" ({drift[low]:.3f} … {drift[high]:.3f})"


def _drift_plots(each: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    if each["drift"] is None or each["kind"] == "noise":
        return
    if each["drift"]["kl"] is not None:
        yield plot_kl(each, _kl_limit(report, each))
    yield plot_log_ratios(each, _noise_drift(report, each))


def _moved_token(moved: Mapping[str, Any]) -> dict[str, str]:
    return {
        "token": repr(moved["token"])[1:-1],
        "log_ratio": f"{moved['log_ratio']:+.1f}",
        "count": f"{moved['count']:,}",
    }


def _task(task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": task["task"] or "(none named)",
        "size": several(task["n"], "pair"),
        "scores": [_score(figure) for figure in task["figures"]],
    }


def _score(figure: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of a table of scores; of what each answer has for itself, the difference in points."""
    mean, noise, low, high = (figure[name] for name in ("mean", "noise", "low", "high"))
    if figure["is_difference"]:
        mean, noise, low, high = (None if value is None else 2 * value - 1 for value in (mean, noise, low, high))
    form, ends = ("+.1%", "+.1%") if figure["is_difference"] else (".4f", ".3f")
    return {
        "comparator": figure["comparator"],
        "n": f"{figure['n']:,}",
        "control": _number(figure["control"], ".1%"),
        "version": _number(figure["candidate"], ".1%"),
        "score": marked_out(_number(mean, form), figure),
        "interval": "–" if low is None or high is None else f"{low:{ends}} … {high:{ends}}",
        "noise": _number(noise, form),
        "excess": "–" if figure["is_difference"] else _number(figure["excess"], "+.4f"),
        "unscored": ", ".join(f"{count:,} {reason}" for reason, count in figure["unscored"].items()) or "–",
    }


def _origins(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the pairs come from, and what became of requests that are in none, a line each."""
    yield queue_line(report["queue"])
    for name, about in (("mirror", "Mirror of this gateway"), ("shed", "Left alone"), ("failed", "Not comparable")):
        if report[name]:
            yield f"{about}: " + ", ".join(f"{count:,} {reason}" for reason, count in report[name].items())
    for each in report["feedback"]:
        yield f"Feedback on the {each['arm']}: {each['n']:,}, of them bad {each['bad']:,}"
    for text in report["calibration"]:
        yield f"Judge: {text}"
    if report["spent_tokens"] is not None:
        yield f"Spent in the last hour: {report['spent_tokens']:,} tokens"


def _kl_limit(report: Mapping[str, Any], each: Mapping[str, Any]) -> float | None:
    """Return the limit of the rollout's gate on KL, in nats, if this is the comparison that it judges."""
    rollout = report["rollout"]
    if rollout is None or each["version"] != rollout["candidate"] or each["kind"] != "candidate":
        return None
    return next((gate["limit"] for gate in rollout["gates"] or () if gate["gate"] == "kl"), None)


def _noise_drift(report: Mapping[str, Any], each: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for version in (each["control"], each["version"]):
        for other in report["comparisons"]:
            if other["kind"] == "noise" and other["version"] == version and other["drift"] is not None:
                drift: Mapping[str, Any] = other["drift"]
                return drift
    return None


def _span(first: float, last: float) -> str:
    return f"{when(int(first))} to {when(int(last))}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
