"""Loragate itself: key check, routing, metrics on; or a stand-in given by `LORAGATE_COMMAND`.

The stand-in is a command template with {port}, {engine_port}, {engine_url}, {control_port} and
{state}; `LORAGATE_KEY` and `LORAGATE_MODEL` say what a client sends to it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from bench.peers.peer import Launch, MissingError, Peer, Place

_ROOT = Path(__file__).parent.parent.parent


def install() -> None:
    """Nothing to install: it is this repository."""


def launch(place: Place) -> Launch:
    """One app worker with an app key, control port on loopback, state in a fresh folder."""
    values = {
        "port": place.port,
        "engine_port": place.engine_port,
        "engine_url": place.engine_url,
        "control_port": place.spare_port,
        "state": place.folder,
    }
    model = os.environ.get("LORAGATE_MODEL", "base")
    template = os.environ.get("LORAGATE_COMMAND")
    if template:
        command = shlex.split(template.format(**values))
        return Launch(command=command, model=model, key=os.environ.get("LORAGATE_KEY", "none"))
    key = _create_key(place.folder)
    options = {
        "--engine": place.engine_url,
        "--host": "127.0.0.1",
        "--port": place.port,
        "--control-port": place.spare_port,
        "--workers": 1,
        "--state": place.folder,
    }
    command = [sys.executable, "-m", "gateway", "serve", *(str(part) for pair in options.items() for part in pair)]
    return Launch(command=command, model=model, key=key)


def _create_key(state: Path) -> str:
    command = [sys.executable, "-m", "gateway", "keys", "create", "--role", "app", "--state", str(state), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise MissingError(f"`gateway keys create` failed: {lines[-1].strip() if lines else done.returncode}")
    key: str = json.loads(done.stdout)["key"]
    return key


PEER = Peer(name="Loragate", install=install, launch=launch, ready_seconds=60.0)
