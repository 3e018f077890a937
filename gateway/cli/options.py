"""Options that several commands share, and the settings that they amount to."""

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
    """Add the options of a command that uses engines on other machines."""
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


def engine_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return a command's options, with those of `engine_options` as the settings of the same meaning."""
    base_name = options.pop("base_name")
    return {**options, "engines": options["engines"] or None, "engine": {"served_name": base_name} if base_name else {}}


def serving_options(command: _C) -> _C:
    """Add the options of a command that runs a gateway."""

    def describe(name: str) -> str:
        return f"{Settings.model_fields[name].description}.  [default: {_DEFAULTS[name]}]"

    options = (
        config_option,
        click.option("--host", help=describe("host")),
        click.option("--port", type=click.IntRange(0, 65535), help=describe("port")),
        click.option("--control-host", help=describe("control_host")),
        click.option("--control-port", type=click.IntRange(0, 65535), help=describe("control_port")),
        click.option("--workers", type=click.IntRange(1, 256), help=describe("workers")),
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


def load_settings(config: Path | None, values: dict[str, Any]) -> Settings:
    """Return the settings, or print every problem on a line of its own and end with exit code 2."""
    try:
        return settings.load(config, values)
    except InvalidSettings as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise SystemExit(2) from None


def fail(message: str) -> "click.exceptions.Exit":
    """Print an error message, and return the exception to raise, which ends the command with exit code 2."""
    first, *others = message.split("\n")
    say(f"error: {first}", err=True)
    for line in others:  # indented, so that quoted text cannot pass for an error line of its own
        say(f"       {line}", err=True)
    return click.exceptions.Exit(2)
