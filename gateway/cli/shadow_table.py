"""A shadow report for a terminal: one block a version, a column a task, noise beside everything."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.cli.output import say
from gateway.cli.tables import show_table, when

# More columns do not fit on a terminal; the JSON and the page have all.
MAX_TASKS: Final = 4
_LEVELS: Final = ("kl", "kl_bound", "token_flip", "moved_share")
OUT: Final = "*"
_HEADINGS: Final = {
    "candidate": "{version}, candidate, against {control}",
    "base": "{version} against the base {control}",
    "noise": "{version} against itself: noise",
}


# What the figures are, for whoever reads them; the page says the same.
LEGEND: Final = (
    "Means and intervals are over sessions. 95 % is at this look: the pairs that are read slide on. "
    f"{OUT} stands out: of all figures that are marked in this report at most 5 % differ by chance alone."
)


def show(report: Mapping[str, Any]) -> None:
    """Print a report."""
    cut = ", the last of more" if report["is_cut"] else ""
    say(f"{report['alias']}: {several(report['pairs'], 'pair')} since {when(int(report['since']))}{cut}")
    if not report["comparisons"]:
        say("Nothing was compared: mirror the route's requests (`mirror`), or roll out with a `shadow` stage.")
    for each in report["comparisons"]:
        _comparison(each)
    if report["comparisons"]:
        say()
        say(f"  {LEGEND}")
    if report["rollout"] is not None:
        _rollout(report["rollout"])
    for each in report["over_time"]:
        say(f"since {each['version']} was accepted: {over_time_line(each)}")
    for each in report["feedback"]:
        say(f"feedback on the {each['arm']}: {each['n']:,}, of them bad {each['bad']:,}")
    say()
    say(queue_line(report["queue"]))
    for text in report["calibration"]:
        say(f"judge: {text}")
    for name, about in (("mirror", "mirror of this gateway"), ("shed", "left alone"), ("failed", "not comparable")):
        if report[name]:
            say(f"{about}: " + ", ".join(f"{count:,} {reason}" for reason, count in report[name].items()))
    if report["spent_tokens"] is not None:
        say(f"spent in the last hour: {report['spent_tokens']:,} tokens")


def several(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def over_time_line(each: Mapping[str, Any]) -> str:
    """Return how far one thing has moved since its version was accepted, in a line."""
    psi = "too few for a distance" if each["psi"] is None else f"PSI {each['psi']:.2f}, JS {each['js']:.3f} bits"
    alarm = f"; ALARM {when(int(each['alarm_at']))}: {each['why']}" if each["alarm_at"] is not None else ""
    evidence = f"evidence {each['evidence']:,.1f} of {each['bound']:,.0f}"
    return f"{each['what']} {psi} ({each['n']:,} sessions, {evidence}){alarm}"


def _comparison(each: Mapping[str, Any]) -> None:
    say()
    say(_HEADINGS[each["kind"]].format(**each), bold=True)
    span = f"{when(int(each['first_at']))} to {when(int(each['last_at']))}"
    say(f"  {several(each['n'], 'pair')} of {several(each['sessions'], 'session')}, {span}")
    if each["drift"] is not None:
        _drift(each["drift"])
    _lengths(each)
    if each["judge"] is not None:
        _judge(each["judge"])
    tasks = each["tasks"][:MAX_TASKS] if len(each["tasks"]) > 1 or each["tasks"][0]["task"] else []
    levels = {figure["comparator"]: figure for figure in levels_of(each)}
    rows = [_row(figure, tasks) for figure in (*levels.values(), *each["figures"])]
    names = [f"{task['task'] or '(no task)'} ({task['n']:,})" for task in tasks]
    show_table(
        ("  COMPARATOR", "PAIRS", "MEAN", "95 %", "NOISE", *names, "UNSCORED"), rows, "  No comparator scored a pair."
    )


def levels_of(each: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return drift's own figures in the form of a comparator's."""
    drift = each["drift"]
    if drift is None:
        return []
    shared = {
        "n": drift["n"],
        "unscored": drift["unscored"],
        "control": None,
        "candidate": None,
        "noise": None,
        "is_difference": False,
        "low": None,
        "high": None,
        "excess": None,
    }
    levels: list[dict[str, Any]] = [
        {
            **shared,
            "comparator": "kl_bound",
            "mean": drift["kl_bound"],
            "low": drift["kl_bound_low"],
            "high": drift["kl_bound_high"],
        },
        {**shared, "comparator": "token_flip", "mean": 1 - drift["top1_agreement"]},
        {**shared, "comparator": "moved_share", "mean": drift["moved_share"]},
    ]
    if drift["kl"] is not None:
        excess = None if drift["noise"] is None else drift["kl"] - drift["noise"]
        estimate = {
            **shared,
            "comparator": "kl",
            "mean": drift["kl"],
            "noise": drift["noise"],
            "low": drift["low"],
            "high": drift["high"],
            "excess": excess,
        }
        levels.insert(0, estimate)
    return [{**level, "stands_out": drift["stands_out"].get(level["comparator"])} for level in levels]


def marked_out(text: str, view: Mapping[str, Any]) -> str:
    """Return a figure's text, with a mark if it stands out."""
    return f"{text} {OUT}" if view["stands_out"] else text


def _row(figure: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    name = figure["comparator"]
    digits = 4 if name in ("kl", "kl_bound") else 3
    interval = _between(figure["low"], figure["high"], digits, is_difference=figure["is_difference"])
    noise = "-" if figure["noise"] is None else _number(figure["noise"], digits, is_difference=figure["is_difference"])
    of_tasks = []
    for task in tasks:
        found = next((each for each in task["figures"] if each["comparator"] == name), None)
        of_tasks.append("-" if found is None else _mean(found, digits))
    unscored = ", ".join(f"{count:,} {reason}" for reason, count in figure["unscored"].items())
    return (f"  {name}", f"{figure['n']:,}", _mean(figure, digits), interval, noise, *of_tasks, unscored or "-")


def _mean(figure: Mapping[str, Any], digits: int) -> str:
    """Return a mean, or both arms' where each answer has a number of its own; marked if it stands out."""
    if figure["is_difference"]:
        return marked_out(f"{figure['control']:.1%} → {figure['candidate']:.1%}", figure)
    return marked_out(f"{figure['mean']:.{digits}f}", figure)


def _between(low: float | None, high: float | None, digits: int, *, is_difference: bool) -> str:
    if low is None or high is None:
        return "-"
    ends = (_number(value, digits, is_difference=is_difference) for value in (low, high))
    return " … ".join(ends)


def _number(value: float, digits: int, *, is_difference: bool) -> str:
    """Return a number, or of what each answer has for itself the difference in points."""
    return f"{2 * value - 1:+.1%}" if is_difference else f"{value:.{digits}f}"


def _drift(drift: Mapping[str, Any]) -> None:
    noise = "no noise measured" if drift["noise"] is None else f"noise {drift['noise']:.4f}"
    known = [noise, *(f"{name} {value:.4f}" for name, value in drift["quantiles"].items())]
    if drift["bits_per_byte"] is not None:
        known.append(f"{drift['bits_per_byte']:.4f} bits a byte")
    kl = "not estimated" if drift["kl"] is None else f"estimated {drift['kl']:.4f}"
    say(f"  KL {kl}, at least {drift['kl_bound']:.4f} nats a token ({', '.join(known)}); {drift['n_tokens']:,} tokens")
    say(
        f"  {drift['moved_share']:.1%} of the tokens moved by over 1 nat; "
        f"same first choice for {drift['top1_agreement']:.1%}"
    )
    if drift["top_moved"]:
        moved = ", ".join(f"{each['token']!r} {each['log_ratio']:+.1f}" for each in drift["top_moved"])
        say(f"  moved most, in nats: {moved}")


def _lengths(each: Mapping[str, Any]) -> None:
    parts = [
        f"{about} {found['mean']:.0f} (p90 {found['p90']:.0f})"
        for name, about in (
            ("prompt_tokens", "prompts"),
            ("control_tokens", "control's replies"),
            ("other_tokens", "the version's"),
        )
        if (found := each[name]) is not None
    ]
    if parts:
        say(f"  tokens: {', '.join(parts)}")


def _judge(judge: Mapping[str, Any]) -> None:
    noise = "no noise measured" if judge["noise"] is None else f"{judge['noise']:.1%} against itself"
    say(
        f"  judge: {marked_out(format(judge['win_ratio'], '.1%'), judge)} for the version ({noise}); "
        f"{judge['wins']:,} won, {judge['ties']:,} tied, {judge['losses']:,} lost"
    )


def marked(gate: Mapping[str, Any]) -> str:
    """Return a gate's name, with what is unusual about it."""
    marks = [word for word, holds in (("muted", gate["is_muted"]), ("not critical", not gate["is_critical"])) if holds]
    return str(gate["gate"]) + (f" ({', '.join(marks)})" if marks else "")


def _rollout(rollout: Mapping[str, Any]) -> None:
    say()
    say(f"rollout {rollout['id']} of {rollout['candidate']}: {rollout['phase']}", bold=True)
    evidence = {each["gate"]: each for each in rollout["evidence"]}
    for gate in rollout["gates"] or ():
        e_value = gate["e_value"]
        found = evidence.get(gate["gate"])
        which = "pass_bound" if gate["verdict"] == "pass" else "bound"
        bound = f" of {found[which]:,.0f}" if found is not None else ""
        told = "" if e_value is None else f"; e-value {e_value:.3g}{bound}"
        say(f"  gate {marked(gate)}: {gate['verdict']}: {gate['reason']}{told}")


def queue_line(queue: dict[str, Any]) -> str:
    """Return how the queue stands, in a line."""
    waiting = f"{queue['pending']:,} waiting, {queue['claimed']:,} being compared"
    age = f", the oldest for {queue['oldest_seconds']:.0f} s" if queue["pending"] else ""
    return f"queue: {waiting}{age}; {queue['failed']:,} given up"
