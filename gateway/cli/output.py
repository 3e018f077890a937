"""Print a command's output with control characters escaped, so that quoted text cannot control the terminal."""

from typing import Any

import click

from gateway.visible import visible


def say(text: object = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print one line, in a style if one is given.

    Line breaks within the text are escaped, too, so that quoted text cannot add a line of its own.
    """
    click.secho(visible(str(text)), err=err, nl=nl, **style)


def print_json(text: str, *, err: bool = False) -> None:
    """Print JSON that `json.dumps` has written in ASCII, and escape DEL, the one control character that it leaves."""
    click.echo(text.replace("\x7f", "\\u007f"), err=err)


def print_lines(text: str) -> None:
    """Print a text of several lines that Loragate has generated, such as a file."""
    click.echo("\n".join(map(visible, text.split("\n"))), nl=False)
