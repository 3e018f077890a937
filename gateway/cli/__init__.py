"""The `loragate` command; each group of commands is a file of this folder.

A user's mistake ends a command with a one-line message and exit code 2, never with a traceback.
"""

import importlib
from typing import Any, Final

import click

import gateway
from gateway.cli.output import say
from gateway.visible import visible

# Command → module that defines it. A module is imported when its command is called, so that `serve` starts fast.
_COMMANDS: Final = {
    "up": "run",
    "serve": "run",
    "evaluate": "evaluate",
    "check": "run",
    "demo": "demo",
    "status": "status",
    "adapters": "adapters",
    "apply": "apply",
    "routes": "routes",
    "rollout": "rollout",
    "gates": "gates",
    "rollback": "rollback",
    "shadow": "shadow",
    "explain": "journal",
    "journal": "journal",
    "keys": "keys",
    "completion": "completion",
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"gateway.cli.{_COMMANDS[name]}"), name)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options that precede the command's name."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _escape_message(error) from None

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            raise _escape_message(error) from None
        except OSError as error:  # such as a folder without permission to read it, or a full disk
            if isinstance(error, BrokenPipeError):
                raise
            where = f" `{error.filename}`" if error.filename else ""
            say(f"error: {error.strerror or error}{where}", err=True)
            raise click.exceptions.Exit(2) from None


def _escape_message(error: click.UsageError) -> click.UsageError:
    """Return the error with control characters in its message escaped.

    The message quotes arguments, which a script may have taken from an untrusted source.
    """
    if error.message.isprintable() or type(error).show is not click.UsageError.show:  # such as one that prints the help
        return error
    return click.UsageError(visible(error.format_message()), error.ctx)


def _print_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        say(f"loragate {gateway.__version__}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Serve one frozen base model and many LoRA adapters behind an OpenAI-compatible endpoint."""
