"""For all tests: how hypothesis runs."""

from hypothesis import HealthCheck, settings

# Speed is not what properties are about: a loaded machine must not fail them.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
