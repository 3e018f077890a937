"""For all tests: how hypothesis runs, and how long answers are waited for."""

import gc
import os
from typing import Any

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.support.patience import PATIENCE_SECONDS

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
    "tests/real/test_up.py": "up",
}

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
