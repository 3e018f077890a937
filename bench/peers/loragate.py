"""Loragate itself: key check, routing, a 95/5 split, metrics on; or a stand-in given by `LORAGATE_COMMAND`.

The stand-in is a command template with {port}, {engine_port}, {engine_url}, {control_port} and
{state}; `LORAGATE_KEY` and `LORAGATE_MODEL` say what a client sends to it.
"""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.peers.peer import Launch, MissingError, Peer, Place

_ROOT = Path(__file__).parent.parent.parent
_ALIAS = "support"
_WEIGHT = 500  # of 10,000: the split that a careful rollout starts with


def install() -> None:
    """Nothing to install: it is this repository."""


def launch(place: Place) -> Launch:
    """One app worker with an app key, control port on loopback, state in a fresh folder."""
    template = os.environ.get("LORAGATE_COMMAND")
    if template:
        values = {"port": place.port, "engine_port": place.engine_port, "engine_url": place.engine_url}
        values |= {"control_port": place.spare_port, "state": place.folder}
        model, key = os.environ.get("LORAGATE_MODEL", "base"), os.environ.get("LORAGATE_KEY", "none")
        return Launch(command=shlex.split(template.format(**values)), model=model, key=key)
    options = {
        "--engine": place.engine_url,
        "--host": "127.0.0.1",
        "--port": place.port,
        "--control-port": place.spare_port,
        "--workers": 1,
        "--state": _state(place),
    }
    command = [sys.executable, "-m", "gateway", "serve", *(str(part) for pair in options.items() for part in pair)]
    key = _run("keys", "create", "--role", "app", "--state", str(_state(place)))["key"]
    return Launch(command=command, model=_ALIAS, key=key)


def configure(place: Place, _launch: Launch) -> None:
    """Register two adapters and split their alias 95/5, as while a candidate is on trial."""
    if os.environ.get("LORAGATE_COMMAND"):
        return
    state = ["--state", str(_state(place))]
    _run("adapters", "add", str(_adapter(place.folder / "control", 1.0)), "--name", _ALIAS, *state)
    candidate = _run("adapters", "add", str(_adapter(place.folder / "candidate", 2.0)), "--name", "trial", *state)
    _run("routes", "split", _ALIAS, "--candidate", candidate["version"], "--weight", str(_WEIGHT), *state)


def _state(place: Place) -> Path:
    return place.folder / "state"


def _adapter(folder: Path, value: float) -> Path:
    """Write a small adapter of valid form; the fake engine looks at its name only."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{layer}.lora_A.weight": {"dtype": "F32", "shape": [8, 2], "data_offsets": [0, 64]},
        f"{layer}.lora_B.weight": {"dtype": "F32", "shape": [2, 8], "data_offsets": [64, 128]},
    }
    header = json.dumps(tensors).encode()
    content = struct.pack("<Q", len(header)) + header + struct.pack("<32f", *[value] * 32)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


def _run(*arguments: str) -> dict[str, Any]:
    """Run a command of ours and return the JSON that it prints."""
    command = [sys.executable, "-m", "gateway", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise MissingError(
            f"`gateway {arguments[0]} {arguments[1]}`: {lines[-1].strip() if lines else done.returncode}"
        )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


PEER = Peer(name="Loragate", install=install, launch=launch, configure=configure, ready_seconds=60.0)
