"""loragate completion: print the script by which a shell completes this command."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: eval "$(loragate completion bash)" in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three shells
    click.echo(kind(context.find_root().command, {}, "loragate", "_LORAGATE_COMPLETE").source())
