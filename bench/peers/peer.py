"""What the benchmark asks of a peer, and how a peer from PyPI gets a venv of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache"
INSTALL_SECONDS = 900  # LiteLLM's 60 packages over a slow line


class MissingError(Exception):
    """A peer cannot be installed or started here; the message says why and goes into the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer shall run: its ports on 127.0.0.1, the engine's, and a folder for its files."""

    port: int
    engine_port: int
    spare_port: int
    """For its metrics or control port, so that two peers never want the same."""
    folder: Path

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a peer, and what a client must send to be served."""

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    model: str = "base"
    key: str = "sk-loragate-bench-000000000000000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row of the table. It is ready when it answers a chat request with 200."""

    name: str
    install: Callable[[], None]
    """Make sure it is there; raises MissingError."""
    launch: Callable[[Place], Launch]
    """Write its configuration and say how to start it; raises MissingError."""
    configure: Callable[[Place, Launch], None] | None = None
    """What is left to do once it listens; raises MissingError."""
    ready_seconds: float = 30.0


def venv_python(name: str, requirement: str) -> Path:
    """Return the Python of `bench/.cache/venv-NAME`, made with `requirement` if it is not there.

    Raises:
        MissingError: The installation failed; the message has the installer's last line.
    """
    folder = CACHE / f"venv-{name}"
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirement:
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    uv = _uv()
    if uv:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), requirement])
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", requirement])
    stamp.write_text(requirement)
    return python


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=os.environ)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"`{command[0]}`: {type(error).__name__}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MissingError(f"`{' '.join(command[:3])}` failed: {lines[-1].strip() if lines else done.returncode}")
