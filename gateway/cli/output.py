"""Where commands print: what others have written is shown, and nothing of it reaches the terminal as a command."""

from typing import Any

import click

from gateway.visible import visible


def say(text: object = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print one line, in a style if one is given.

    Ends of lines within it are shown as well, so that what somebody wrote cannot add a line of its own.
    """
    click.secho(visible(str(text)), err=err, nl=nl, **style)


def print_json(text: str, *, err: bool = False) -> None:
    """Print JSON in ASCII: what else a text may hold is an escape there, but for one sign."""
    click.echo(text.replace("\x7f", "\\u007f"), err=err)


def print_lines(text: str) -> None:
    """Print a text of several lines that we have made, such as a file."""
    click.echo("\n".join(map(visible, text.split("\n"))), nl=False)
