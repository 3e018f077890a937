"""Resolves paths without ever raising."""

import os
from pathlib import Path


def real_path(path: Path) -> Path:
    """Return a path with `~` and links resolved as far as possible; never raises.

    `Path.resolve` raises if links form a loop. Here opening the result reports that, with the file's name.
    """
    return Path(os.path.realpath(path.expanduser()))
