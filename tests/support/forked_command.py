"""`loragate` in a process that is forked from one that has imported its modules.

A command has a process of its own, with its own environment, output and signals, without the second of CPU time in
which a new interpreter imports everything. What an interpreter itself does (how the command is found, the imports'
order) is tested where a test starts `OWN_COMMAND`, an installed command, or `loragate up`.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.fork_server import preload, processes

OWN_COMMAND = (sys.executable, "-m", "gateway")

preload("tests.support.forked_imports")


class ForkedCommand:
    """A running command, with what tests use of `subprocess.Popen`.

    Args:
        arguments: The command line's arguments, after `loragate`.
        environment: All of its environment variables.
        stdout: The file to which its output is appended.
        stderr: The file to which its errors and log are appended.
        folder: Its current folder; this process's by default.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdout: Path,
        stderr: Path,
        folder: Path | None = None,
    ) -> None:
        files = (str(stdout), str(stderr))
        where = str(folder or Path.cwd())
        # Killed, not waited for, where the tests end without having stopped it.
        self._process = processes.Process(
            target=_run_command, args=(list(arguments), dict(environment), files, where), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("loragate", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run_forked(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout: float,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: It was killed, since it still ran after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lg-") as at:
        stdout, stderr = Path(at, "out"), Path(at, "err")
        command = ForkedCommand(arguments, environment, stdout=stdout, stderr=stderr, folder=folder)
        try:
            code = command.wait(timeout)
        finally:
            command.kill()
        return subprocess.CompletedProcess(
            ["loragate", *arguments], code, stdout.read_text(encoding="utf-8"), stderr.read_text(encoding="utf-8")
        )


def _run_command(arguments: list[str], environment: dict[str, str], files: tuple[str, str], folder: str) -> None:
    """Be the command, in the forked process."""
    for number, path in enumerate(files, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["loragate", *arguments]

    from gateway.cli import main

    main(arguments, prog_name="loragate")
