"""Real vLLM with a tiny random model: one started by hand, and two owned by `loragate up`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.base_model import tiny_base
from tests.support.gateways import RunningGateway
from tests.support.postgres import RunningPostgres
from tests.support.tiny_adapters import random_adapter
from tests.support.vllm_engines import running_vllm

# As many as the engine has slots: its last slot, which stock vLLM's base requests read, is taken.
ADAPTER_NAMES = ("amber", "blue", "coral", "dune")

# A tiny model gains nothing by a second thread, which spins while it waits: two engines share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), progress=print)


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four random adapters by name; not loaded anywhere yet."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: random_adapter(tiny_base_path, root / name, seed=seed) for seed, name in enumerate(ADAPTER_NAMES)}


@pytest.fixture(scope="session")
def engine(tiny_base_path: Path) -> Iterator[Path]:
    """The unix socket of a vLLM that serves the tiny base, with no adapter loaded."""
    with running_vllm(tiny_base_path) as uds:
        yield uds


@pytest.fixture(scope="package")
def up(tiny_base_path: Path, tiny_adapters: dict[str, Path]) -> Iterator[RunningGateway]:
    """`loragate up` with the tiny base and two adapters, `amber` and `blue`."""
    settings = {
        "LORAGATE_ENGINE__MAX_MODEL_LEN": "2048",
        "LORAGATE_ENGINE__ARGS": "--enable-auto-tool-choice,--tool-call-parser,hermes",
        "LORAGATE_LIMITS__IDLE_SECONDS": "60",
    }
    with RunningGateway(base=tiny_base_path, environment=settings) as gateway:
        for name in ("amber", "blue"):
            gateway.cli("adapters", "add", str(tiny_adapters[name]), "--name", name)
        yield gateway


@pytest.fixture(scope="session")
def ramping(tiny_base_path: Path) -> Iterator[RunningGateway]:
    """`loragate up` for rollouts, each on an alias of its own."""
    with RunningGateway(base=tiny_base_path, environment={"LORAGATE_ENGINE__MAX_MODEL_LEN": "2048"}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def server() -> Iterator[RunningPostgres]:
    """A PostgreSQL of the module's own, which its tests may stop."""
    with RunningPostgres() as server:
        yield server


@pytest.fixture
def where(server: RunningPostgres) -> str:
    """The address of an empty store on it."""
    return server.database()
