"""How fast a fake engine's time goes: one factor on all that it is told to wait for.

No test's verdict may depend on it: `FAKE_ENGINE_PACE=0.5 make check` runs the tests with an engine that is twice as
quick.
"""

import os
from typing import Final

PACE: Final = float(os.environ.get("FAKE_ENGINE_PACE", "1"))
"""What a second of a knob takes, in seconds."""
