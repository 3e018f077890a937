"""loragate keys: create, list, rotate and revoke keys, through a running gateway or else in its store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.client import NotRunning, admin_client, echo_json, fetch_all, parse_reply, segment
from gateway.cli.options import control_options, fail, json_option
from gateway.cli.output import say
from gateway.cli.tables import show_table, when
from gateway.decide.authenticate import Role
from gateway.decide.engine_fields import check_rules
from gateway.rollout.plan_values import NotReadable, seconds_of
from gateway.settings import load
from gateway.store.errors import StaleWrite, StoreError
from gateway.store.keys import KeyOutOfUse, UnknownKey, create_key, key_view, revoke_key, rotate_key
from gateway.store.sql import Store, open_store

if TYPE_CHECKING:
    from gateway.admin.models.keys import KeyView


class Duration(click.ParamType[int]):
    """A time such as `30d`, as whole seconds.

    A number without a unit is refused, because users who leave the unit out mostly mean days, not seconds.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        """Return the seconds, or end the command with what is wrong."""
        try:
            return 0 if str(value) == "0" else seconds_of(value)
        except NotReadable as error:
            self.fail(f"`{value}` is not {error}", param, context)


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke keys. Only digests are stored."""


@keys.command("create")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.APP.value,
    show_default=True,
    help="app: send requests; app:pin: also to exact versions and arms; viewer: also read the admin API; "
    "operator: also change what is served; admin: also make keys.",
)
@click.option("--name", default="", help="A remark to know it by.")
@click.option(
    "--model",
    "--models",
    "models",
    multiple=True,
    metavar="NAME,…",
    help="The only models it may use; repeatable, or with commas.",
)
@click.option("--expires", type=Duration(), help="Refuse it after so long, such as 30d or 12h.  [default: never]")
@click.option("--rpm", type=click.IntRange(1), metavar="N", help="Requests a minute.  [default: no limit]")
@click.option(
    "--tpm", type=click.IntRange(1), metavar="N", help="Tokens a minute, of prompts and replies.  [default: no limit]"
)
@click.option(
    "--engine-field",
    "engine_fields",
    multiple=True,
    metavar="FIELD=RULE",
    help="A rule for a field that engines are sent: allow, deny, or the largest number, such as n=64; repeatable.",
)
@json_option
@control_options
def create(
    role: str,
    name: str,
    models: tuple[str, ...],
    expires: int | None,
    rpm: int | None,
    tpm: int | None,
    engine_fields: tuple[str, ...],
    as_json: bool,
    **control: Any,
) -> None:
    """Make a key and show it, this once."""
    aliases = [each.strip() for option in models for each in option.split(",") if each.strip()] or None
    limits = {"requests_per_minute": rpm, "tokens_per_minute": tpm}
    rules = _parse_rules(engine_fields)
    body: dict[str, Any] = {"role": role, "name": name, "models": aliases, "lifetime_seconds": expires, **limits}
    body |= {"engine_fields": rules} if rules else {}
    remote = admin_client(control)
    try:
        answer = remote.ask("POST", "/admin/v1/keys", body)
    except NotRunning as error:
        _check_is_local(control, error)
        answer = _make_in_store(
            remote.state,
            lambda desired, now: create_key(
                desired,
                Role(role),
                now,
                name,
                aliases,
                expires=expires and int(now) + expires,
                engine_fields=rules,
                **limits,
            ),
        )
    _print_new(answer, as_json=as_json)


def _parse_rules(options: tuple[str, ...]) -> dict[str, str | int]:
    """Return the rules given as `FIELD=RULE`, or end the command with what is wrong with them."""
    rules: dict[str, str | int] = {}
    for each in options:
        name, _, rule = each.partition("=")
        rules[name.strip()] = int(rule) if rule.strip().isdecimal() else rule.strip()
    try:
        check_rules(rules)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("engine_fields: ")) from None
    return rules


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key is still good; 0 ends it at once.",
)
@json_option
@control_options
def rotate(key_id: str, overlap: int, as_json: bool, **control: Any) -> None:
    """Make a key in KEY_ID's place, with its role, models and limits, and show it, this once."""
    remote = admin_client(control)
    try:
        answer = remote.ask("POST", f"/admin/v1/keys/{segment(key_id)}/rotate", {"overlap_seconds": overlap})
    except NotRunning as error:
        _check_is_local(control, error)
        answer = _make_in_store(remote.state, lambda desired, now: rotate_key(desired, key_id, now, overlap))
    _print_new(answer, as_json=as_json)
    if not as_json:
        say(f"{key_id} is good for another {overlap} s." if overlap else f"{key_id} is refused from now on.", err=True)


def _print_new(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_json(answer)
        return
    from gateway.admin.models.keys import MadeKey

    view = parse_reply(MadeKey.model_validate, answer)
    say(view.key)
    say(f"{view.id} ({view.role}). Keep it: it is not shown again.", err=True)


@keys.command("ls")
@json_option
@control_options
def list_keys(as_json: bool, **control: Any) -> None:
    """List all keys, without the keys themselves."""
    remote = admin_client(control)
    try:
        records = fetch_all(remote.ask, "/admin/v1/keys", "keys")
    except NotRunning as error:
        _check_is_local(control, error)
        records = [_view(record) for record in _read(remote.state).keys]
    if as_json:
        echo_json(records)
        return
    from gateway.admin.models.keys import KeyView

    rows = [
        (
            each.id,
            each.role,
            each.name or "-",
            "all" if each.models is None else ", ".join(each.models) or "none",
            when(each.created),
            "expired" if each.state == "expired" else when(each.expires or 0),
            _format_limits(each),
        )
        for each in (parse_reply(KeyView.model_validate, record) for record in records)
    ]
    columns = ("ID", "ROLE", "NAME", "MODELS", "MADE", "EXPIRES", "LIMITS")
    show_table(columns, rows, "No keys yet: loragate keys create --role app")


def _format_limits(key: "KeyView") -> str:
    limits = ((key.requests_per_minute, "rpm"), (key.tokens_per_minute, "tpm"))
    return ", ".join(f"{limit:,} {unit}" for limit, unit in limits if limit is not None) or "-"


@keys.command("revoke")
@click.argument("key_id")
@json_option
@control_options
def revoke(key_id: str, as_json: bool, **control: Any) -> None:
    """Revoke key KEY_ID; the next request with it is refused."""
    remote = admin_client(control)
    try:
        remote.ask("DELETE", f"/admin/v1/keys/{segment(key_id)}")
    except NotRunning as error:
        _check_is_local(control, error)
        _revoke_in_store(remote.state, key_id)
    if as_json:
        echo_json({"revoked": key_id})
    else:
        say(f"Revoked {key_id}.")


def _make_in_store(folder: Path, make: Callable[[Any, float], tuple[Any, Any, str]]) -> dict[str, Any]:
    results: list[tuple[Any, str]] = []

    def change(desired: Any) -> Any:
        desired, record, key = make(desired, time.time())  # noqa: TID251 (the clock of the command line)
        results.append((record, key))
        return desired

    try:
        _change(folder, change)
    except (UnknownKey, KeyOutOfUse, ValueError) as error:
        raise fail(str(error)) from None
    record, key = results[-1]
    return {**_view(record), "key": key}


def _revoke_in_store(folder: Path, key_id: str) -> None:
    try:
        _change(folder, lambda desired: revoke_key(desired, key_id))
    except UnknownKey as error:
        raise fail(str(error)) from None


def _change(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the state in the store, and name the store; a gateway that has started meanwhile notices the change."""
    while True:
        desired = _read(folder)
        store = _open(folder)
        try:
            store.write_state(change(desired), expected=desired.version)
        except StaleWrite:
            continue
        except StoreError as error:
            raise fail(str(error)) from None
        say(f"No gateway runs on `{folder}`: written to the store `{store.database.label}`.", err=True)
        return


def _open(folder: Path) -> Store:
    return open_store(load().store or folder, now=time.time)  # noqa: TID251 (the clock of the command line)


def _read(folder: Path) -> Any:
    try:
        store = _open(folder)
        return store.read_state()
    except StoreError as error:
        raise fail(str(error)) from None


def _view(record: Any) -> dict[str, Any]:
    return key_view(record, time.time())  # noqa: TID251 (the clock of the command line)


def _check_is_local(control: dict[str, Any], error: NotRunning) -> None:
    if control["control"]:
        raise fail(str(error))
