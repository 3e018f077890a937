"""Print a shadow report on a terminal: a block for each comparison, with a column for each task and one for noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.cli.output import say
from gateway.cli.tables import show_table, when

if TYPE_CHECKING:
    from gateway.admin.models.rollouts import ReadingView
    from gateway.admin.models.shadow import (
        ComparisonView,
        DriftView,
        FigureView,
        JudgeView,
        OverTimeView,
        QueueReport,
        ShadowedRollout,
        ShadowReport,
        TaskView,
    )

# More columns do not fit on a terminal; the JSON and the page show all tasks.
MAX_TASKS: Final = 4
# Marks a figure that differs by more than chance.
OUT: Final = "*"
_HEADINGS: Final = {
    "candidate": "{version}, candidate, against {control}",
    "base": "{version} against the base {control}",
    "noise": "{version} against itself: noise",
}


# Explains the figures to the reader; the HTML page prints the same text.
LEGEND: Final = (
    "Means and intervals are over sessions. 95 % is at this look: the pairs that are read slide on. "
    f"{OUT} stands out: of all figures that are marked in this report at most 5 % differ by chance alone."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFigure:
    """One measure of drift, with the fields of a comparator's figure that a row of the table shows."""

    comparator: str
    n: int
    mean: float
    unscored: dict[str, int]
    low: float | None = None
    high: float | None = None
    control: None = None
    candidate: None = None
    noise: float | None = None
    excess: float | None = None
    stands_out: bool | None = None
    is_difference: bool = False


def show(report: "ShadowReport") -> None:
    """Print a report."""
    cut = ", the last of more" if report.is_cut else ""
    say(f"{report.alias}: {count_of(report.pairs, 'pair')} since {when(int(report.since))}{cut}")
    if not report.comparisons:
        say("Nothing was compared: mirror the route's requests (`mirror`), or roll out with a `shadow` stage.")
    for each in report.comparisons:
        _show_comparison(each)
    if report.comparisons:
        say()
        say(f"  {LEGEND}")
    if report.rollout is not None:
        _show_rollout(report.rollout)
    for measure in report.over_time:
        say(f"since {measure.version} was accepted: {over_time_line(measure)}")
    for opinion in report.feedback:
        say(f"feedback on the {opinion.arm}: {opinion.n:,}, of them bad {opinion.bad:,}")
    say()
    say(queue_line(report.queue))
    for text in report.calibration:
        say(f"judge: {text}")
    for line in reason_lines(report):
        say(line)
    if report.spent_tokens is not None:
        say(f"spent in the last hour: {report.spent_tokens:,} tokens")


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless it is 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def reason_lines(report: "ShadowReport") -> Iterator[str]:
    """Yield a line for each place where requests were counted by reason, if it counted any."""
    places = (("mirror of this gateway", report.mirror), ("left alone", report.shed), ("not comparable", report.failed))
    for about, counts in places:
        if counts:
            yield f"{about}: {format_reasons(counts)}"


def format_reasons(counts: dict[str, int]) -> str:
    """Return counts by reason, such as `7 engine_busy, 2 queue_full`; an empty text for no reasons."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def over_time_line(each: "OverTimeView") -> str:
    """Return in one line how far a measure has moved since the version was accepted."""
    psi = "too few for a distance" if each.psi is None else f"PSI {each.psi:.2f}, JS {each.js:.3f} bits"
    alarm = f"; ALARM {when(int(each.alarm_at))}: {each.why}" if each.alarm_at is not None else ""
    evidence = f"evidence {each.evidence:,.1f} of {each.bound:,.0f}"
    return f"{each.what} {psi} ({each.n:,} sessions, {evidence}){alarm}"


def _show_comparison(each: "ComparisonView") -> None:
    say()
    say(_HEADINGS[each.kind].format(version=each.version, control=each.control), bold=True)
    span = f"{when(int(each.first_at))} to {when(int(each.last_at))}"
    say(f"  {count_of(each.n, 'pair')} of {count_of(each.sessions, 'session')}, {span}")
    if each.drift is not None:
        _show_drift(each.drift)
    _show_lengths(each)
    if each.judge is not None:
        _show_judge(each.judge)
    tasks = each.tasks[:MAX_TASKS] if len(each.tasks) > 1 or each.tasks[0].task else []
    rows = [_row(figure, tasks) for figure in figures_of(each)]
    names = [f"{task.task or '(no task)'} ({task.n:,})" for task in tasks]
    show_table(
        ("  COMPARATOR", "PAIRS", "MEAN", "95 %", "NOISE", *names, "UNSCORED"), rows, "  No comparator scored a pair."
    )


def figures_of(each: "ComparisonView") -> "list[FigureView | DriftFigure]":
    """Return the rows of a comparison's table: the measures of drift, then the comparators' scores."""
    return [*(_drift_figures(each.drift) if each.drift is not None else ()), *each.figures]


def _drift_figures(drift: "DriftView") -> list[DriftFigure]:
    estimate = []
    if drift.kl is not None:
        excess = None if drift.noise is None else drift.kl - drift.noise
        estimate = [_drift_figure(drift, "kl", drift.kl, (drift.low, drift.high), noise=drift.noise, excess=excess)]
    return [
        *estimate,
        _drift_figure(drift, "kl_bound", drift.kl_bound, (drift.kl_bound_low, drift.kl_bound_high)),
        _drift_figure(drift, "token_flip", 1 - drift.top1_agreement),
        _drift_figure(drift, "moved_share", drift.moved_share),
    ]


def _drift_figure(
    drift: "DriftView",
    name: str,
    mean: float,
    interval: tuple[float | None, float | None] = (None, None),
    *,
    noise: float | None = None,
    excess: float | None = None,
) -> DriftFigure:
    low, high = interval
    return DriftFigure(
        comparator=name,
        n=drift.n,
        mean=mean,
        unscored=drift.unscored,
        low=low,
        high=high,
        noise=noise,
        excess=excess,
        stands_out=drift.stands_out.get(name),
    )


def mark(text: str, stands_out: bool | None) -> str:
    """Return a figure's text, with a mark if the figure stands out."""
    return f"{text} {OUT}" if stands_out else text


def _row(figure: "FigureView | DriftFigure", tasks: Sequence["TaskView"]) -> tuple[str, ...]:
    name = figure.comparator
    digits = 4 if name in ("kl", "kl_bound") else 3
    interval = _format_interval(figure.low, figure.high, digits, is_difference=figure.is_difference)
    noise = "-" if figure.noise is None else _format(figure.noise, digits, is_difference=figure.is_difference)
    of_tasks = []
    for task in tasks:
        match = next((each for each in task.figures if each.comparator == name), None)
        of_tasks.append("-" if match is None else _format_mean(match, digits))
    unscored = format_reasons(figure.unscored)
    return (f"  {name}", f"{figure.n:,}", _format_mean(figure, digits), interval, noise, *of_tasks, unscored or "-")


def _format_mean(figure: "FigureView | DriftFigure", digits: int) -> str:
    """Return the mean, or both arms' means if the comparator scores each answer by itself."""
    if figure.is_difference:
        return mark(f"{figure.control:.1%} → {figure.candidate:.1%}", figure.stands_out)
    return mark(f"{figure.mean:.{digits}f}", figure.stands_out)


def _format_interval(low: float | None, high: float | None, digits: int, *, is_difference: bool) -> str:
    if low is None or high is None:
        return "-"
    ends = (_format(value, digits, is_difference=is_difference) for value in (low, high))
    return " … ".join(ends)


def _format(value: float, digits: int, *, is_difference: bool) -> str:
    """Return a score; of a difference between the arms, where 0.5 means none, the difference in points."""
    return f"{2 * value - 1:+.1%}" if is_difference else f"{value:.{digits}f}"


def _show_drift(drift: "DriftView") -> None:
    noise = "no noise measured" if drift.noise is None else f"noise {drift.noise:.4f}"
    parts = [noise, *(f"{name} {value:.4f}" for name, value in drift.quantiles.items())]
    if drift.bits_per_byte is not None:
        parts.append(f"{drift.bits_per_byte:.4f} bits a byte")
    kl = "not estimated" if drift.kl is None else f"estimated {drift.kl:.4f}"
    say(f"  KL {kl}, at least {drift.kl_bound:.4f} nats a token ({', '.join(parts)}); {drift.n_tokens:,} tokens")
    say(
        f"  {drift.moved_share:.1%} of the tokens moved by over 1 nat; same first choice for {drift.top1_agreement:.1%}"
    )
    if drift.top_moved:
        tokens = ", ".join(f"{each.token!r} {each.log_ratio:+.1f}" for each in drift.top_moved)
        say(f"  moved most, in nats: {tokens}")


def _show_lengths(each: "ComparisonView") -> None:
    lengths = (
        ("prompts", each.prompt_tokens),
        ("control's replies", each.control_tokens),
        ("the version's", each.other_tokens),
    )
    parts = [f"{about} {length.mean:.0f} (p90 {length.p90:.0f})" for about, length in lengths if length is not None]
    if parts:
        say(f"  tokens: {', '.join(parts)}")


def _show_judge(judge: "JudgeView") -> None:
    noise = "no noise measured" if judge.noise is None else f"{judge.noise:.1%} against itself"
    say(
        f"  judge: {mark(format(judge.win_ratio, '.1%'), judge.stands_out)} for the version ({noise}); "
        f"{judge.wins:,} won, {judge.ties:,} tied, {judge.losses:,} lost"
    )


def gate_name(gate: "ReadingView") -> str:
    """Return a gate's name, and whether it is muted or not critical."""
    flags = [word for word, holds in (("muted", gate.is_muted), ("not critical", not gate.is_critical)) if holds]
    return gate.gate + (f" ({', '.join(flags)})" if flags else "")


def _show_rollout(rollout: "ShadowedRollout") -> None:
    say()
    say(f"rollout {rollout.id} of {rollout.candidate}: {rollout.phase}", bold=True)
    curves = {each.gate: each for each in rollout.evidence}
    for gate in rollout.gates or ():
        curve = curves.get(gate.gate)
        bound = ""
        if curve is not None:
            bound = f" of {curve.pass_bound if gate.verdict == 'pass' else curve.bound:,.0f}"
        evidence = "" if gate.e_value is None else f"; e-value {gate.e_value:.3g}{bound}"
        say(f"  gate {gate_name(gate)}: {gate.verdict}: {gate.reason}{evidence}")


def queue_line(queue: "QueueReport") -> str:
    """Return in one line how many samples wait, are compared and have failed."""
    waiting = f"{queue.pending:,} waiting, {queue.claimed:,} being compared"
    age = f", the oldest for {queue.oldest_seconds:.0f} s" if queue.pending else ""
    return f"queue: {waiting}{age}; {queue.failed:,} given up"
