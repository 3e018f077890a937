"""For all tests: how hypothesis runs, how long answers are waited for, and which tests stay together."""

import os
from pathlib import Path

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from tests.patience import PATIENCE_SECONDS

# Speed is not what properties are about: a loaded machine must not fail them. The same examples each time, so that a
# change is judged by what it changed; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", parent=settings.get_profile("ours"), derandomize=False, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ours"))

# httpx waits 5 s for a step if nothing is said, which a busy machine may take.
for step in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, step, PATIENCE_SECONDS)

# Real engines that tests share; each takes a minute to start (tests/real/conftest.py).
SHARED_ENGINES = frozenset(("engine", "up"))
REAL = Path(__file__).parent / "real"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process where several run at once, and those that share a real engine, too."""
    real = [item for item in items if REAL in item.path.parents]
    sharing = {item.path for item in real if not SHARED_ENGINES.isdisjoint(getattr(item, "fixturenames", ()))}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("engines" if item.path in sharing else item.path.stem))
