"""loragate up, serve and check: run a gateway, or check its settings."""

import asyncio
import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.options import (
    config_option,
    engine_options,
    engine_settings,
    fail,
    json_option,
    load_settings,
    serving_options,
)
from gateway.cli.output import print_json, say
from gateway.log_lines import log_to_stderr
from gateway.settings import Settings, describe_settings


@click.command()
@serving_options
@engine_options
def serve(config: Path | None, **options: Any) -> None:
    """Serve engines that run elsewhere."""
    settings = load_settings(config, engine_settings(options))
    if not settings.engines:
        raise fail("no engine given: use --engine URL, or `loragate up` to start one here")
    run_node(settings)


@click.command()
@serving_options
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the base model.  [default: SmolLM2-135M-Instruct, which the extras bring]",
)
def up(config: Path | None, base: Path | None, **options: Any) -> None:
    """Start an engine, the gateway and its control plane on this machine."""
    settings = load_settings(config, {**options, "engine": {"base": base} if base else {}})
    if settings.engines:
        raise fail("`up` starts its own engine, but `engines` names others; use `loragate serve` for those")
    run_node(settings, owns_engine=True)


class _WithSettings(click.Command):
    """A command whose help ends with a list of every setting."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings"):
            formatter.write_text("In the file, or as LORAGATE_NAME and LORAGATE_GROUP__NAME in the environment.")
            formatter.write_paragraph()
            formatter.write_dl(
                [
                    (name, f"{text + '.  ' if text else ''}[default: {_format_default(default)}]")
                    for name, text, default in describe_settings()
                ]
            )


def _format_default(default: object) -> str:
    return "none" if default is None or default == () else str(default)


@click.command(cls=_WithSettings)
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Check a settings file and the environment, and print every problem; exit 2 if there is one."""
    settings = load_settings(config, {})
    if as_json:
        print_json(json.dumps(settings.model_dump(mode="json"), indent=2))
    else:
        say("No problems found.")


def run_node(settings: Settings, *, owns_engine: bool = False) -> None:
    """Run a gateway until it is stopped."""
    import uvloop

    log_to_stderr(settings.log_level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)

    gc.disable()  # until all is imported: imported objects stay, and collecting among them takes a tenth of the time
    try:
        uvloop.run(_run(settings, owns_engine=owns_engine))
    except _startup_errors() as error:
        raise fail(str(error)) from None
    except asyncio.CancelledError:
        sys.exit(1)


def _startup_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a one-line message explains; imported only after one, so that a start is not delayed."""
    from adapters.sources import SourceError
    from adapters.verify import InvalidKey
    from gateway.serve.vllm_process import EngineNotStarted
    from gateway.sockets import CannotListen
    from gateway.store.errors import StoreError

    return CannotListen, EngineNotStarted, StoreError, InvalidKey, SourceError


async def _run(settings: Settings, *, owns_engine: bool) -> None:
    from gateway.sockets import ListeningSockets
    from gateway.workers.pool import WorkerPool

    command = None
    if owns_engine:
        from gateway.cli.own_engine import command_of

        command = command_of(settings)
    sockets = ListeningSockets.of(settings)
    pool = WorkerPool(sockets.app, settings.workers)
    await pool.start()  # before importing the node, so that the workers import their modules at the same time
    from gateway.node import Node

    node = Node(settings, (command.url,) if command else settings.engines, sockets, pool)
    if command is not None:
        from gateway.cli.own_engine import StartProgress

        node.own(command, StartProgress())
    await node.run(lambda: _announce(node))


def _announce(node: Any) -> None:
    gc.freeze()
    gc.enable()
    say(f"Applications: {node.app_url}/v1   Control: {node.control_url}")
    if not node.settings.auth:
        say(
            "WARNING: no keys are asked for (--no-auth): every process on this machine may send requests.",
            fg="red",
            err=True,
        )
    elif not node.operations.desired.keys:
        say(f"No keys yet; make one: loragate keys create --role app --state {node.folder}")
