"""loragate rollout: start rollouts, show where they stand, and send them commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.client import AdminClient, admin_client, echo_json, fetch_all, parse_reply, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.routes_file import yaml_values
from gateway.cli.tables import share, show_table, when
from gateway.rollout.explain import share_of_account
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan

if TYPE_CHECKING:
    from gateway.admin.models.rollouts import RolloutView

_PATH = "/admin/v1/rollouts"
_WHICH = "ROLLOUT is a rollout's id, or the alias whose open rollout is meant."


@click.group()
def rollout() -> None:
    """Roll versions out by plan: start, watch, approve, pause, promote, abort."""


@rollout.command("start")
@click.argument("alias")
@click.argument("candidate", metavar="VERSION")
@click.option(
    "--plan", "text", metavar="TEXT", help="Such as `shadow 500 pairs → 5% 10m → 100%`; `->` is as good as `→`."
)
@click.option(
    "-f", "--plan-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A plan in YAML or JSON."
)
@click.option("--reason", required=True, help="Why, for the journal.")
@click.option("--override", help="Why without the audit that the plan asks for.")
@json_option
@control_options
def start(
    alias: str,
    candidate: str,
    text: str | None,
    plan_file: Path | None,
    reason: str,
    override: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Begin to roll VERSION out as ALIAS's candidate.

    Without a plan: the one that the route declares, else `5 % 10m → 25 % → 50 % → 100 %`.
    """
    body = {"candidate": candidate, "plan": plan_values(text, plan_file), "reason": reason, "override": override}
    answer = admin_client(options).ask_running("POST", f"/admin/v1/routes/{segment(alias)}/rollout", body)
    _print(answer, as_json)


def plan_values(text: str | None, file: Path | None) -> dict[str, Any] | None:
    """Return the plan in canonical form; None without one; print every problem and end the command if it is invalid."""
    if text is not None and file is not None:
        raise fail("--plan and --plan-file: give one of the two")
    if text is not None and text.strip().endswith((".yaml", ".yml", ".json")):
        raise fail(
            f"--plan `{text}`: expected a plan in one line, such as `5% 10m → 100%`; a file goes with --plan-file"
        )
    values: object = text
    if file is not None:
        try:
            values = yaml_values(file.read_bytes(), str(file))
        except OSError as error:
            raise fail(f"`{file}` cannot be read ({error.strerror})") from None
        if values is None:
            raise fail(f"`{file}` is empty; write a plan, such as `steps: [{{weight: 5%, min_time: 10m}}]`")
    if values is None:
        return None
    try:
        return canonical(parse_plan(values))
    except InvalidPlan as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise click.exceptions.Exit(2) from None


@rollout.command("ls")
@click.option("--alias", help="Only those of this alias.")
@click.option("--open", "open_only", is_flag=True, help="Only those that are not over.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@json_option
@control_options
def list_rollouts(alias: str | None, open_only: bool, limit: int, as_json: bool, **options: Any) -> None:
    """List rollouts, the newest first."""
    query = f"?limit={limit}&open={str(open_only).lower()}" + (f"&alias={segment(alias)}" if alias is not None else "")
    answer = admin_client(options).ask_running("GET", _PATH + query)
    if as_json:
        echo_json(answer["rollouts"])
        return
    from gateway.admin.models.rollouts import RolloutsView

    rows = [
        (each.id, each.alias, each.candidate, each.phase, share(each.weight), when(each.started_at))
        for each in parse_reply(RolloutsView.model_validate, answer).rollouts
    ]
    show_table(
        ("ROLLOUT", "ALIAS", "CANDIDATE", "PHASE", "SHARE", "STARTED"),
        rows,
        f"No rollouts{' that are open' if open_only else ''}{f' of `{alias}`' if alias is not None else ''}: "
        "loragate rollout start begins one.",
    )


@rollout.command("status")
@click.argument("name", required=False, metavar="[ROLLOUT]")
@json_option
@control_options
def status(name: str | None, as_json: bool, **options: Any) -> None:
    """Show where rollouts stand: step, samples, what each gate says, what is waited for.

    ROLLOUT is a rollout's id, or an alias: its open rollout, else its last. Without: all that are open.
    """
    control = admin_client(options)
    names = [name] if name is not None else _list_open(control)
    answers = [control.ask_running("GET", f"{_PATH}/{segment(each)}") for each in names]
    if as_json:
        echo_json(answers if name is None else answers[0])
        return
    if not answers:
        say("No rollout is open: loragate rollout start begins one.")
    for number, each in enumerate(answers):
        if number:
            say()
        show(each)


def _list_open(control: AdminClient) -> list[str]:
    from gateway.admin.models.rollouts import RolloutSummary

    answers = fetch_all(control.ask_running, f"{_PATH}?open=true", "rollouts", cursor="before")
    return [parse_reply(RolloutSummary.model_validate, answer).id for answer in answers]


def _command(name: str, summary: str) -> None:
    """Add a command that takes a reason and, optionally, the rollout's sequence number."""

    @rollout.command(name, help=f"{summary}\n\n{_WHICH}")
    @click.argument("which", metavar="ROLLOUT")
    @click.option("--reason", required=True, help="Why, for the journal.")
    @click.option(
        "--sequence", type=click.IntRange(1), metavar="N", help="Only if it is still at this number of its status."
    )
    @json_option
    @control_options
    def command(which: str, reason: str, sequence: int | None, as_json: bool, **options: Any) -> None:
        _send(name, which, {"reason": reason, "sequence": sequence}, as_json, options)


_command("approve", "Let the stage's `manual` gate pass.")
_command("pause", "Hold a rollout where it is; a gate that fails still rolls it back.")
_command("resume", "Begin the paused stage anew: its clock, its samples, its approval.")
_command("abort", "End a rollout without a verdict; all traffic is the control's.")


@rollout.command("promote")
@click.argument("which", metavar="ROLLOUT")
@click.option("--reason", required=True, help="Why, for the journal.")
@click.option("--early", is_flag=True, help="Even if the plan is not complete.")
@click.option(
    "--sequence", type=click.IntRange(1), metavar="N", help="Only if it is still at this number of its status."
)
@json_option
@control_options
def promote(which: str, reason: str, early: bool, sequence: int | None, as_json: bool, **options: Any) -> None:
    """Make the candidate the control.

    ROLLOUT is a rollout's id, or the alias whose open rollout is meant.
    """
    _send("promote", which, {"reason": reason, "sequence": sequence, "early": early}, as_json, options)


def _send(name: str, which: str, body: dict[str, Any], as_json: bool, options: dict[str, Any]) -> None:
    _print(admin_client(options).ask_running("POST", f"{_PATH}/{segment(which)}/{name}", body), as_json)


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(answer)
    else:
        show(answer)


def show(answer: dict[str, Any]) -> None:
    """Print the state of one rollout: its stage, its traffic, and what each gate says."""
    from gateway.admin.models.rollouts import RolloutView

    each = parse_reply(RolloutView.model_validate, answer)
    lines = [
        ("rollout", f"{each.id} of `{each.alias}`, number {each.sequence}"),
        ("phase", each.phase + (", the plan is complete" if each.is_complete and each.is_open else "")),
        ("control", each.home),
        ("candidate", each.candidate + (f", {share(each.weight)} of the units" if each.is_open else "")),
        ("plan", each.plan_line),
        ("reason", f"{each.reason} ({each.started_by}, {when(each.started_at)})"),
        ("last", _format_last(each)),
    ]
    if each.is_open:
        lines.insert(
            4, ("step", f"{_format_step(each)}, for {_format_duration(each.seconds_in_stage)}, {_format_samples(each)}")
        )
    for name, text in lines:
        say(f"{name:10} {text}")
    if each.problem:
        say(f"{'figures':10} not known: {each.problem}")
    for gate in each.gates or ():
        flags = " (muted)" if gate.is_muted else "" if gate.is_critical else " (not critical)"
        say(f"{'gate':10} {gate.gate}{flags}: {gate.verdict}: {gate.reason}")
        for account in gate.accounts:
            say(f"{'':10}   {share_of_account(account.model_dump())}")
    if each.ratio is not None and each.ratio.n:
        say(f"{'units':10} {each.ratio.reason}")
    for wait in each.waits_for:
        say(f"{'warning' if wait in each.warnings else 'waits for':10} {wait}")


def _format_last(each: "RolloutView") -> str:
    last = each.last
    return f"{last.event} by {last.by}, {when(last.at)}" + (f": {last.why}" if last.why else "")


def _format_step(each: "RolloutView") -> str:
    return f"{each.index + 1} of {each.stages}" if each.stages else "-"


def _format_samples(each: "RolloutView") -> str:
    what = "pairs" if each.phase == "shadow" else "samples"
    return f"{what} not known" if each.samples is None else f"{each.samples:,} {what}"


def _format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left:02}s" if minutes else f"{left}s"
