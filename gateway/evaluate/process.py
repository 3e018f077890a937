"""Run an evaluator as a process: from the command line, or as the child of a node.

A child reads its configuration from standard input, so that passwords do not appear in the list of processes. It ends
when standard input closes, so a node that is killed leaves no evaluator behind.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from gateway.decide.route import Base
from gateway.evaluate.evaluator import Evaluator
from gateway.evaluate.supervise import EvaluatorConfig
from gateway.log_lines import log_to_stderr
from gateway.settings import Settings
from gateway.store.errors import SessionsNotKept, StoreError
from gateway.store.sql import open_store

# Lower CPU priority than gateways and engines on the same machine.
NICENESS = 10


def check_sessions(settings: Settings) -> None:
    """Refuse a store behind a connection pooler that shares sessions between clients. An absent store is not an error.

    Raises:
        SessionsNotKept: The store is behind such a pooler.
    """
    store = open_store(settings.store or settings.state_folder(), now=time.time)  # noqa: TID251 (composition)
    if store.database.is_sqlite:
        return
    try:
        store.version()
    except SessionsNotKept:
        raise
    except StoreError as error:
        logging.getLogger("loragate.evaluate").debug("the store is not there yet: %s", error)
    finally:
        store.close()


def run_evaluator(
    settings: Settings, engines: Sequence[str], node_socket: Path | None = None, base: Base | None = None
) -> None:
    """Evaluate until a signal comes, or, for a node's child, until standard input closes.

    Args:
        settings: The gateway's settings.
        engines: The engines that it may use.
        node_socket: The node's control socket, for its child.
        base: The base model that the node serves.
    """
    log_to_stderr(settings.log_level.upper())
    for library in ("httpx", "httpcore", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if node_socket is not None:
            loop.add_reader(sys.stdin.fileno(), stop.set)  # the node sends no more, so readable means closed
        await Evaluator(settings, engines, node_socket, base).run(stop)

    uvloop.run(run())


def run_child() -> None:
    """Read the configuration that the node sends, and evaluate."""
    os.nice(NICENESS)
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EvaluatorConfig)
    run_evaluator(Settings.model_validate_json(config.settings), config.engines, Path(config.node_socket), config.base)


if __name__ == "__main__":
    run_child()
