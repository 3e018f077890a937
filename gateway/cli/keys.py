"""loragate keys: make, list and revoke keys, with or without a running gateway."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.cli.client import Control, NotRunning, echo_json, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.tables import show_table, when
from gateway.decide.authenticate import Role
from gateway.settings import load
from gateway.store.errors import StaleWrite, StoreError
from gateway.store.keys import UnknownKey, create_key, revoke_key
from gateway.store.moving import take_in
from gateway.store.sql import Store, open_store


@click.group()
def keys() -> None:
    """Make, list and revoke keys. Only digests are stored."""


@keys.command("create")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.APP.value, show_default=True,
              help="app: send requests; app:pin: also to exact versions; operator: also change things.")  # fmt: skip
@click.option("--name", default="", help="A remark to know it by.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="The only models it may use; repeatable.")
@json_option
@control_options
def create(role: str, name: str, models: tuple[str, ...], as_json: bool, **control: Any) -> None:
    """Make a key and show it, this once."""
    body = {"role": role, "name": name, "models": list(models) or None}
    remote = _control(control)
    try:
        made = remote.ask("POST", "/admin/v1/keys", body)
    except NotRunning as error:
        _check_is_local(control, error)
        made = _create_in_store(remote.state, Role(role), name, models)
    if as_json:
        echo_json(made)
    else:
        click.echo(made["key"])
        click.echo(f"{made['id']} ({made['role']}). Keep it: it is not shown again.", err=True)


@keys.command("ls")
@json_option
@control_options
def list_keys(as_json: bool, **control: Any) -> None:
    """List all keys, without the keys themselves."""
    remote = _control(control)
    try:
        records = remote.ask("GET", "/admin/v1/keys")["keys"]
    except NotRunning as error:
        _check_is_local(control, error)
        records = [_view(record) for record in _read(remote.state).keys]
    if as_json:
        echo_json(records)
        return
    rows = [
        (
            each["id"],
            each["role"],
            each["name"] or "-",
            "all" if each["models"] is None else ", ".join(each["models"]) or "none",
            when(each["created"]),
        )
        for each in records
    ]
    show_table(("ID", "ROLE", "NAME", "MODELS", "MADE"), rows, "No keys yet: loragate keys create --role app")


@keys.command("revoke")
@click.argument("key_id")
@json_option
@control_options
def revoke(key_id: str, as_json: bool, **control: Any) -> None:
    """Revoke key KEY_ID; the next request with it is refused."""
    remote = _control(control)
    try:
        remote.ask("DELETE", f"/admin/v1/keys/{segment(key_id)}")
    except NotRunning as error:
        _check_is_local(control, error)
        _revoke_in_store(remote.state, key_id)
    if as_json:
        echo_json({"revoked": key_id})
    else:
        click.echo(f"Revoked {key_id}.")


def _create_in_store(folder: Path, role: Role, name: str, models: tuple[str, ...]) -> dict[str, Any]:
    made: list[tuple[Any, str]] = []

    def change(desired: Any) -> Any:
        desired, record, key = create_key(desired, role, time.time(), name, models or None)  # noqa: TID251 (the clock of the command line)
        made.append((record, key))
        return desired

    _change(folder, change)
    record, key = made[-1]
    return {**_view(record), "key": key}


def _revoke_in_store(folder: Path, key_id: str) -> None:
    try:
        _change(folder, lambda desired: revoke_key(desired, key_id))
    except UnknownKey as error:
        raise fail(str(error)) from None


def _change(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the store; a gateway that has just started sees it by its feed."""
    while True:
        desired = _read(folder)
        try:
            _open(folder).write(change(desired), expected=desired.version)
        except StaleWrite:
            continue
        except StoreError as error:
            raise fail(str(error)) from None
        return


def _open(folder: Path) -> Store:
    return open_store(load().store or folder, now=time.time)  # noqa: TID251 (the clock of the command line)


def _read(folder: Path) -> Any:
    try:
        store = _open(folder)
        take_in(store, folder)
        return store.read()
    except StoreError as error:
        raise fail(str(error)) from None


def _view(record: Any) -> dict[str, Any]:
    models = list(record.models) if record.models is not None else None
    return {
        "id": record.id,
        "role": record.role.value,
        "name": record.name,
        "models": models,
        "created": record.created,
    }


def _check_is_local(control: dict[str, Any], error: NotRunning) -> None:
    if control["control"]:
        raise fail(str(error))


def _control(options: dict[str, Any]) -> Control:
    return Control(options["state"], options["control"], options["key"])
