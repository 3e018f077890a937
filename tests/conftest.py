"""For all tests: how hypothesis runs, and how long answers are waited for."""

import os

from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from tests.support.patience import PATIENCE_SECONDS

# Speed is not what properties are about: a loaded machine must not fail them. The same examples each time, so that a
# change is judged by what it changed; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", parent=settings.get_profile("ours"), derandomize=False, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ours"))

# httpx waits 5 s for a step if nothing is said, which a busy machine may take.
for step in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, step, PATIENCE_SECONDS)
