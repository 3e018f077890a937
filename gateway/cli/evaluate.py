"""loragate evaluate: run one more evaluator, on this machine or another."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.options import config_option, engine_options, fail, load_settings, named_engines, state_option


@click.command()
@config_option
@engine_options
@click.option(
    "--store", metavar="URL", help="The gateways' store, postgresql://USER@HOST/NAME.  [default: the state's]"
)
@state_option
def evaluate(config: Path | None, **given: Any) -> None:
    """Replay mirrored requests on the other version, compare and judge; as many as there is work for.

    `loragate up` and `serve` run one by themselves while a route mirrors. Samples of routes with
    `capture: metrics_only` are compared by that one alone.
    """
    # Gateways that share a store need a folder for adapters; an evaluator reads none.
    unused = {"adapters": {"registry": Path()}}
    settings = load_settings(config, {**named_engines(given), **unused})
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
