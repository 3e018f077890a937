"""The tables of docs/statistics.md, made of results.json, each between its own two marks."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Results = Mapping[str, Any]


def tables(results: Results) -> dict[str, str]:
    """Return each table's name and its text."""
    return {name: make(results) for name, make in _TABLES.items()}


def tables_of(name: str, results: Results) -> str:
    """Return one table."""
    return _TABLES[name](results)


def rewritten(page: str, results: Results) -> str:
    """Return the page with its tables as the results say.

    Raises:
        ValueError: The page has no place for a table.
    """
    for name, table in tables(results).items():
        pattern = re.compile(rf"(<!-- simulated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no place for `{name}`: `<!-- simulated: {name} -->` … `<!-- end -->`")
        page = pattern.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", page)
    return page


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


_TABLES: dict[str, Callable[[Results], str]] = {
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
}
