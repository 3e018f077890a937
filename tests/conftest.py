"""For all tests: how hypothesis runs."""

import os

from hypothesis import HealthCheck, settings

# Speed is not what properties are about: a loaded machine must not fail them. The same examples each time, so that a
# change is judged by what it changed; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", parent=settings.get_profile("ours"), derandomize=False, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ours"))
