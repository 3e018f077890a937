"""vllm-router (PyPI): the vLLM project's router in Rust; the rows that the ratios refer to.

Two rows, since its policy decides what a request costs: `cache_aware`, its default, matches the prompt
against a tree of earlier ones; `round_robin` looks at no prompt and is the cheapest it can be.
"""

from __future__ import annotations

from functools import partial

from bench.peers.peer import CACHE, Launch, Peer, Place, venv_python


def install() -> None:
    """Into a venv of its own."""
    venv_python("vllm-router", "vllm-router==0.1.17")


def launch(place: Place, policy: str = "cache_aware") -> Launch:
    """Metrics on, one Tokio worker thread, no log line per request."""
    program = CACHE / "venv-vllm-router" / "bin" / "vllm-router"
    options = {
        "--worker-urls": place.engine_url,
        "--policy": policy,
        "--host": "127.0.0.1",
        "--port": place.port,
        "--prometheus-port": place.spare_port,
        "--log-level": "warning",
    }
    command = [str(program), *(str(part) for pair in options.items() for part in pair)]
    return Launch(command=command, env={"TOKIO_WORKER_THREADS": "1"})


PEER = Peer(name="vllm-router", install=install, launch=launch, ready_seconds=60.0)
ROUND_ROBIN = Peer(
    name="vllm-router (round_robin)",
    install=install,
    launch=partial(launch, policy="round_robin"),
    ready_seconds=60.0,
)
