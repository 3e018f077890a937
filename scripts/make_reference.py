"""Make docs/reference/{cli,settings,metrics,errors}.md from the code: python scripts/make_reference.py [--check]."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from gateway import errors, settings
from gateway.cli import main as loragate
from gateway.decide.ratio import judge_ratio
from gateway.decide.verdict import Reading as GateReading
from gateway.decide.verdict import Verdict
from gateway.observe.engine_counts import PlacementCounts
from gateway.observe.ledger import Cell
from gateway.observe.loads import LoadCounts
from gateway.observe.metrics import Reading, exposition
from gateway.observe.rollout_counts import RolloutCounts, RolloutsReading, RolloutView
from gateway.observe.store_metrics import StoreReading
from gateway.receive.limits import Limits

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"


def pages() -> dict[str, str]:
    """Return file name → content of every made page."""
    made = "\n".join
    return {
        "cli.md": made(cli()) + "\n",
        "settings.md": made(settings_page()) + "\n",
        "metrics.md": made(metrics()) + "\n",
        "errors.md": made(errors_page()) + "\n",
    }


def cli() -> Iterator[str]:
    """Every command's help."""
    yield "# Commands\n\nMade by `scripts/make_reference.py` from the commands' own help."
    yield from _command_help(loragate, "loragate")


def _command_help(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(
        command, info_name=path, max_content_width=100, terminal_width=100, **command.context_settings
    )
    yield f"\n## {path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command_help(inner, f"{path} {name}")


def settings_page() -> Iterator[str]:
    """Every setting with its default."""
    yield "# Settings\n\nMade by `scripts/make_reference.py`. In the file as written here, nested with indents; as"
    yield "variables `LORAGATE_PORT`, `LORAGATE_LIMITS__IDLE_SECONDS`, lists with commas.\n"
    yield "| setting | default | |\n|---|---|---|"
    for name, field in settings.Settings.model_fields.items():
        if name not in ("limits", "engine", "adapters"):
            yield f"| `{name}` | `{_shown(field.default)}` | {field.description} |"
    for name, field in settings.EngineSettings.model_fields.items():
        yield f"| `engine.{name}` | `{_shown(field.default)}` | {field.description} |"
    for name, field in settings.AdapterSettings.model_fields.items():
        yield f"| `adapters.{name}` | `{_shown(field.default)}` | {field.description} |"
    for limit in fields(Limits):
        yield f"| `limits.{limit.name}` | `{limit.default}` | {_comment_above(limit.name)} |"


def _shown(value: Any) -> str:
    return (
        {True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool)
        else "none"
        if value is None
        else "[]"
        if value == ()
        else str(value)
    )


def _comment_above(name: str) -> str:
    lines = (ROOT / "gateway" / "receive" / "limits.py").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
    comment: list[str] = []
    while lines[at - 1].strip().startswith("#"):
        at -= 1
        comment.insert(0, lines[at].strip().lstrip("# "))
    return " ".join(comment)


def metrics() -> Iterator[str]:
    """Every series, from an exposition with one of each."""
    cell = Cell(
        alias="support", version="support@24e3a56d83d9", statuses={200: 1}, errors={"engine_failed": 1},
        exposures={"control": 1}, refusals={"key_requests": 1},
    )  # fmt: skip
    loads = LoadCounts()
    counts = loads.of_engine("unix:///run/engine.sock")
    counts.loaded(0.1, "ok")
    counts.judged("ok")
    placement = PlacementCounts()
    placement.ejected("unix:///run/engine.sock", "status")
    reading = Reading(
        cells=(cell,), engines={"unix:///run/engine.sock": True},
        adapters=(("support", "support@24e3a56d83d9", "unix:///run/engine.sock", True),),
        slots={"unix:///run/engine.sock": (16, 1)}, loads=loads, workers=1, ready_workers=1, worker_restarts=0, table_version=1,
        placement=placement, store=StoreReading(age=0.0, is_away=False, state=1, replicas=1), rollouts=_rollouts(),
    )  # fmt: skip
    yield "# Metrics\n\nMade by `scripts/make_reference.py`. On the control port, `/metrics`, summed over all workers. Times are in"
    yield "seconds. Labels are bounded: what a client sends never becomes one. Requests that named no model of ours have"
    yield "empty `alias` and `version`. The base counts under its own name. `code` is an HTTP status in `loragate_requests_total`"
    yield "(499: the client left first) and one of [our codes](errors.md), `engine_status` or `client_gone`, in"
    yield "`loragate_errors_total`.\n\n| series | type | labels | |\n|---|---|---|---|"
    text = exposition(reading).decode().splitlines()
    for number, line in enumerate(text):
        if line.startswith("# HELP"):
            _, _, name, about = line.split(" ", 3)
            kind = text[number + 1].split(" ")[3]
            sample = next(each for each in text[number + 2 :] if each.startswith(name))
            inside = sample.partition("{")[2].partition("}")[0] if "{" in sample else ""
            labels = ", ".join(
                f"`{pair.split('=')[0]}`" for pair in inside.split('",') if pair and not pair.startswith("le=")
            )
            yield f"| `{name}` | {kind} | {labels or '–'} | {about} |"


def _rollouts() -> RolloutsReading:
    """One rollout, with one of each series."""
    counts = RolloutCounts()
    counts.rollbacks["support", "error_rate"] += 1
    counts.pages["support", "error_rate"] += 1
    gate = GateReading(gate="error_rate", verdict=Verdict.PASS, reason="", observed=0.0, limit=0.01, n=1)
    view = RolloutView(alias="support", phase="canary", stage=1, readings=(gate,), ratio=judge_ratio(()))
    return RolloutsReading(
        weights={("support", "control", "support@24e3a56d83d9"): 10_000}, rollouts=(view,), counts=counts,
        is_leader=True, journal_entries=1,
    )  # fmt: skip


def errors_page() -> Iterator[str]:
    """Every error class with its status and code."""
    yield "# Errors\n\nMade by `scripts/make_reference.py`. The body is OpenAI's on every path:"
    yield '`{"error": {"message", "type", "param", "code"}}`. What the engine itself answers (its 400 for a temperature out of'
    yield "range, say) is passed on as it is.\n\n| status | `code` | `type` | `Retry-After` | |\n|---|---|---|---|---|"
    for error in sorted(_leaves(errors.LoragateError), key=lambda each: (each.status, each.code)):
        about = (error.__doc__ or "").splitlines()[0]
        yield f"| {error.status} | `{error.code}` | `{error.type}` | {error.retry_after_seconds or '–'} | {about} |"
    yield "\nTwo more codes share a class: `missing_required_parameter` and `invalid_type` (400, for `model`), and"
    yield "`pin_not_allowed` (403: the key's role is `app`, and the model is an exact version)."


def _leaves(error: type[errors.LoragateError]) -> list[type[errors.LoragateError]]:
    below = error.__subclasses__()
    return [leaf for each in below for leaf in _leaves(each)] if below else [error]


def main() -> None:
    """Write the pages, or with --check exit 1 if one is not current."""
    stale = []
    for name, content in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != content:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(content)
    print(f"{'stale' if '--check' in sys.argv else 'written'}: {', '.join(stale) or 'none'}")
    if stale and "--check" in sys.argv:
        sys.exit(1)


if __name__ == "__main__":
    main()
