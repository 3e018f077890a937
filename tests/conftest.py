"""For all tests: how hypothesis runs, how long answers are waited for, and stores of both kinds."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.support.patience import PATIENCE_SECONDS

if TYPE_CHECKING:
    from gateway.store.sql import Store
    from tests.support.postgres import RunningPostgres

# Speed is not what properties are about: a loaded machine must not fail them. The same examples each time, so that a
# change is judged by what it changed; HYPOTHESIS_PROFILE=explore looks for new ones, and `quick` is for `make check`.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", parent=settings.get_profile("ours"), derandomize=False, max_examples=500)
settings.register_profile("quick", parent=settings.get_profile("ours"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ours"))

# A vLLM of the session, by the files whose tests ask it: it takes a minute of a core to start.
SHARED_ENGINES = {
    "tests/real/test_cpu_cure.py": "engine",
    "tests/real/test_fingerprint.py": "engine",
    "tests/real/test_fusion.py": "engine",
    "tests/real/test_normalize.py": "engine",
    "tests/real/test_fidelity.py": "up",
    "tests/real/test_rollout_vllm.py": "ramping",
    "tests/real/test_shadow_vllm.py": "ramping",
    "tests/real/test_up.py": "up",
}

# Trees, examples and records come and go by the thousand: looking for cycles after every 700 of them, as Python does
# by default, takes a fifth of the time of tests that compute.
gc.set_threshold(50_000, 20, 20)

# httpx waits 5 s for a step if nothing is said, which a busy machine may take.
for step in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, step, PATIENCE_SECONDS)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "ByFixture | None":
    """Under `--dist loadfile`, keep files together that share what is dear to start."""
    return ByFixture(config, log) if config.getoption("dist") == "loadfile" else None


class ByFixture(LoadFileScheduling):
    """Gives the tests of a file to one process, and those of files that share a vLLM to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return SHARED_ENGINES.get(file, file)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the garbage collector leave aside what lives until the end: some 250,000 objects of tests and libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[RunningPostgres]":
    """A real PostgreSQL."""
    from tests.support.postgres import RunningPostgres

    with RunningPostgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store: in SQLite always, in a real PostgreSQL in the slow runs."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    server: RunningPostgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(where: str) -> "Iterator[Store]":
    """An empty store, at noon."""
    # Imported here: the process that only hands out the tests needs neither.
    from gateway.store.sql import open_store
    from tests.support.stores import open_empty_store

    path, now = where.removeprefix("sqlite:///"), lambda: 1_790_000_000.0
    if path == where:
        store = open_store(where, now=now, seconds=PATIENCE_SECONDS)
    else:
        store = open_empty_store(Path(path).parent, now=now, seconds=PATIENCE_SECONDS)
    yield store
    store.close()
