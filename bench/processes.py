"""Start a process, know when it is ready, and read the CPU and memory of its whole tree from /proc.

Ends only what it started, by pid.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class NotReadyError(Exception):
    """A process did not start; the message ends with the last lines of its log."""


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name (which may hold blanks): state, ppid, ..."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def tree(pid: int) -> list[int]:
    """Return `pid` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> dict[int, tuple[float, float]]:
    """Return (user, system) seconds of each process of the tree, with those of its reaped children."""
    spent = {}
    for one in tree(pid):
        if fields := _stat(one):
            user, system, reaped_user, reaped_system = (int(value) / _TICKS for value in fields[11:15])
            spent[one] = (user + reaped_user, system + reaped_system)
    return spent


def machine_seconds() -> float:
    """Return the CPU seconds that everything on this machine has used so far, time stolen by the host included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = Path("/proc/stat").read_text().split(None, 9)[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / _TICKS


def rss_bytes(pid: int) -> int:
    """Return the resident memory of the tree; pages that its processes share count in each."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
    return total


def command_of(pid: int) -> str:
    """Return the command line of a process, or nothing when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


class Running:
    """A process that we started, its log in a file, on the given CPUs."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cpus: set[int] | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            if cpus:
                os.sched_setaffinity(0, cpus)

        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "LORAGATE_LAME_DUCK_SECONDS": "0", **(env or {})},  # no balancer polls it: ends at once
            preexec_fn=prepare,
        )
        self.pid = self.process.pid

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready()`.

        Raises:
            NotReadyError: The process ended, or `seconds` passed.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotReadyError(f"`{self.command[0]}` ended with {self.process.returncode}: {self.last_lines()}")
            if ready():
                return
            time.sleep(0.1)
        raise NotReadyError(f"`{self.command[0]}` not ready after {seconds:.0f} s: {self.last_lines()}")

    def last_lines(self, count: int = 4) -> str:
        """Return the end of the log, on one line."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-count:]
        return " | ".join(line.strip() for line in lines)[-600:] or "(no output)"

    def stop(self) -> None:
        """End the tree: SIGTERM to its root, five seconds, then SIGKILL to what is left."""
        pids = tree(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        for pid in pids[1:] + ([self.pid] if self.process.poll() is None else []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def listens(port: int) -> bool:
    """Return whether something accepts connections on 127.0.0.1:port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def wait_quiet(seconds: float, limit: float) -> None:
    """Wait, but no longer than `seconds`, until this machine uses less than `limit` CPUs."""
    deadline = time.monotonic() + seconds
    while True:
        before, started = machine_seconds(), time.monotonic()
        time.sleep(0.5)
        used = (machine_seconds() - before) / (time.monotonic() - started)
        if used < limit or time.monotonic() > deadline:
            return


def answers(port: int, path: str = "/health", method: str = "GET", body: bytes | None = None, **headers: str) -> bool:
    """Return whether 127.0.0.1:port answers `path` with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
