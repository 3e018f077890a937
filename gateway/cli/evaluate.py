"""loragate evaluate: run an evaluator as a process of its own, on this machine or another."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.options import config_option, engine_options, engine_settings, fail, load_settings, state_option


@click.command()
@config_option
@engine_options
@click.option(
    "--store", metavar="URL", help="The gateways' store, postgresql://USER@HOST/NAME.  [default: the state's]"
)
@state_option
def evaluate(config: Path | None, **options: Any) -> None:
    """Replay mirrored requests on the other version, compare and judge; as many as there is work for.

    `loragate up` and `serve` run one by themselves while a route mirrors. Samples of routes with
    `capture: metrics_only` are compared by that one alone.
    """
    # The settings demand a registry folder of gateways that share a store; an evaluator reads no adapters.
    unused = {"adapters": {"registry": Path()}}
    settings = load_settings(config, {**engine_settings(options), **unused})
    if not settings.engines:
        raise fail("no engine given: use --engine URL")
    from gateway.evaluate.process import check_sessions, run_evaluator
    from gateway.store.database import InvalidUrl
    from gateway.store.errors import SessionsNotKept

    try:
        check_sessions(settings)
        run_evaluator(settings, settings.engines)
    except (InvalidUrl, SessionsNotKept) as error:
        raise fail(str(error)) from None
