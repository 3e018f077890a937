"""loragate status: show whether a gateway can serve, with its engines, workers and store."""

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.client import AdminClient, echo_json, parse_reply
from gateway.cli.options import control_options, json_option
from gateway.cli.output import say

if TYPE_CHECKING:
    from gateway.admin.models.status import EngineView, ReplicaView, StatusView, StoreView


@click.command()
@json_option
@control_options
def status(as_json: bool, state: Any, control: str | None, key: str | None) -> None:
    """Show engines, workers and what they serve; exit 1 if requests cannot be served."""
    answer = AdminClient(state, control, key).ask_running("GET", "/admin/v1/status")
    if as_json:
        echo_json(answer)
    else:
        from gateway.admin.models.status import StatusView

        _show(parse_reply(StatusView.model_validate, answer))
    if not answer["ready"]:
        raise click.exceptions.Exit(1)


def _show(answer: "StatusView") -> None:
    workers = answer.workers
    say(f"{'ready' if answer.ready else 'NOT READY'}   app {answer.app_url}   control {answer.control_url}")
    silent = f", {workers.unresponsive} NOT RESPONDING" if workers.unresponsive else ""
    say(f"workers  {workers.running} of {workers.wanted} running, {workers.restarts} restarts{silent}")
    names = ", ".join(answer.base_names or [answer.base or "not known yet"])
    say(f"base     {names}{'' if answer.auth else '   (no keys asked for)'}")
    _show_store(answer.store, answer.replicas)
    for engine in answer.engines:
        versions = ", ".join(engine.versions) or "no adapters"
        say(f"engine   {engine.url}  {_format_state(engine)}  {versions}")
        if engine.reason:
            say(f"         {engine.reason}")
        if engine.base and engine.base.verdict != "ok":
            say(f"         {engine.base.verdict}: {engine.base.reason}")
        for version, reason in engine.failed.items():
            say(f"         {version} failed: {reason}")


def _format_state(engine: "EngineView") -> str:
    if engine.up:
        return "up"
    return "NOT USED" if engine.problem in ("other_base", "undecided") else "DOWN"


def _show_store(store: "StoreView", replicas: list["ReplicaView"]) -> None:
    standing = f"version {store.state_version}, confirmed {store.silent_seconds:.1f} s ago"
    if store.is_away:
        away = f"AWAY for {store.silent_seconds:.0f} s" if store.silent_seconds >= 2 else "TAKES NO CHANGES"
        standing = f"{away}; version {store.state_version} is served, changes wait"
    say(f"store    {store.address}  {standing}")
    if len(replicas) > 1:
        for each in replicas:
            workers = f"{each.workers} worker{'s' if each.workers != 1 else ''}"
            say(f"gateway  {each.name}  {each.url}  {workers}, version {each.state_version}")
