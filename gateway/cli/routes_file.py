"""Read and write the YAML of a file of routes; `admin/routes/files.py` reads what its values declare."""

import sys
from typing import Any

import click

from gateway.admin.routes.files import MAX_FILE_BYTES, Declaration, InvalidRoutes, parse_routes
from gateway.cli.options import fail
from gateway.cli.output import say
from gateway.visible import visible
from gateway.yaml_text import InvalidYaml, parse


def read_file(name: str) -> Declaration:
    """Return what a file declares; print every problem and end the command if there is one.

    Args:
        name: YAML or JSON; `-` for standard input.
    """
    try:
        with click.open_file(name, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise fail(f"`{name}` cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise fail(f"`{name}` has more than {MAX_FILE_BYTES} bytes; declare fewer routes, others are left alone")
    try:
        return parse_routes(yaml_values(content, "standard input" if name == "-" else name))
    except InvalidRoutes as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise click.exceptions.Exit(2) from None


def yaml_values(content: bytes, name: str) -> Any:
    """Return the values of YAML or JSON; end the command if the content is neither."""
    try:
        return parse(content)
    except InvalidYaml as error:
        raise fail(f"{name}: is not valid YAML ({error})") from None


def as_yaml(values: dict[str, Any]) -> str:
    """Return values as YAML, in the order given."""
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    try:
        is_faithful = yaml.safe_load(text) == values
    except yaml.YAMLError:
        is_faithful = False
    # PyYAML writes some of Unicode's line breaks unescaped and reads them as spaces. It also leaves some control
    # characters unescaped, which a terminal would obey.
    if not is_faithful or any(visible(line) != line for line in text.split("\n")):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=False, width=100)
    return text


def is_terminal() -> bool:
    """Whether both ends are a terminal, so that an operator can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()
