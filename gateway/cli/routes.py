"""loragate routes: list, compare, revert and export routes, and split an alias between two versions."""

from typing import Any

import click

from gateway.admin.routes.text import describe_field, field_lines, write_route
from gateway.cli.apply import show_plan
from gateway.cli.client import admin_client, echo_json, fetch_all, parse_reply, segment
from gateway.cli.options import control_options, json_option
from gateway.cli.output import print_lines, say
from gateway.cli.routes_file import as_yaml
from gateway.cli.tables import share, show_table, when
from gateway.rollout.plan_values import NotReadable, weight_of

_PATH = "/admin/v1/routes"
_ALL = 10_000
# Fields in the order in which a route is shown.
_FIELDS = ("control", "candidate", "weight", "unit", "mirror", "plan", "limits", "notes")


class Weight(click.ParamType[int]):
    """A share in basis points, given as a percentage such as `5%` or as whole basis points."""

    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        """Return the basis points, or end the command with what is wrong."""
        try:
            points = weight_of(int(value) if str(value).isdecimal() else value)
        except NotReadable:
            points = -1
        if not 0 <= points <= _ALL:
            self.fail(f"`{value}` is not 0 to 100 %, such as 5%, or whole basis points in 0..{_ALL}", param, context)
        return points


@click.group()
def routes() -> None:
    """See, split and take back what each alias serves; `loragate apply` declares it."""


@routes.command("ls")
@json_option
@control_options
def list_routes(as_json: bool, **options: Any) -> None:
    """List all aliases and what they serve."""
    answers = fetch_all(admin_client(options).ask_running, _PATH, "routes")
    if as_json:
        echo_json(answers)
        return
    from gateway.admin.models.routes import read_route

    rows = [
        (each.alias, each.control, each.candidate or "-", share(each.weight), when(each.created))
        for each in (parse_reply(read_route, answer) for answer in answers)
    ]
    show_table(
        ("ALIAS", "CONTROL", "CANDIDATE", "SHARE", "SINCE"), rows, "No routes yet: loragate adapters add makes one."
    )


@routes.command("show")
@click.argument("alias")
@json_option
@control_options
def show(alias: str, as_json: bool, **options: Any) -> None:
    """Show all of ALIAS's route."""
    answer = admin_client(options).ask_running("GET", f"{_PATH}/{segment(alias)}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.routes import read_route

    route = parse_reply(read_route, answer)
    say(f"{'alias':10} {route.alias}")
    for field in _FIELDS:
        say(f"{field:10} {describe_field(field, answer[field])}")
    say(f"{'since':10} {when(route.created)}")
    for previous in route.previous:
        say(f"{'previous':10} {previous.version} until {when(previous.until)}")
    if route.rollout is not None:
        say(f"{'rollout':10} {route.rollout}")


@routes.command("history")
@click.argument("alias")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many versions.")
@click.option("--before", type=click.IntRange(1), metavar="N", help="Only versions below N.")
@json_option
@control_options
def history(alias: str, limit: int, before: int | None, as_json: bool, **options: Any) -> None:
    """List the versions of ALIAS's route, the newest first: when, who, why and what changed."""
    query = f"?limit={limit}" + (f"&before={before}" if before is not None else "")
    answer = admin_client(options).ask_running("GET", f"{_PATH}/{segment(alias)}/history{query}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.routes import HistoryView

    page = parse_reply(HistoryView.model_validate, answer)
    for each in page.versions:
        why = f": {each.reason}" if each.reason else ""
        gone = "" if each.route is not None else " (removed)"
        say(f"{each.number:>4}  {when(each.at)}  {each.by or '-'}{why}{gone}")
        for line in field_lines(each.changes):
            say(f"  {line}")
    if page.next is not None:
        say(f"There are more: --before {page.next}")


@routes.command("diff")
@click.argument("alias")
@click.argument("first", metavar="[FROM]", required=False, type=click.IntRange(0))
@click.argument("second", metavar="[TO]", required=False, type=click.IntRange(1))
@json_option
@control_options
def diff(alias: str, first: int | None, second: int | None, as_json: bool, **options: Any) -> None:
    """Show what changed in ALIAS's route from version FROM to version TO.

    TO is the newest if not given, FROM the one before it; 0 stands for before the first.
    """
    ends = (("from", first), ("to", second))
    query = "&".join(f"{name}={number}" for name, number in ends if number is not None)
    answer = admin_client(options).ask_running("GET", f"{_PATH}/{segment(alias)}/diff?{query}")
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.routes import DifferenceView

    difference = parse_reply(DifferenceView.model_validate, answer)
    say(f"{alias}: version {difference.from_} → {difference.to}")
    for line in field_lines(difference.changes):
        say(line)
    if not difference.changes:
        say("    no difference")


@routes.command("revert")
@click.argument("alias")
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the history and the journal.")
@json_option
@control_options
def revert(alias: str, number: int, reason: str, as_json: bool, **options: Any) -> None:
    """Make ALIAS's route as it was in version NUMBER, at once; that is a new version."""
    body = {"number": number, "reason": reason}
    answer = admin_client(options).ask_running("POST", f"{_PATH}/{segment(alias)}/revert", body)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.routes import AppliedView

    result = parse_reply(AppliedView.model_validate, answer)
    show_plan(result.plan)
    if result.plan.changes:
        say(f"`{alias}` is as in version {number}: the state is at version {result.version}.")


@routes.command("export")
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...")
@json_option
@control_options
def export(aliases: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the routes as a file that `loragate apply` takes back without any change.

    All of them, or those of the ALIASes named.
    """
    control = admin_client(options)
    if aliases:
        answers = [control.ask_running("GET", f"{_PATH}/{segment(alias)}") for alias in dict.fromkeys(aliases)]
    else:
        answers = fetch_all(control.ask_running, _PATH, "routes")
    values = {"routes": [write_route(route) for route in answers]}
    if as_json:
        echo_json(values)
    else:
        print_lines(as_yaml(values))


@routes.command("split")
@click.argument("alias")
@click.option("--candidate", metavar="VERSION", help="Version to send a share to; without one the split ends.")
@click.option(
    "--weight",
    type=Weight(),
    default="0%",
    show_default=True,
    help="Its share, such as 5%; a number alone is basis points.",
)
@json_option
@control_options
def split(alias: str, candidate: str | None, weight: int, as_json: bool, **options: Any) -> None:
    """Send a sticky share of ALIAS's units to a candidate version."""
    body = {"candidate": candidate, "weight": weight}
    answer = admin_client(options).ask_running("PUT", f"{_PATH}/{segment(alias)}/split", body)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.routes import read_route

    route = parse_reply(read_route, answer)
    if route.candidate:
        say(f"`{alias}`: {share(route.weight)} to {route.candidate}, the rest to {route.control}.")
    else:
        say(f"`{alias}`: all to {route.control}.")
