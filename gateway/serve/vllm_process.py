"""Runs a local vLLM: starts it, restarts it when it ends, and stops it cleanly.

It listens on a unix socket in a folder that only its user can enter, so that clients cannot reach it. After a restart
the engine's watch (`engines.py`) loads its adapters again.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.serve.adapter_host import VllmHost
from gateway.sockets import MAX_SOCKET_PATH

log = logging.getLogger("loragate.engine")

READY_POLL_SECONDS: Final = 0.5
# How long vLLM may take to finish running requests at a stop; then its process group is killed.
STOP_SECONDS: Final = 15.0
MAX_PAUSE_SECONDS: Final = 60.0
# A run at least this long resets the pause before the next restart.
WELL_SECONDS: Final = 300.0
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

KEEP_ALIVE_SECONDS: Final = 15


def sends_keep_alives() -> bool:
    """Whether the installed vLLM can send comments on silent streams; looked up without importing it, which is slow."""
    found = importlib.util.find_spec("vllm")
    places = (found.submodule_search_locations or ()) if found is not None else ()
    return any(Path(place, "entrypoints/serve/utils/sse_keep_alive.py").is_file() for place in places)


class EngineNotStarted(Exception):
    """The engine ended, or was not ready in time; the message names its log file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmCommand:
    """The command that starts vLLM for one base model.

    `socket` and `log_file` are paths; the sizes are vLLM's flags of the same names.
    """

    base: Path
    served_name: str
    socket: Path
    log_file: Path
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 16
    max_loras: int = 4
    max_cpu_loras: int = 16
    max_lora_rank: int = 16
    on_cpu: bool = False
    kv_cache_gib: float = 1.0
    start_seconds: float = 600.0
    more: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The engine's URL."""
        return f"unix://{self.socket}"

    def arguments(self) -> list[str]:
        """Return the command line. vLLM runs as a module of this Python: its CPU build has no `vllm` command."""
        arguments = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(self.base),
            "--served-model-name",
            self.served_name,
            "--uds",
            str(self.socket),
            "--dtype",
            self.dtype,
            "--enable-lora",
            "--max-loras",
            str(self.max_loras),
            "--max-cpu-loras",
            str(self.max_cpu_loras),
            "--max-lora-rank",
            str(self.max_lora_rank),
            "--max-num-seqs",
            str(self.max_num_seqs),
            "--scheduling-policy",
            "priority",
            "--disable-uvicorn-access-log",
            "--enable-tokenizer-info-endpoint",
            "--enable-server-load-tracking",
        ]
        if sends_keep_alives():
            # While a stream waits in the queue or for its prefill: load balancers cut what is silent for 60 s.
            arguments += ["--sse-keep-alive-interval", str(KEEP_ALIVE_SECONDS)]
        if self.on_cpu:
            # No compiling, and the worker inside the engine's process: 30 s to start in place of 60.
            arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        if self.max_model_len is not None:
            arguments += ["--max-model-len", str(self.max_model_len)]
        return [*arguments, *self.more]

    def variables(self) -> dict[str, str]:
        """Return the environment: offline, without telemetry, with adapters loadable at run time."""
        variables = {
            **self.environment,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        }
        if self.on_cpu:
            variables |= {
                "VLLM_CPU_KVCACHE_SPACE": f"{self.kv_cache_gib:g}",
                # The CPU build takes the `uni` backend only with this; the engine stays a process of its own.
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                # The API server has imported what the engine needs: fork it (see gateway/serve/vllm_cpu).
                "LORAGATE_CPU_FORK": self.environment.get("LORAGATE_CPU_FORK", "1"),
                # --enforce-eager does not reach the ranking of prompt_logprobs, whose first use would
                # compile for 20 s while every other request waits.
                "TORCH_COMPILE_DISABLE": "1",
                # With `uni`, vLLM leaves torch one thread unless it is told otherwise.
                "OMP_NUM_THREADS": self.environment.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))),
            }
        return variables


class EngineProcess:
    """A vLLM process and its restarts.

    Args:
        command: The command that starts it.
        on_lost: Called when it has ended without `stop`.
        on_progress: Called with the seconds waited while it starts, and with None once it is ready.
    """

    def __init__(
        self, command: VllmCommand, on_lost: Callable[[], Awaitable[None]], on_progress: Callable[[float | None], None]
    ) -> None:
        self.command = command
        self.restarts = 0
        self._on_lost = on_lost
        self._on_progress = on_progress
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Keep vLLM running until `stop`.

        Raises:
            EngineNotStarted: The first start failed; a restart would not help.
        """
        pause = 1.0
        loop = asyncio.get_running_loop()
        while not self._is_stopping:
            started = loop.time()
            try:
                await self._run_once()
            except EngineNotStarted:
                if self.restarts == 0:
                    raise
            finally:
                self._kill_group()
            if self._has_been_stopped():
                return
            await self._on_lost()
            if loop.time() - started > WELL_SECONDS:
                pause = 1.0
            self.restarts += 1
            log.warning("the engine ended; starting it again in %.0f s (its log: %s)", pause, self.command.log_file)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    async def stop(self) -> None:
        """Stop vLLM: by SIGTERM, and after `STOP_SECONDS` by SIGKILL to its process group."""
        self._is_stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("the engine did not stop within %.0f s and is killed", STOP_SECONDS)
        self._kill_group()

    def _has_been_stopped(self) -> bool:
        return self._is_stopping

    async def _run_once(self) -> None:
        command = self.command
        if len(os.fsencode(command.socket)) > MAX_SOCKET_PATH:
            raise EngineNotStarted(
                f"the socket's path `{command.socket}` is longer than {MAX_SOCKET_PATH} bytes; "
                "use a shorter state folder"
            )
        command.socket.unlink(missing_ok=True)
        with command.log_file.open("ab") as output:
            process = self._process = await asyncio.create_subprocess_exec(
                *command.arguments(),
                env=command.variables(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        await self._until_ready(process)
        await process.wait()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        host = VllmHost(self.command.url)
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            while process.returncode is None and not self._is_stopping:
                waited = loop.time() - started
                if self.command.socket.exists() and await host.is_healthy():
                    log.info("the engine is ready after %.0f s", waited)
                    self._on_progress(None)
                    return
                if waited > self.command.start_seconds:
                    raise EngineNotStarted(
                        f"the engine was not ready after {waited:.0f} s; its log: {self.command.log_file}"
                    )
                self._on_progress(waited)
                await asyncio.sleep(READY_POLL_SECONDS)
        finally:
            host.close()
        if not self._is_stopping:
            raise EngineNotStarted(
                f"the engine ended with code {process.returncode} before it was ready; its log: {self.command.log_file}"
            )

    def _kill_group(self) -> None:
        """Kill processes that the engine left behind: its core runs as a process of its own in the same session."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """Have the kernel send the engine SIGTERM if this process dies."""
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux have no equivalent
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
