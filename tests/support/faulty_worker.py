"""A gateway worker, one of whose chores can be made to fail: what a pool under test starts in the real one's place.

`break_worker(pid, fault)` has a running one do so. Nothing of this is in the product.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import gateway.app
import gateway.workers.worker
from gateway.app import Worker
from gateway.workers import channel

MODULE: Final = "tests.support.faulty_worker"
FAULTS_FOLDER: Final = Path("/tmp")

# How a worker can be broken, and the reason that its end is counted by.
FAULTS: Final = {
    "listening fails": "chore",
    "listening ends": "chore",
    "listening hangs": "silent",
    "counts overflow": "chore",
    "looking at deadlines fails": "chore",
    "looking at deadlines hangs": "chore",
    "sharing what was let in fails": "chore",
    "the loop stands still": "silent",
    "the process ends": "ended",
    "no table can be read": "table",
    "it says nonsense": "message",
}


def break_worker(pid: int, fault: str) -> None:
    """Break a running worker, and return when it is broken."""
    order = _order(pid)
    order.write_text(fault)
    os.kill(pid, signal.SIGUSR1)
    while order.exists():
        time.sleep(0.001)


def _order(pid: int) -> Path:
    return FAULTS_FOLDER / f"loragate-test-fault-{pid}"


class Broken(Exception):
    """What a test has asked for."""


class FaultyWorker(Worker):
    """A worker that breaks at SIGUSR1."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._break)

    def _break(self) -> None:
        order = _order(os.getpid())
        fault = order.read_text()
        order.unlink()
        if fault == "listening fails":
            channel.read_as_worker = _fail
        elif fault == "listening ends":
            next(task for task in asyncio.all_tasks() if task.get_name() == "listen").cancel()
        elif fault == "listening hangs":
            channel.read_as_worker = _hang
        elif fault == "counts overflow":
            self.ledger.cell().prompt_tokens = 2**64
        elif fault == "looking at deadlines fails":
            self.supply.tell_recent = _raise  # type: ignore[method-assign]
        elif fault == "looking at deadlines hangs":
            gateway.app.CHECK_SECONDS = 1e9  # type: ignore[misc]
        elif fault == "sharing what was let in fails":
            self.rates.take_unshared = _raise  # type: ignore[method-assign]
            self._share_soon()
        elif fault == "the loop stands still":
            time.sleep(1e6)
        elif fault == "the loop is busy for 2 s":
            time.sleep(2)
        elif fault == "the process ends":
            os._exit(1)
        elif fault == "no table can be read":
            vars(gateway.app)["to_table"] = _raise
        elif fault == "it says nonsense":
            self._writer.write(b"\x00\x00\x00\x03abc")


def _raise(*_: object) -> Any:
    raise Broken


async def _fail(reader: asyncio.StreamReader) -> channel.ToWorker | None:
    raise Broken


async def _hang(reader: asyncio.StreamReader) -> channel.ToWorker | None:
    await asyncio.Event().wait()
    return None


if __name__ == "__main__":
    vars(gateway.workers.worker)["Worker"] = FaultyWorker
    sys.argv[0] = MODULE
    gateway.workers.worker.main()
