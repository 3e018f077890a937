"""From readings to one table: medians over the runs, ratios within a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Run = Mapping[str, Mapping[str, float]]
"""One run's values: peer → value name → number."""

HEAD = (
    "proxy",
    "CPU us/request",
    "x vllm-router",
    "x round_robin",
    "CPU us/event",
    "x vllm-router",
    "requests/s",
    "added p50 ms",
    "added p99 ms",
    "RSS MB",
    "KB/stream",
)
WORKER = " (worker process alone)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One proxy over all runs; None where nothing was measured."""

    name: str
    request_us: float | None
    request_ratio: tuple[float, float, float] | None
    """Median, lowest and highest of the runs' ratios to the reference."""
    strict_ratio: tuple[float, float, float] | None
    """The same to the second reference, its cheapest policy."""
    event_us: float | None
    event_ratio: tuple[float, float, float] | None
    rps: float | None = None
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None
    rss_mb: float | None = None
    stream_kb: float | None = None
    flagged: bool = False


def row(
    name: str, runs: Sequence[Run], references: tuple[str, str], *, worker: bool = False, flagged: bool = False
) -> Row:
    """Return the row of peer `name`; `worker` gives that of its busiest process alone.

    Ratios and added latencies are taken within each run, then their median, so that a machine that
    is slower in one run slows both sides.
    """
    prefix = "worker_" if worker else ""
    ratios = [
        _triple([_ratio(run, name, f"{prefix}{what}", reference, what) for run in runs])
        for what, reference in zip(("request_us", "request_us", "event_us"), (*references, references[0]), strict=True)
    ]
    full = {} if worker else {key: _median(runs, name, key) for key in ("rps", "rss_mb", "stream_kb")}
    added = {} if worker else {f"added_{point}_ms": _added(runs, name, f"{point}_ms") for point in ("p50", "p99")}
    return Row(
        name=name + (WORKER if worker else ""),
        request_us=_median(runs, name, f"{prefix}request_us"),
        request_ratio=ratios[0],
        strict_ratio=ratios[1],
        event_us=_median(runs, name, f"{prefix}event_us"),
        event_ratio=ratios[2],
        flagged=flagged,
        **full,
        **added,
    )


def _values(runs: Sequence[Run], name: str, key: str) -> list[float]:
    return [run[name][key] for run in runs if name in run and key in run[name]]


def _median(runs: Sequence[Run], name: str, key: str) -> float | None:
    found = _values(runs, name, key)
    return median(found) if found else None


def _ratio(run: Run, name: str, key: str, reference: str, reference_key: str) -> float | None:
    ours, theirs = run.get(name, {}).get(key), run.get(reference, {}).get(reference_key)
    return ours / theirs if ours is not None and theirs else None


def _triple(found: Sequence[float | None]) -> tuple[float, float, float] | None:
    numbers = [one for one in found if one is not None]
    return (median(numbers), min(numbers), max(numbers)) if numbers else None


def _added(runs: Sequence[Run], name: str, key: str) -> float | None:
    found = [
        run[name][key] - run["direct"][key] for run in runs if key in run.get(name, {}) and key in run.get("direct", {})
    ]
    return median(found) if found else None


def render(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table whose columns line up."""
    lines = [HEAD, *(_cells(one) for one in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    out = []
    for line in [lines[0], rule, *lines[1:]]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.name + (" (!)" if one.flagged else ""),
        _number(one.request_us),
        _spread(one.request_ratio),
        _spread(one.strict_ratio),
        _number(one.event_us),
        _spread(one.event_ratio),
        "-" if one.rps is None else f"{one.rps:,.0f}",
        "-" if one.added_p50_ms is None else f"{one.added_p50_ms:.2f}",
        "-" if one.added_p99_ms is None else f"{one.added_p99_ms:.2f}",
        _number(one.rss_mb),
        _number(one.stream_kb),
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _spread(ratio: tuple[float, float, float] | None) -> str:
    if ratio is None:
        return "-"
    middle, low, high = ratio
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f}..{high:.2f})"
