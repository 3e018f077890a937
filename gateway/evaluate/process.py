"""Run an evaluator as a process: from the command line, or as the child of a node.

A child reads what it needs from its standard input, so that no password stands in a list of processes, and
ends when that closes: a node that dies without a word leaves no evaluator behind.
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

# Behind whatever serves on the same machine.
NICENESS = 10


def check_sessions(settings: Settings) -> None:
    """Refuse a store behind a pooler that lends sessions on; one that is away is waited for.

    Raises:
        SessionsNotKept: It is.
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
    """Evaluate until a signal, or, as a child, until standard input closes.

    Args:
        settings: What was set.
        engines: The engines that may be asked.
        node_socket: The node's control socket, for its child.
        base: What the node serves.
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
            loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing more is sent, so this is its end
        await Evaluator(settings, engines, node_socket, base).run(stop)

    uvloop.run(run())


def run_child() -> None:
    """Read the node's order and evaluate."""
    os.nice(NICENESS)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=EvaluatorConfig)
    run_evaluator(Settings.model_validate_json(order.settings), order.engines, Path(order.node_socket), order.base)


if __name__ == "__main__":
    run_child()
