"""The demo's second half: a rollout of a better version goes live, and one of an overfitted version is rolled back.

The demo only starts the two rollouts, with the same plan, and sends traffic; the gateway decides, and the demo prints
what it reports.
"""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any, Final

import click
import rich.progress
from rich.console import Console

from gateway.demo.guide import DemoFailed, Guide, note, step
from gateway.demo.traffic import ALIAS, Traffic, run_traffic

# Half of the requests ask facts, whose answers can be scored. The margin is wide, so that some dozens of answers
# decide: for a sound version, a loss of 30 points is excluded after some 20 facts, and the overfitted one loses 70.
# Drift is reported but decides nothing (`muted`): the overfitted version exceeds its limit after as many pairs, but
# showing that a sound version keeps it would take hundreds.
PLAN: Final = {
    "alpha": "5%",
    "shadow": {
        "pairs": 40,
        "max_pairs": 600,
        "share": "100%",
        "idle": "2s",
        "min_time": "10s",
        "gates": [
            {"expected": {"margin": "30%", "min_samples": 15}},
            {"kl": {"limit": 0.15, "min_samples": 20, "muted": True}},
        ],
    },
    "steps": [
        {"weight": "50%", "min_time": "15s", "min_samples": 20, "gates": [{"error_rate": {"margin": "40%"}}]},
        {"weight": "100%"},
    ],
}
# The longest time for one rollout: a slow machine takes a few seconds for a pair.
MAX_SECONDS: Final = 1_800.0
_LOOK_SECONDS: Final = 1.0
# How often a line of progress is printed if there is no terminal.
_LINE_SECONDS: Final = 20.0


def run_trials(guide: Guide, better: Path, overfitted: Path, page: Path) -> None:
    """Roll out a better version and an overfitted one, and print how both rollouts end.

    Args:
        guide: The running gateway, whose alias has a version in service.
        better, overfitted: The folders of the two adapters.
        page: The file for the report, in HTML.

    Raises:
        DemoFailed: The better version does not go live, the other is not rolled back, or a caller got no answer.
    """
    step(f"7. A better version of `{ALIAS}` is shadowed, ramped and goes live by its plan, while callers ask")
    _try(guide, better, "trained longer, at a gentler rate", "live")
    step("8. Another one looks perfect on its lessons. It is shadowed, too")
    worse = _try(guide, overfitted, "knows every lesson by heart", "rolled_back")
    step("9. Why it was taken back, by itself")
    for line in guide.loragate("explain", worse["id"]).splitlines():
        note(line)
    step("10. What its shadow said")
    for line in guide.loragate("shadow", "report", ALIAS, "--since", "1h", "--rollout", worse["id"]).splitlines():
        note(line)
    _write_page(guide, worse["id"], page)


def _try(guide: Guide, folder: Path, reason: str, wanted: str) -> dict[str, Any]:
    """Roll out a version, wait until its rollout is over, and check that it ended in the phase `wanted`."""
    added = guide.loragate("adapters", "add", str(folder), "--name", ALIAS, "--no-activate", "--json")
    version = json.loads(added)["version"]
    plan = guide.state / "plan.json"
    plan.write_text(json.dumps(PLAN))
    started = json.loads(
        guide.loragate("rollout", "start", ALIAS, version, "--plan-file", str(plan), "--reason", reason, "--json")
    )
    note(f"{version}: {started['plan_line']}")
    began = time.monotonic()
    with run_traffic(guide) as traffic:
        found = _follow(guide, started["id"], traffic)
    if traffic.failures:
        raise DemoFailed(f"{len(traffic.failures)} callers got no answer; the first: {traffic.failures[0]}")
    if found["phase"] != wanted:
        raise DemoFailed(
            f"`{version}` is {found['phase']} in place of {wanted}; its gates: {_gates(found) or 'none was read'}; "
            f"its last event: {found['last']['why']}"
        )
    click.echo(
        f"   {click.style(wanted.replace('_', ' '), bold=True)} after {time.monotonic() - began:.0f} s and "
        f"{traffic.answered} answers, none of which failed: {_describe_served(traffic)}"
    )
    return found


def _describe_served(traffic: Traffic) -> str:
    return ", ".join(f"{count} by {version}" for version, count in sorted(traffic.served.items()))


def _follow(guide: Guide, rollout: str, traffic: Traffic) -> dict[str, Any]:
    """Show a rollout's progress until it is over or paused; return its final state."""
    deadline = time.monotonic() + MAX_SECONDS
    console = Console(stderr=True)
    columns = (
        rich.progress.TextColumn("   {task.description:>8}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[gates]}"),
    )
    printed_at, phase = time.monotonic(), ""
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("shadow", total=None, gates="")
        while time.monotonic() < deadline:
            found = guide.admin(f"rollouts/{rollout}")
            if not found["is_open"] or found["phase"] == "paused" or traffic.failures:
                return found
            samples = found["samples"] or 0
            wanted = PLAN["shadow"]["pairs"] if found["weight"] == 0 else PLAN["steps"][0]["min_samples"]  # type: ignore[index]  # JSON values
            bars.update(
                bar,
                description=found["phase"],
                completed=samples,
                total=max(samples, int(wanted)),
                gates=_gates(found),
            )
            is_news = found["phase"] != phase
            if not console.is_terminal and (is_news or time.monotonic() - printed_at > _LINE_SECONDS):
                note(f"{found['phase']}: {samples} samples; {_gates(found)}")
                printed_at = time.monotonic()
            phase = found["phase"]
            time.sleep(_LOOK_SECONDS)
    raise DemoFailed(f"rollout `{rollout}` was not over after {MAX_SECONDS:.0f} s: {_gates(found)}")


def _gates(found: dict[str, Any]) -> str:
    """Return one line with all gates and their figures."""
    return "; ".join(_gate(each) for each in found["gates"] or ())


def _gate(gate: dict[str, Any]) -> str:
    line = f"{gate['gate']} {gate['verdict']}"
    if gate["observed"] is not None and gate["limit"] is not None:
        line += f" {gate['observed']:.3f} against {gate['limit']:.3f}"
    return line + (f", e={gate['e_value']:.3g}" if gate["e_value"] is not None else "")


def _write_page(guide: Guide, rollout: str, page: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        note("With matplotlib (the extra `plots`) there would be a page with plots as well.")
        return
    page.parent.mkdir(parents=True, exist_ok=True)
    guide.loragate("shadow", "report", ALIAS, "--since", "1h", "--rollout", rollout, "--html", str(page))
    click.echo(f"\n   The same with plots: {click.style(str(page), bold=True)}")
