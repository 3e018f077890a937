"""Where a path leads, links resolved as far as they can be."""

import os
from pathlib import Path


def real_path(path: Path) -> Path:
    """Return a path with `~` and links resolved; never raises.

    `Path.resolve` does where links lead in a circle. Who opens what is returned says so, with the file's name.
    """
    return Path(os.path.realpath(path.expanduser()))
