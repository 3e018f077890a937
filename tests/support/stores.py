"""Stores for tests: most begin as a copy of an empty one, since making its tables takes three times as long."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.store.database import DATABASE_FILE
from gateway.store.sql import CALL_SECONDS, Store, open_store


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder), now=lambda: 0.0)
        store.prepare()
        store.close()
        return (Path(folder) / DATABASE_FILE).read_bytes()


def open_empty_store(folder: Path, *, now: Callable[[], float], seconds: float = CALL_SECONDS) -> Store:
    """Return a new store in `folder` whose tables are there already."""
    (folder / DATABASE_FILE).write_bytes(_empty_database())
    return open_store(folder, now=now, seconds=seconds)
