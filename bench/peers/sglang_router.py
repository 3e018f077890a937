"""SGLang router (PyPI `sglang-router`): the SGLang project's router in Rust."""

from __future__ import annotations

from bench.peers.peer import CACHE, Launch, Peer, Place, venv_python


def install() -> None:
    """Into a venv of its own."""
    venv_python("sglang-router", "sglang-router==0.3.2")


def launch(place: Place) -> Launch:
    """Its usual policy (cache_aware) and metrics, one Tokio worker thread, no log line per request."""
    python = CACHE / "venv-sglang-router" / "bin" / "python"
    options = {
        "--worker-urls": place.engine_url,
        "--host": "127.0.0.1",
        "--port": place.port,
        "--prometheus-port": place.spare_port,
        "--log-level": "warn",
    }
    command = [str(python), "-m", "sglang_router.launch_router"]
    command += [str(part) for pair in options.items() for part in pair]
    return Launch(command=command, env={"TOKIO_WORKER_THREADS": "1"})


PEER = Peer(name="SGLang router", install=install, launch=launch, ready_seconds=60.0)
