"""Build a folder once, however many processes ask for it and whenever one of them dies.

Invariant: a folder that exists under its final name is complete.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` unless an earlier call has done so.

    A second process waits for the first and then finds the result. If `build` raises or its process
    dies, the next call starts from an empty folder again.

    Args:
        folder: Final place; its parents are made.
        build: Given an empty folder beside the final one; fills it.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        # One fixed name, which the lock guards: remains of a crash are found and removed.
        half_made = folder.with_name(f".{folder.name}.half-made")
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir()
        build(half_made)
        half_made.rename(folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The file stays: removing it would let a waiter and a newcomer hold two different locks.
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel lets go when the process dies
        yield
