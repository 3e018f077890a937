"""loragate adapters: register, list, show and remove adapters of a running gateway."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.client import Control, echo_json
from gateway.cli.options import control_options, json_option
from gateway.cli.tables import show_table, size, when


@click.group()
def adapters() -> None:
    """Register, list and remove adapters, while the gateway serves."""


@adapters.command("add")
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", required=True, help="Alias that clients send as `model`.")
@click.option("--notes", default="", help="A remark to keep with the version.")
@json_option
@control_options
def add(path: Path, name: str, notes: str, as_json: bool, **control: Any) -> None:
    """Register the adapter in folder PATH and point the alias at it.

    The folder is copied; the version is named by its content. Requests go on all the while.
    """
    body = {"path": str(path.resolve()), "name": name, "notes": notes}
    version = _control(control).ask_running("POST", "/admin/v1/adapters", body)
    if as_json:
        echo_json(version)
    else:
        click.echo(f"`{name}` serves {version['version']} (rank {version['rank']}, {size(version['size_bytes'])}).")


@adapters.command("ls")
@json_option
@control_options
def list_adapters(as_json: bool, **control: Any) -> None:
    """List all registered versions."""
    answer = _control(control).ask_running("GET", "/admin/v1/adapters")
    if as_json:
        echo_json(answer["adapters"])
        return
    rows = [
        (each["version"], each["state"], ", ".join(each["serves"]) or "-", str(each["rank"]),
         size(each["size_bytes"]), when(each["created"]))
        for each in answer["adapters"]
    ]  # fmt: skip
    show_table(
        ("VERSION", "STATE", "SERVES", "RANK", "SIZE", "ADDED"),
        rows,
        "No adapters yet: loragate adapters add PATH --name NAME",
    )


@adapters.command("show")
@click.argument("name")
@json_option
@control_options
def show(name: str, as_json: bool, **control: Any) -> None:
    """Show one version, or the one that alias NAME serves."""
    version = _control(control).ask_running("GET", f"/admin/v1/adapters/{name}")
    if as_json:
        echo_json(version)
        return
    shown = {**version, "created": when(version["created"]), "size_bytes": size(version["size_bytes"])}
    for key, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{key.replace('_bytes', ''):16} {text if text not in (None, '') else '-'}")


@adapters.command("rm")
@click.argument("name")
@json_option
@control_options
def remove(name: str, as_json: bool, **control: Any) -> None:
    """Remove alias NAME with all its versions, or one version that nothing serves.

    Replies under way are finished.
    """
    answer = _control(control).ask_running("DELETE", f"/admin/v1/adapters/{name}")
    if as_json:
        echo_json(answer)
    else:
        click.echo(f"Removed {', '.join(answer['removed'])}.")


def _control(options: dict[str, Any]) -> Control:
    return Control(options["state"], options["control"], options["key"])
