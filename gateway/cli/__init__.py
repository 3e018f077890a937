"""The `loragate` command: one file for each group of commands.

A mistake of the user's is one line and exit code 2, never a traceback.
"""

import importlib
from typing import Any, Final

import click

import gateway
from gateway.cli.output import say
from gateway.visible import visible

# Where each command lives; imported when it is called, so that `serve` starts without the rest.
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

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        """Read the options that stand before a command."""
        try:
            return super().make_context(*given, **extra)
        except click.UsageError as error:
            raise _inert(error) from None

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            raise _inert(error) from None
        except OSError as error:  # a folder that may not be read, a full disk
            if isinstance(error, BrokenPipeError):
                raise
            where = f" `{error.filename}`" if error.filename else ""
            say(f"error: {error.strerror or error}{where}", err=True)
            raise click.exceptions.Exit(2) from None


def _inert(error: click.UsageError) -> click.UsageError:
    """Return an error whose message quotes what was given, which a script may have from others, as it may be shown."""
    if error.message.isprintable() or type(error).show is not click.UsageError.show:  # such as one that shows the help
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
