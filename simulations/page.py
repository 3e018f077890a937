"""The tables of the pages in docs/, made of results.json, each between its own two marks."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Results = Mapping[str, Any]


def tables_of(name: str, results: Results) -> str:
    """Return one table."""
    return _TABLES[name](results)


def rewritten(page: str, results: Results, names: Iterable[str]) -> str:
    """Return a page with its tables, of these names, as the results say.

    Raises:
        ValueError: The page has no place for a table.
    """
    for name in names:
        table = tables_of(name, results)
        pattern = re.compile(rf"(<!-- simulated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no place for `{name}`: `<!-- simulated: {name} -->` … `<!-- end -->`")
        page = _filled(pattern, page, table)
    return page


def _filled(place: re.Pattern[str], page: str, table: str) -> str:
    return place.sub(lambda found: f"{found[1]}{table}{found[2]}", page)


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")


def _shares(name: str, times: int = 1) -> Callable[[Results], str]:
    def make(results: Results) -> str:
        head = f"{times * results['size']['runs']:,} runs, {results['size']['looks']:,} looks each | ever"
        return _table(head, [[case, _percent(share)] for case, share in results[name].items()])

    return make


def _by_look(name: str) -> Callable[[Results], str]:
    def make(results: Results) -> str:
        marks = list(next(iter(results[name].values()))["by_look"])
        head = " | ".join(["wrong by look", *(f"{int(mark):,}" for mark in marks)])
        rows = [[case, *map(_percent, told["by_look"].values())] for case, told in results[name].items()]
        return _table(head, rows)

    return make


def _waiting(name: str) -> Callable[[Results], str]:
    def make(results: Results) -> str:
        rows = [
            [case, _count(told["median"]), _count(told["nine_in_ten"]), _count(told["demand"], missing="")]
            for case, told in results[name].items()
        ]
        return _table("sessions until it is decided | median | nine in ten | asked for at most", rows)

    return make


def _count(number: float | None, missing: str = "–") -> str:
    return missing if number is None else f"{number:,.0f}"


def _noise(results: Results) -> str:
    rows = [[case, _count(told["median"])] for case, told in results["noise_power"].items()]
    return _table("pairs until 10 points less similar fails a margin of 5, one pair in ten noise | median", rows)


def _alarms(results: Results) -> str:
    rows = []
    for case, told in results["alarms"].items():
        if "delay" in told:
            rows.append([case, _count(told["promised"]), "", _count(told["delay"])])
        else:
            more = "≥ " if told["cut_off"] else ""
            rows.append([case, _count(told["promised"]), more + _count(told["mean"]), ""])
    return _table("sessions | run length promised | mean until a false alarm | median delay", rows)


def _noise_share(results: Results) -> str:
    shares = list(next(iter(results["noise_share"].values())))
    head = " | ".join(
        ["pairs of both kinds, median, by the share of noise pairs", *(f"{float(s):.0%}" for s in shares)]
    )
    rows = [[case, *map(_count, told.values())] for case, told in results["noise_share"].items()]
    return _table(head.replace("%", " %"), rows)


def _needed(results: Results) -> str:
    rows = [
        [case, *("; ".join(map(_count, each)) for each in told.values())]
        for case, told in results["pairs_needed"].items()
    ]
    gates = list(next(iter(results["pairs_needed"].values())))
    return _table(" | ".join(["", *(f"{count} gates" for count in gates)]), rows)


def _margins(results: Results) -> str:
    rows = [
        [
            case,
            _count(told["none"]),
            f"{100 * told['margin']:g} points",
            _count(told["default"], missing="never: allowed"),
        ]
        for case, told in results["default_margins"].items()
    ]
    return _table("sessions until it fails, median | margin 0 | default margin | at the default margin", rows)


def _order(results: Results) -> str:
    rows = [[case, *map(_percent, told.values())] for case, told in results["session_order"].items()]
    return _table("ever rolled back, sessions count | as they end | as they began (ours)", rows)


def _sliding(results: Results) -> str:
    rows = [[case, *map(_percent, told.values())] for case, told in results["sliding"].items()]
    return _table("the interval lacks the truth | at a look | ever in 20,000 sessions", rows)


def _marks(results: Results) -> str:
    rows = [
        [case, _percent(told["wrong"]), _percent(told["any_wrong"]), _percent(told["found"]) if told["found"] else ""]
        for case, told in results["marks"].items()
    ]
    return _table("marked where | of the marks wrong | reports with a wrong mark | of the differences marked", rows)


def _psi(results: Results) -> str:
    rows = [
        [case, f"{told['mean']:.3f}", f"{told['formula']:.3f}", _percent(told["above"]), f"{told['bits']:.4f}"]
        for case, told in results["psi_bias"].items()
    ]
    head = "two draws of one mix | mean PSI | (k - 1)(1/n + 1/m) | PSI of 0.2 or more | mean Jensen-Shannon, bits"
    return _table(head, rows)


def _correlated(results: Results) -> str:
    rows = [[case, *map(_count, told.values())] for case, told in results["correlated_alarms"].items()]
    return _table("sessions that repeat the one before | at the limit | half of the tolerance away from it", rows)


def _ratio(results: Results) -> str:
    rows = [
        [case, *(_percent(each) if each < 1 else _count(each) for each in told.values())]
        for case, told in results["sample_ratio"].items()
    ]
    return _table("units until a mismatch is told, median | concentration 100 | 1,000 (ours)", rows)


def _by_weight(name: str, head: str, told: Callable[[float | None], str]) -> Callable[[Results], str]:
    def make(results: Results) -> str:
        weights = list(next(iter(results[name].values())))
        rows = [[case, *(told(values[weight]) for weight in weights)] for case, values in results[name].items()]
        return _table(" | ".join([head, *(weight.replace("%", " %") for weight in weights)]), rows)

    return make


def _live_time(results: Results) -> str:
    rows = [[case, _count(told["p50"]), _count(told["p99"])] for case, told in results["live_time"].items()]
    return _table("traffic | median | 99 of 100", rows)


_TABLES: dict[str, Callable[[Results], str]] = {
    "live_power": _by_weight("live_power", "candidate's units until it", _count),
    "live_time": _live_time,
    "live_false_rollbacks": _by_weight(
        "live_false_rollbacks", "a harmless candidate is ever rolled back", lambda share: _percent(share or 0.0)
    ),
    "live_hidden": _by_weight("live_hidden", "found", lambda share: f"{share or 0.0:.0%}".replace("%", " %")),
    "false_rollbacks": _shares("false_rollbacks", 5),
    "false_passes": _shares("false_passes", 5),
    "against_noise": _shares("against_noise"),
    "ten_criteria": _shares("ten_criteria"),
    "peeking": _by_look("peeking"),
    "coverage": _by_look("coverage"),
    "sessions": _by_look("sessions"),
    "weights": _shares("weights"),
    "power": _waiting("power"),
    "passing": _waiting("passing"),
    "noise_power": _noise,
    "alarms": _alarms,
    "default_margins": _margins,
    "noise_share": _noise_share,
    "pairs_needed": _needed,
    "session_order": _order,
    "sliding": _sliding,
    "marks": _marks,
    "psi_bias": _psi,
    "correlated_alarms": _correlated,
    "sample_ratio": _ratio,
}
# Page in docs/ → its tables.
PAGES: dict[str, tuple[str, ...]] = {
    "statistics.md": tuple(name for name in _TABLES if name not in ("pairs_needed", "live_power", "live_time")),
    "rollouts.md": ("live_power", "live_time"),
    "gates.md": ("pairs_needed",),
}
