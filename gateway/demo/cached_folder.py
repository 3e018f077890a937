"""Builds a cached folder exactly once, even if several processes ask for it, or one dies while building.

Invariant: a folder that exists under its final name is complete.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build` unless an earlier call has done so.

    A second process waits for the first, and then finds the result. If `build` raises or its process dies, the next
    call starts from an empty folder again.

    Args:
        folder: The final path; its parents are created.
        build: Fills the empty folder that it is given, which is then renamed to `folder`.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        # A fixed name, guarded by the lock, so that the remains of a crash are found and removed.
        partial = folder.with_name(f".{folder.name}.half-made")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        build(partial)
        partial.rename(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The lock file is never removed: else a waiting process and a new one could hold locks on two different files.
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel if the process dies
        yield
