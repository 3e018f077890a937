"""Options that several commands share, and settings from them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway import settings
from gateway.cli.output import say
from gateway.settings import InvalidSettings, Settings

_C = TypeVar("_C", bound=Callable[..., Any])
_DEFAULTS = Settings.model_construct().model_dump()

config_option = click.option(
    "-c", "--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (YAML)."
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LORAGATE_STATE",
    help=f"Folder for keys, catalog and adapters.  [default: {_DEFAULTS['state']}]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def control_options(command: _C) -> _C:
    """Add the options of a command that talks to a running gateway."""
    options = (
        state_option,
        click.option(
            "--control",
            envvar="LORAGATE_CONTROL",
            metavar="URL",
            help="Control port of a gateway elsewhere, http://HOST:PORT; needs --key.  "
            "[default: the state folder's socket]",
        ),
        click.option(
            "--key", envvar="LORAGATE_KEY", metavar="KEY", help="Key of role viewer, operator or admin, with --control."
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def engine_options(command: _C) -> _C:
    """Add the options of a command that asks engines elsewhere."""
    options = (
        click.option(
            "--engine",
            "engines",
            multiple=True,
            metavar="URL",
            help="Engine that runs elsewhere, http(s)://HOST:PORT or unix:///PATH; repeatable.",
        ),
        click.option(
            "--base-name",
            metavar="NAME",
            help="Name that the engines serve the base under.  [default: as most of them say]",
        ),
        click.option(
            "--engine-key-env", metavar="NAME", help="Environment variable with the engines' API key.  [default: none]"
        ),
        click.option(
            "--engine-ca",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Certificates that those of https:// engines are checked by.  [default: the system's]",
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def named_engines(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given to such a command as settings."""
    base_name = given.pop("base_name")
    return {**given, "engines": given["engines"] or None, "engine": {"served_name": base_name} if base_name else {}}


def serving_options(command: _C) -> _C:
    """Add the options of a command that serves."""

    def described(name: str) -> str:
        return f"{Settings.model_fields[name].description}.  [default: {_DEFAULTS[name]}]"

    options = (
        config_option,
        click.option("--host", help=described("host")),
        click.option("--port", type=click.IntRange(0, 65535), help=described("port")),
        click.option("--control-host", help=described("control_host")),
        click.option("--control-port", type=click.IntRange(0, 65535), help=described("control_port")),
        click.option("--workers", type=click.IntRange(1, 256), help=described("workers")),
        state_option,
        click.option(
            "--no-auth", "auth", flag_value=False, type=bool, default=None, help="Serve without keys; on loopback only."
        ),
        click.option(
            "--tls-certificate", type=click.Path(path_type=Path), help="Certificate chain for the app port, PEM."
        ),
        click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, PEM."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def load_settings(config: Path | None, given: dict[str, Any]) -> Settings:
    """Return the settings, or end with every problem on a line of its own and exit code 2."""
    try:
        return settings.load(config, given)
    except InvalidSettings as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise SystemExit(2) from None


def fail(message: str) -> "click.exceptions.Exit":
    """Print a user's mistake and return the exception that ends with exit code 2."""
    first, *others = message.split("\n")
    say(f"error: {first}", err=True)
    for line in others:  # indented, so that no line of a message that quotes others can be taken for one of ours
        say(f"       {line}", err=True)
    return click.exceptions.Exit(2)
