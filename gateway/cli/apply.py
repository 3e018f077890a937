"""loragate apply: show what a file of declared routes would change, then change it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from gateway.admin.routes.text import plan_lines, write_route
from gateway.cli.client import admin_client, echo_json, parse_reply
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.routes_file import is_terminal, read_file

if TYPE_CHECKING:
    from gateway.admin.models.routes import PlanView

COLOURS: Final[Mapping[str, str]] = {"add": "green", "change": "yellow", "remove": "red", "warning": "yellow"}


@click.command()
@click.option(
    "-f",
    "--file",
    "name",
    required=True,
    metavar="FILE",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="Routes, as YAML or JSON; - for standard input.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option("--prune", is_flag=True, help="Remove routes that are not in the file; their versions stay registered.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal to ask on.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history and the journal.")
@click.option(
    "--if-version", type=click.IntRange(0), metavar="N", help="Only if the state is at version N, as a plan showed it."
)
@json_option
@control_options
def apply(name: str, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Make the routes as FILE declares them: all of it, or nothing.

    First it shows what changes and what that means for traffic, and asks. What is applied is what
    was shown: if anybody changes the state meanwhile, nothing is done. Routes that are not in the
    file stay, unless --prune. Applying the same file again changes nothing.
    """
    declaration = read_file(name)
    routes = [write_route(msgspec.to_builtins(route)) for route in declaration.routes]
    body = {"routes": routes, "prune": declaration.prune or options["prune"]}
    control = admin_client(options)
    from gateway.admin.models.routes import AppliedView, PlanView

    answer = control.ask_running("POST", "/admin/v1/routes/plan", body)
    plan = parse_reply(PlanView.model_validate, answer)
    version = options["if_version"]
    if version is not None and version != plan.version:
        raise fail(f"the state is at version {plan.version}, not {version}; nothing was changed: look at it again")
    if not as_json:
        show_plan(plan)
    if plan.conflicts:
        if as_json:
            echo_json({"plan": answer, "version": plan.version, "applied": False})
        for conflict in plan.conflicts:
            say(f"error: {conflict}", err=True)
        raise click.exceptions.Exit(2)
    if dry_run or not plan.changes:
        if as_json:
            echo_json({"plan": answer, "version": plan.version, "applied": False})
        return
    _confirm(yes, as_json)
    headers = {"if-match": f'"{plan.version}"'}
    result = parse_reply(
        AppliedView.model_validate,
        control.ask_running("PUT", "/admin/v1/routes", {**body, "reason": options["reason"]}, headers),
    )
    if as_json:
        echo_json({"plan": result.plan.model_dump(mode="json"), "version": result.version, "applied": True})
    else:
        say(f"Applied: the state is at version {result.version}.", bold=True)


def _confirm(yes: bool, as_json: bool) -> None:
    """Ask the operator to confirm; without a terminal, end the command unless --yes was given."""
    if yes:
        return
    if as_json or not is_terminal():
        raise fail("nothing was changed: there is no terminal to ask on; add --yes to apply, or --dry-run to look only")
    if not click.confirm("Apply?"):
        say("Nothing was changed.")
        raise click.exceptions.Exit(1)


def show_plan(plan: "PlanView") -> None:
    """Print a plan, in colours on a terminal."""
    for kind, line in plan_lines(plan):
        say(line, fg=COLOURS.get(kind), bold=kind in ("add", "change", "remove"))
