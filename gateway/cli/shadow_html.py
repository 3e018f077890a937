"""A shadow report as one HTML page that needs nothing else: tables, and plots as SVG inside.

Invariant: whatever stands in a report is escaped; the page has no script and asks no other host.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from gateway.cli.shadow import queue_line
from gateway.cli.shadow_plots import PlotsMissing, e_values, kl_over_pairs, log_ratios, scores_by_task
from gateway.cli.shadow_table import LEGEND, levels_of, marked, marked_out, over_time_line, several
from gateway.cli.tables import when

__all__ = ["PlotsMissing", "page"]

_CSS: Final = """\
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.4rem; border-top: 1px solid #ddd;
  padding-top: 1rem; } h3 { font-size: 1rem; }
.sub { color: #666; margin-top: .2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: .9em ui-monospace, monospace; background: #f4f4f4; padding: 0 .25em; border-radius: 3px; }
.pass { color: #00795a; font-weight: 600; } .fail { color: #b84a00; font-weight: 600; }
.inconclusive { color: #666; font-weight: 600; }
.phase { display: inline-block; padding: .05rem .5rem; border-radius: 1rem; background: #eee; font-size: .85rem; }
.phase.live { background: #d5efe6; } .phase.rolled_back { background: #fbe2d2; }
svg { width: 100%; height: auto; display: block; margin: .6rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; min-width: 7.5rem; }
.tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .tile span { color: #666;
  font-size: .85rem; }
"""
_HEADINGS: Final = {
    "candidate": "<code>{version}</code>, candidate, against <code>{control}</code>",
    "base": "<code>{version}</code> against the base <code>{control}</code>",
    "noise": "<code>{version}</code> against itself: noise",
}


def page(report: Mapping[str, Any]) -> str:
    """Return a report as a page.

    Raises:
        PlotsMissing: matplotlib is not installed.
    """
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Shadow report: {escape(report['alias'])}</title>",
            f"<style>{_CSS}</style></head><body>",
            *_top(report),
            *(line for each in report["comparisons"] for line in _comparison(each, report)),
            *_end(report),
            "</body></html>\n",
        )
    )


def _top(report: Mapping[str, Any]) -> Iterator[str]:
    cut = ", the last of more" if report["is_cut"] else ""
    yield f"<h1>Shadow report: {escape(report['alias'])}</h1>"
    yield (
        f'<p class="sub">{several(report["pairs"], "pair")}{cut}, compared from {when(int(report["since"]))} '
        f"to {when(int(report['at']))}</p>"
    )
    rollout = report["rollout"]
    if rollout is None:
        return
    phase = f'<span class="phase {escape(rollout["phase"])}">{escape(rollout["phase"].replace("_", " "))}</span>'
    names = (escape(rollout["id"]), escape(rollout["candidate"]))
    yield f"<h2>Rollout <code>{names[0]}</code> of <code>{names[1]}</code> {phase}</h2>"
    if rollout["gates"]:
        rows = [
            (
                escape(marked(gate)),
                f'<span class="{escape(gate["verdict"])}">{escape(gate["verdict"])}</span>',
                _number(gate["e_value"], ",.3g"),
                f"{gate['n']:,}",
                escape(gate["reason"]),
            )
            for gate in rollout["gates"]
        ]
        yield _table(("gate", "verdict", "e-value", "n", "why"), rows, numbers=(2, 3))
    if rollout["evidence"]:
        yield e_values(rollout["evidence"])


def _comparison(each: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    names = {name: escape(each[name]) for name in ("version", "control")}
    yield f"<h2>{_HEADINGS[each['kind']].format(**names)}</h2>"
    yield (
        f'<p class="sub">{several(each["n"], "pair")} of {several(each["sessions"], "session")}, '
        f"{when(int(each['first_at']))} to {when(int(each['last_at']))}</p>"
    )
    yield _tiles(each)
    drift = each["drift"]
    if drift is not None:
        if each["kind"] != "noise":
            if drift["kl"] is not None:
                yield kl_over_pairs(each, _kl_limit(report, each))
            yield log_ratios(each, _noise_drift(report, each))
        if drift["top_moved"]:
            yield "<h3>Tokens that moved most</h3>"
            rows = [
                (
                    f"<code>{escape(repr(moved['token'])[1:-1])}</code>",
                    f"{moved['log_ratio']:+.1f}",
                    f"{moved['count']:,}",
                )
                for moved in drift["top_moved"]
            ]
            yield _table(("token", "log-ratio, nats", "times"), rows, numbers=(1, 2))
    if each["kind"] != "noise" and (plot := scores_by_task(each)) is not None:
        yield "<h3>Scores by task</h3>"
        yield '<p class="sub">Grey: the control, or what a version scores against itself. Blue: the version.</p>'
        yield plot
    yield from _figures(each)


def _tiles(each: Mapping[str, Any]) -> str:
    drift, judge = each["drift"], each["judge"]
    tiles: list[tuple[str, str]] = []
    if drift is not None:
        kl = {"stands_out": drift["stands_out"].get("kl")}
        tiles += [
            (
                marked_out(_number(drift["kl"], ".4f"), kl),
                "KL, estimated, nats a token" + _within(drift, "low", "high"),
            ),
            (f"{drift['kl_bound']:.4f}", "KL at least" + _within(drift, "kl_bound_low", "kl_bound_high")),
            (_number(drift["bits_per_byte"], ".4f"), "KL, estimated, bits a byte"),
            (_number(drift["noise"], ".4f"), "KL of noise, estimated"),
            (_number(drift["quantiles"].get("p90"), ".3f"), "KL, estimated, 90th percentile"),
            (f"{drift['moved_share']:.1%}", "tokens moved by over 1 nat"),
            (f"{drift['top1_agreement']:.1%}", "same first choice"),
        ]
    if judge is not None:
        ratio = marked_out(f"{judge['win_ratio']:.1%}", judge)
        tiles.append((ratio, f"judge's win ratio (itself: {_number(judge['noise'], '.1%')})"))
    for name, about in (("control_tokens", "control's"), ("other_tokens", "version's")):
        if each[name] is not None:
            tiles.append((f"{each[name]['mean']:.0f}", f"{about} tokens a reply"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{about}</span></div>' for value, about in tiles)
        + "</div>"
    )


def _within(drift: Mapping[str, Any], low: str, high: str) -> str:
    return "" if drift[low] is None else f" ({drift[low]:.3f} … {drift[high]:.3f})"


def _figures(each: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of all scores, then one for each task if there are several."""
    yield "<h3>All scores</h3>"
    yield _score_table([*levels_of(each), *each["figures"]])
    if len(each["tasks"]) > 1:
        for task in each["tasks"]:
            yield f"<h3>Task {escape(task['task'] or '(none named)')}, {several(task['n'], 'pair')}</h3>"
            yield _score_table(task["figures"])


def _score_table(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            escape(figure["comparator"]),
            f"{figure['n']:,}",
            _number(figure["control"], ".1%"),
            _number(figure["candidate"], ".1%"),
            *_told(figure),
            escape(", ".join(f"{count:,} {reason}" for reason, count in figure["unscored"].items())) or "–",
        )
        for figure in figures
    ]
    titles = ("comparator", "pairs", "control", "version", "score", "95 %", "noise", "excess", "unscored")
    return _table(titles, rows, numbers=range(1, 8))


def _told(figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return score, interval, noise and excess; of what each answer has for itself, the difference in points."""
    bounds = (figure["low"], figure["high"])
    if figure["is_difference"]:
        mean, noise, low, high = (
            None if value is None else 2 * value - 1 for value in (figure["mean"], figure["noise"], *bounds)
        )
        between = "–" if low is None or high is None else f"{low:+.1%} … {high:+.1%}"
        return marked_out(_number(mean, "+.1%"), figure), between, _number(noise, "+.1%"), "–"
    between = "–" if bounds[0] is None else f"{bounds[0]:.3f} … {bounds[1]:.3f}"
    mean_told = marked_out(f"{figure['mean']:.4f}", figure)
    return mean_told, between, _number(figure["noise"], ".4f"), _number(figure["excess"], "+.4f")


def _end(report: Mapping[str, Any]) -> Iterator[str]:
    if report["over_time"]:
        yield "<h2>Since it was accepted</h2>"
        yield from (
            f"<p><code>{escape(each['version'])}</code> {escape(over_time_line(each))}</p>"
            for each in report["over_time"]
        )
    yield "<h2>Where the pairs come from</h2>"
    lines = [queue_line(report["queue"])]
    for name, about in (("mirror", "Mirror of this gateway"), ("shed", "Left alone"), ("failed", "Not comparable")):
        if report[name]:
            lines.append(f"{about}: " + ", ".join(f"{count:,} {reason}" for reason, count in report[name].items()))
    lines += [
        f"Feedback on the {each['arm']}: {each['n']:,}, of them bad {each['bad']:,}" for each in report["feedback"]
    ]
    lines += [f"Judge: {text}" for text in report["calibration"]]
    if report["spent_tokens"] is not None:
        lines.append(f"Spent in the last hour: {report['spent_tokens']:,} tokens")
    yield from (f"<p>{escape(line[:1].upper() + line[1:])}</p>" for line in lines)
    yield (
        f'<p class="sub">{escape(LEGEND)} A score of 1 is equal to '
        "the control; where each answer has a number of its own, the score is the difference. Excess is how much more "
        "the sides differ than a version does from itself.</p>"
    )


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


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """Return a table of cells that are already markup."""
    of_numbers = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place in of_numbers else ''}>{cell}</{tag}>" for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(titles, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
