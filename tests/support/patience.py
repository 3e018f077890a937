"""Waiting for what must come about: however slow or busy a machine is, it gets the time it needs.

The time allowed decides how long a red run takes, never whether a run is red.
"""

import time
from collections.abc import Callable
from typing import Any, Final

PATIENCE_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 0.01


def until(holds: Callable[[], Any], what: str = "what the test waits for", seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `holds()`; fail and say what did not come about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"this did not come about in {seconds:g} s: {what}"
        time.sleep(LOOK_SECONDS)
