"""Make docs/reference/{cli,settings,metrics,errors}.md from the code: python scripts/make_reference.py [--check]."""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import click

from evaluators.judge.verdict import Verdict
from evaluators.observation import Drift, Kind, Score, ScoredPair
from gateway import errors, settings
from gateway.admin.shadow.windows import Board
from gateway.cli import main as loragate
from gateway.observe.drift_view import DriftStanding
from gateway.observe.engine_counts import PlacementCounts
from gateway.observe.ledger import Cell
from gateway.observe.loads import LoadCounts
from gateway.observe.metrics import Scrape, exposition
from gateway.observe.mirror_counts import MirrorCounts, MirrorReading
from gateway.observe.rollout_counts import RolloutCounts, RolloutSeries, RolloutsReading
from gateway.observe.shadow_counts import EvaluatorCounts, QueueView, ShadowReading
from gateway.observe.store_metrics import StoreReading
from gateway.rollout.gates.reading import Reading as GateReading
from gateway.rollout.gates.sample_ratio import judge_ratio

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
    groups = {name: kind for name, each in settings.Settings.model_fields.items() if (kind := _group(each.annotation))}
    for name, field in settings.Settings.model_fields.items():
        if name not in groups:
            yield f"| `{name}` | `{_shown(field.default)}` | {field.description} |"
    for name, kind in groups.items():
        if isinstance(kind, type) and is_dataclass(kind):
            for bound in fields(kind):
                yield f"| `{name}.{bound.name}` | `{_default(bound)}` | {_comment_above(kind, bound.name)} |"
        else:
            for part, field in kind.model_fields.items():
                yield f"| `{name}.{part}` | `{_shown(field.default)}` | {field.description} |"


def _group(annotation: Any) -> Any:
    """Return the class of a group of settings, or None of a single one."""
    is_group = isinstance(annotation, type) and (is_dataclass(annotation) or hasattr(annotation, "model_fields"))
    return annotation if is_group else None


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


def _default(bound: Any) -> Any:
    return bound.default if bound.default is not MISSING else bound.default_factory()


def _comment_above(kind: type, name: str) -> str:
    """Return the comment over a field; fields without one of their own share that of the field before."""
    lines = Path(inspect.getfile(kind)).read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
    while not lines[at - 1].strip().startswith("#"):
        at -= 1
    comment: list[str] = []
    while lines[at - 1].strip().startswith("#"):
        at -= 1
        comment.insert(0, lines[at].strip().lstrip("# "))
    return " ".join(comment)


def metrics() -> Iterator[str]:
    """Every series, from an exposition with one of each."""
    cell = Cell(
        alias="support",
        version="support@24e3a56d83d9",
        statuses={200: 1},
        errors={"engine_failed": 1},
        exposures={"control": 1},
        refusals={"key_requests": 1},
        engine_fields={"priority/refused": 1},
    )
    loads = LoadCounts()
    counts = loads.of_engine("unix:///run/engine.sock")
    counts.count_load(0.1, "ok")
    counts.count_verdict("ok")
    placement = PlacementCounts()
    placement.count_ejection("unix:///run/engine.sock", "status")
    reading = Scrape(
        cells=(cell,),
        engines={"unix:///run/engine.sock": True},
        problems={"unix:///run/engine.sock": "other_base"},
        adapters=(("support", "support@24e3a56d83d9", "unix:///run/engine.sock", True),),
        slots={"unix:///run/engine.sock": (16, 1)},
        loads=loads,
        workers=1,
        ready_workers=1,
        unresponsive_workers=0,
        worker_restarts={"ended": 0},
        table_version=1,
        placement=placement,
        store=StoreReading(age=0.0, is_away=False, state=1, replicas=1),
        rollouts=_rollouts(),
        shadow=_shadow(),
        mirror=_mirror(),
    )
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
    gate = GateReading(gate="expected", verdict=Verdict.PASS, reason="", observed=0.0, limit=0.01, n=1, e_value=1.0)
    view = RolloutSeries(alias="support", phase="canary", stage=1, readings=(gate,), ratio=judge_ratio(()), bound=400.0)
    return RolloutsReading(
        weights={("support", "control", "support@24e3a56d83d9"): 10_000},
        rollouts=(view,),
        counts=counts,
        is_leader=True,
        journal_entries=1,
    )


def _mirror() -> MirrorReading:
    """One of each series of the mirror."""
    counts = MirrorCounts()
    counts.sample("support", "candidate")
    counts.skip("client_gone")
    counts.drop("queue_full")
    counts.count_feedback("attached")
    return MirrorReading(counts=counts)


def _shadow() -> ShadowReading:
    """One of each series of shadow evaluation."""
    version, score = "support@24e3a56d83d9", Score(value=0.9, version="1")
    board = Board()
    for kind, other in ((Kind.CANDIDATE, "support@9d1c44aa0b17"), (Kind.NOISE, version)):
        board.observe(
            ScoredPair(
                sample="",
                alias="support",
                kind=kind,
                control=version,
                other=other,
                scores={"chrf": score, "judge": score},
                drift=Drift(n_tokens=1, log_ratio=0.1, kl=0.1, kl_bound=0.08, moved_share=0.0, top1_agreement=1.0),
            )
        )
    evaluators = EvaluatorCounts(alive=1, flagged={"support": False})
    evaluators.shed["engine_busy"] += 1
    evaluators.failed["refused"] += 1
    standing = DriftStanding(
        alias="support",
        version=version,
        what="output_length",
        n=1,
        psi=0.0,
        js=0.0,
        evidence=0.0,
        bound=1.0,
        run_length=1.0,
    )
    return replace(
        board.reading(0.0),
        evaluators=evaluators,
        drift=(standing,),
        queue=QueueView(pending=0, claimed=0, failed=0, oldest_seconds=0.0),
    )


def errors_page() -> Iterator[str]:
    """Every error class with its status and code."""
    yield "# Errors\n\nMade by `scripts/make_reference.py`. The body is OpenAI's on every path:"
    yield '`{"error": {"message", "type", "param", "code"}}`. What the engine itself answers (its 400 for a temperature out of'
    yield "range, say) is passed on as it is.\n\n| status | `code` | `type` | `Retry-After` | |\n|---|---|---|---|---|"
    for error in sorted(_leaves(errors.LoragateError), key=lambda each: (each.status, each.code)):
        about = (error.__doc__ or "").splitlines()[0]
        yield f"| {error.status} | `{error.code}` | `{error.type}` | {error.retry_after_seconds or '–'} | {about} |"
    yield "\nMore codes share a class: `missing_required_parameter` and `invalid_type` (400, for `model`), and"
    yield "`pin_not_allowed` and `arm_not_allowed` (403: the key's role is `app`, and the model is an exact version, or an arm is"
    yield "asked for), `engine_field_not_allowed` (400: `param` names a field that this key may not send to an engine, see"
    yield "[security](../security.md)), and on the control port `host_not_allowed`, `origin_not_allowed` (403), `invalid_host`"
    yield "and `content_type_needed` (400, 415: what keeps web pages from calling a gateway without keys)."


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
