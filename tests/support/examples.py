"""How many examples a test tries: all of them in `make test`, a quarter in the loop while you work."""

from hypothesis import settings

IS_QUICK = settings.get_current_profile_name() == "quick"


def examples(number: int) -> int:
    """Return `number`, or a quarter of it where `make check` runs, as the profile `quick` has a quarter of `ours`."""
    return number // 4 if IS_QUICK else number
