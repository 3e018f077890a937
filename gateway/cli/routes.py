"""loragate routes: what each alias serves, and splits between two of its versions."""

from typing import Any

import click

from gateway.cli.client import Control, echo_json, segment
from gateway.cli.options import control_options, json_option
from gateway.cli.tables import share, show_table, when


@click.group()
def routes() -> None:
    """See and split what each alias serves."""


@routes.command("ls")
@json_option
@control_options
def list_routes(as_json: bool, state: Any, control: str | None, key: str | None) -> None:
    """List all aliases and what they serve."""
    answer = Control(state, control, key).ask_running("GET", "/admin/v1/routes")
    if as_json:
        echo_json(answer["routes"])
        return
    rows = [
        (each["alias"], each["control"], each["candidate"] or "-", share(each["weight"]), when(each["created"]))
        for each in answer["routes"]
    ]
    show_table(
        ("ALIAS", "CONTROL", "CANDIDATE", "SHARE", "SINCE"), rows, "No routes yet: loragate adapters add makes one."
    )


@routes.command("split")
@click.argument("alias")
@click.option("--candidate", metavar="VERSION", help="Version to send a share to; without one the split ends.")
@click.option(
    "--weight", type=click.IntRange(0, 10_000), default=0, show_default=True, help="Its share, in basis points."
)
@json_option
@control_options
def split(
    alias: str, candidate: str | None, weight: int, as_json: bool, state: Any, control: str | None, key: str | None
) -> None:
    """Send a sticky share of ALIAS's units to a candidate version."""
    body = {"candidate": candidate, "weight": weight}
    route = Control(state, control, key).ask_running("PUT", f"/admin/v1/routes/{segment(alias)}/split", body)
    if as_json:
        echo_json(route)
    elif route["candidate"]:
        click.echo(f"`{alias}`: {share(route['weight'])} to {route['candidate']}, the rest to {route['control']}.")
    else:
        click.echo(f"`{alias}`: all to {route['control']}.")
