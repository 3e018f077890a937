"""loragate gates: replay past rollouts through the gates of another plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.client import admin_client, echo_json, parse_reply
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.rollout import plan_values
from gateway.cli.tables import show_table, when
from gateway.rollout.plan_values import NotReadable, seconds_of

if TYPE_CHECKING:
    from gateway.admin.models.rollouts import ReplayedRollout

# Characters of the real outcome's reason in the table.
_MAX_REASON = 120
_OUTCOMES = {
    "rolled_back": "rolled back",
    "paused": "paused",
    "passed": "passed",
    "undecided": "not decided",
}


@click.group()
def gates() -> None:
    """Try gates on pairs that were compared in past rollouts."""


@gates.command("simulate")
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="Rollouts begun since then: 12h, 7d.")
@click.option(
    "-f",
    "--plan-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The plan to try, in YAML or JSON.",
)
@click.option("--plan", "text", metavar="TEXT", help="The plan in one line, such as `shadow 500 pairs → 5% → 100%`.")
@click.option("--alias", help="Only rollouts of this alias.")
@json_option
@control_options
def simulate(
    since: str, plan_file: Path | None, text: str | None, alias: str | None, as_json: bool, **options: Any
) -> None:
    """Replay stored pairs through a plan's gates: when would each past rollout have stopped?

    Nothing is changed. Gates that need live traffic or a person are left out.
    """
    try:
        seconds = seconds_of(since)
    except NotReadable as error:
        raise fail(f"--since `{since}` is not {error}") from None
    plan = plan_values(text, plan_file)
    if plan is None:
        raise fail("give a plan with -f FILE or --plan TEXT")
    control = admin_client(options)
    body = {"plan": plan, "since_seconds": seconds, "alias": alias}
    answer = control.ask_running("POST", "/admin/v1/gates/simulate", body)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.rollouts import SimulationView

    simulation = parse_reply(SimulationView.model_validate, answer)
    say(f"plan  {simulation.plan_line}")
    if simulation.not_replayed:
        say(f"not replayed, for pairs do not answer them: {', '.join(simulation.not_replayed)}")
    show_table(
        ("ROLLOUT", "ALIAS", "CANDIDATE", "WOULD HAVE", "PAIRS", "PAIR NO.", "WHEN", "WHY", "REALLY"),
        [_row(each) for each in simulation.rollouts],
        f"No rollouts{f' of `{alias}`' if alias is not None else ''} begun in the last {since}.",
    )


def _shorten(why: str) -> str:
    """Return a reason without the gates that decided nothing, cut to fit a table."""
    parts = [
        part for part in why.split("; ") if " not told apart from " not in part and " not measured yet" not in part
    ]
    text = "; ".join(parts) or why
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}… (`loragate explain` has all)"


def _row(each: "ReplayedRollout") -> tuple[str, ...]:
    stop, last = each.simulated, each.last
    number = "-" if stop.number is None else str(stop.number)
    at = "-" if stop.at is None else when(stop.at)
    really = f"{each.phase.replace('_', ' ')}, {when(last.at)}" + (f": {_shorten(last.why)}" if last.why else "")
    return (
        each.id,
        each.alias,
        each.candidate,
        _OUTCOMES.get(stop.outcome, stop.outcome),
        f"{stop.pairs:,}",
        number,
        at,
        stop.why or "-",
        really,
    )
