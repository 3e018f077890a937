"""A gateway for tests: the real command in processes of its own, on free ports and in a folder of its own."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx
from click.testing import CliRunner

from gateway.cli import main
from tests.support.forked_command import OWN_COMMAND, ForkedCommand, run_forked
from tests.support.patience import PATIENCE_SECONDS, until

# An engine that answers, though not as a well one does, is waited for no longer.
UNWELL_SECONDS = 3.0
# vLLM takes 30 s on two idle cores.
VLLM_SECONDS = 600.0


class RunningGateway:
    """`loragate serve` in front of given engines, or `loragate up` with an engine of its own.

    Args:
        engines: Engine URLs.
        base: Folder of a base model: start and own a real vLLM for it.
        command: What runs `loragate`; else this checkout's, forked unless a base model is given.
        options: More command line options.
        environment: More environment variables, such as `LORAGATE_LIMITS__IDLE_SECONDS`.
        state: State folder to use, kept; else a short-lived one of its own.
    """

    def __init__(
        self,
        *engines: str,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        state: Path | None = None,
        base: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._command = command or (None if base is None else OWN_COMMAND)
        self._engines = engines
        self._base = base
        self._options = options
        # Byte code is kept, or every process that a test starts would compile everything again.
        self._environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        if base is None:  # tests count what a fake engine runs: no probes among it after those of the start
            self._environment["LORAGATE_ADAPTERS__PROBE_SECONDS"] = "3600"
        self._environment |= environment or {}
        self._own_folder = state is None
        # Short, so that the sockets in it stay within the 107 bytes of a unix socket's path.
        self.state = state or Path(tempfile.mkdtemp(prefix="lg-"))
        self.log_path = self.state / "gateway.log"
        self.process: subprocess.Popen[bytes] | ForkedCommand
        self.url = ""
        self.control_url = ""
        self.key = ""

    def __enter__(self) -> Self:
        try:
            self.start()
            if "--no-auth" not in self._options:
                self.key = self.create_key("app:pin")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            if self._own_folder:
                shutil.rmtree(self.state, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it answers and its engines are found."""
        arguments = ["serve", *(arg for engine in self._engines for arg in ("--engine", engine))]
        if self._base is not None:
            arguments = ["up", "--base", str(self._base)]
        arguments += ["--port", "0", "--control-port", "0", "--state", str(self.state), *self._options]
        if self._command is None:
            self.process = ForkedCommand(arguments, self._environment, stdout=self.log_path, stderr=self.log_path)
        else:
            with self.log_path.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._command, *arguments], stdout=log, stderr=log, env=self._environment
                )
        if self._base is not None:
            self.wait_for_engine(seconds=VLLM_SECONDS)
        else:  # engines that a test keeps away are not waited for
            seconds = max(map(_seconds_to_wait_for, self._engines), default=0.0)
            began = time.monotonic()
            self.wait_until(lambda status: status["ready"] or time.monotonic() - began >= seconds)
        status = self.status()
        self.url, self.control_url = status["app_url"], status["control_url"]

    def stop(self, number: signal.Signals | None = None) -> int:
        """Stop it, by default as quickly as it drains, and return its exit code."""
        process: subprocess.Popen[bytes] | ForkedCommand | None = getattr(self, "process", None)
        if process is None:
            return 0
        if process.poll() is None:
            # By a second signal a gateway that is told to stop leaves load balancers no time to notice.
            for each in (signal.SIGTERM, signal.SIGINT) if number is None else (number,):
                process.send_signal(each)
        return process.wait(timeout=PATIENCE_SECONDS)

    def fingerprinted(self) -> set[str]:
        """What the store has fingerprints of: versions, and bases."""
        with closing(sqlite3.connect(f"file:{self.state / 'state.db'}?mode=ro", uri=True)) as store:
            return {version for (version,) in store.execute("SELECT DISTINCT version FROM fingerprints")}

    def status(self) -> dict[str, Any]:
        """What `loragate status --json` says."""
        answer: dict[str, Any] = self.admin("GET", "status").json()
        return answer

    def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask the admin API over its socket, as the command line does and in a hundredth of its time."""
        transport = httpx.HTTPTransport(uds=str(self.state / "control.sock"), verify=False)
        with httpx.Client(transport=transport, timeout=PATIENCE_SECONDS) as client:
            return client.request(method, f"http://control/admin/v1/{path}", json=body)

    def wait_until(self, holds: Any, seconds: float = 1.5 * PATIENCE_SECONDS) -> None:
        """Wait until `holds(status)`, or fail with the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if not self._control_listens():
                    time.sleep(0.02)
                    continue
                status = self.status()
                workers = status.get("workers")  # none in an error, such as of a store that answers late
                if workers is not None and workers["running"] == workers["wanted"] and holds(status):
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        raise AssertionError(
            f"the gateway did not become what the test waits for; its log:\n{self.log_path.read_text()}"
        )

    def _control_listens(self) -> bool:
        # Asked first without httpx, which leaves a socket open when a unix socket refuses.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.state / "control.sock")) == 0

    def wait_for_engine(self, *, up: bool = True, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until all engines are known to be up, or down."""
        self.wait_until(lambda status: all(engine["up"] is up for engine in status["engines"]), seconds)

    def cli(self, *arguments: str, expect: int = 0) -> Any:
        """Run `loragate ARGUMENTS --state …`; JSON output is returned parsed, other output as text.

        Where the gateway runs, within this process, which takes a tenth of the time: what is tested is what a command
        asks for and prints. Where none runs, in a process of its own.
        """
        command = [*arguments, "--state", str(self.state)]
        if self._command in (None, OWN_COMMAND) and self._control_listens():
            here = CliRunner().invoke(main, command, env=self._environment, prog_name="loragate")
            if here.exception is not None and not isinstance(here.exception, SystemExit):
                raise here.exception
            code, output, errors = here.exit_code, here.stdout, here.stderr
        else:
            done = self._run(command, seconds=2 * PATIENCE_SECONDS)
            code, output, errors = done.returncode, done.stdout, done.stderr
        assert code == expect, (code, output, errors)
        return json.loads(output) if "--json" in arguments and expect == 0 else output + errors

    def _run(self, arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        if self._command is None:
            return run_forked(arguments, self._environment, timeout=seconds)
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self._environment,
            check=False,
        )

    def create_key(self, role: str = "app", *more: str) -> str:
        """Make a key."""
        if not more and getattr(self, "process", None) is not None:
            made: list[httpx.Response] = []

            def is_made() -> bool:
                made.append(self.admin("POST", "keys", {"role": role}))
                assert made[-1].status_code in (201, 409, 503), made[-1].text
                return made[-1].status_code == 201

            # A worker that has just started may lag on a busy machine, and the store may keep us waiting.
            until(is_made, "a key is made")
            return str(made[-1].json()["key"])
        return str(self.cli("keys", "create", "--role", role, *more, "--json")["key"])

    def metrics(self) -> dict[str, float]:
        """Series with their labels, as in the exposition, to values."""
        text = httpx.get(self.control_url + "/metrics", verify=False).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}

    def worker_pids(self) -> list[int]:
        """The processes that serve the app port."""
        command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(line.split()[0]) for line in listing.stdout.splitlines() if "gateway.workers.worker" in line]

    @property
    def headers(self) -> dict[str, str]:
        """Headers that authenticate."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


def _seconds_to_wait_for(engine: str) -> float:
    """Return how long an engine may take until it is known: none if it is not there, long if it is well."""
    if engine.startswith("unix:"):
        client = httpx.Client(transport=httpx.HTTPTransport(uds=engine.removeprefix("unix://"), verify=False))
        engine = "http://engine"
    else:
        client = httpx.Client(verify=False)
    with client:
        try:
            is_well = client.get(engine + "/v1/models", timeout=UNWELL_SECONDS).is_success
        except httpx.ConnectError:
            return 0.0
        except (httpx.HTTPError, httpx.InvalidURL):
            return UNWELL_SECONDS
    return PATIENCE_SECONDS if is_well else UNWELL_SECONDS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmRSS")
