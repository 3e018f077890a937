"""loragate rollback: give an alias's traffic back to its control, or to a version before it."""

from typing import Any

import click

from gateway.cli.client import AdminClient, echo_json, parse_reply, segment
from gateway.cli.options import control_options, json_option
from gateway.cli.output import say
from gateway.cli.tables import share


@click.command()
@click.argument("alias")
@click.option("--to", "to_version", metavar="VERSION", help="Version to go back to.  [default: the control before]")
@click.option("--reason", required=True, help="Why, for the journal.")
@json_option
@control_options
def rollback(
    alias: str, to_version: str | None, reason: str, as_json: bool, state: Any, control: str | None, key: str | None
) -> None:
    """Give ALIAS's traffic back at once.

    In a rollout the candidate is taken back; so is the candidate of a split made by hand. Else ALIAS
    gets its last control that is still registered. Replies under way are finished.
    """
    body = {"to": to_version, "reason": reason}
    answer = AdminClient(state, control, key).ask_running("POST", f"/admin/v1/routes/{segment(alias)}/rollback", body)
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.rollouts import RollbackView

    result = parse_reply(RollbackView.model_validate, answer)
    before = result.before
    before_text = before.control
    if before.weight:
        before_text = f"{before_text}, {share(before.weight)} {before.candidate}"
    say(f"`{alias}`: all to {result.control} (before: {before_text}).")
    if result.rollout:
        say(f"This takes back rollout {result.rollout}; `loragate explain {result.rollout}` tells its story.")
    gateways = result.gateways
    if gateways is not None and gateways.of > 1:
        say(f"In force on {gateways.serving} of {gateways.of} gateways.")
    if gateways is None or gateways.serving < gateways.of:
        say("warning: not every gateway has confirmed it yet; `loragate status` shows which", err=True)
    for url in result.not_ready_on:
        say(f"warning: {url} has to load it first; its first requests go elsewhere, or wait", err=True)
