"""Start a real vLLM on a unix socket and stop it again."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

READY_WITHIN_SECONDS = 600  # 30 on two idle cores; they may be busy

FLAGS = (
    "--dtype=float32",  # faster than bfloat16 on CPUs without AMX
    "--enforce-eager",  # no compiling: start-up counts for more here than speed
    "--enable-lora",
    "--max-loras=4",
    "--max-cpu-loras=8",
    "--max-lora-rank=16",
    "--max-model-len=2048",
    "--max-num-seqs=16",
    "--max-num-batched-tokens=2048",
    "--scheduling-policy=priority",
    # The worker inside the engine's process saves importing vLLM a third time: 10 s of 40.
    "--distributed-executor-backend=uni",
)

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    # On the CPU, vLLM takes the `uni` backend only with this; the engine stays a process of its own.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "LORAGATE_CPU_FORK": "1",  # saves importing vLLM twice, as `loragate up` does
    "VLLM_LOGGING_LEVEL": "WARNING",
    # --enforce-eager does not reach the code that ranks prompt_logprobs: the first request for them would
    # compile for 20 s, and every other request with it wait.
    "TORCH_COMPILE_DISABLE": "1",
}


@contextmanager
def running_vllm(
    model: Path, *, environment: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> Iterator[Path]:
    """Serve `model`, yield the socket's path once it is healthy, and stop vLLM at the end.

    Args:
        model: Folder of the model.
        environment: Added to ENVIRONMENT.
        flags: Added to FLAGS; of a flag given twice, the later one counts.

    Raises:
        RuntimeError: vLLM ended or was not ready in time; the message carries the end of its log.
    """
    # Not pytest's tmp_path: a unix socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder:
        uds, log = Path(folder, "sock"), Path(folder, "log")
        command = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            f"--model={model}",
            f"--uds={uds}",
            *FLAGS,
            *flags,
        ]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, which can be killed whole
            )
        try:
            _await_ready(process, uds, log)
            yield uds
        finally:
            _stop(process)


def is_healthy(uds: Path) -> bool:
    """Ask the engine behind `uds` whether it is healthy; an engine that cannot be reached is not."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(uds))
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _await_ready(process: subprocess.Popen[bytes], uds: Path, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while not is_healthy(uds):
        if process.poll() is not None or time.monotonic() > deadline:
            fate = "was not ready in time" if process.returncode is None else f"ended with {process.returncode}"
            raise RuntimeError(f"vLLM {fate}; the end of its log:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # engine processes that outlived their parent
    process.wait()
