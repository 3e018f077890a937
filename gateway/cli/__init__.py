"""The `loragate` command: one file for each group of commands.

A mistake of the user's is one line and exit code 2, never a traceback.
"""

import click

from gateway import __version__
from gateway.cli.adapters import adapters
from gateway.cli.completion import completion
from gateway.cli.demo import demo
from gateway.cli.keys import keys
from gateway.cli.routes import routes
from gateway.cli.run import check, serve, up
from gateway.cli.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="loragate")
def main() -> None:
    """Serve one frozen base model and many LoRA adapters behind an OpenAI-compatible endpoint."""


for command in (up, serve, check, demo, status, adapters, routes, keys, completion):
    main.add_command(command)
