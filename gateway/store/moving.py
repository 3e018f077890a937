"""Take the files of releases before the database in, once: state.json and fingerprints/.

All of it in one transaction, then the files are renamed. A crash between the two is noticed at
the next start by the file's digest, which the store remembers.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from adapters.fingerprint import Fingerprint
from gateway.store import rows, schema
from gateway.store.desired import STATE_FILE, Desired, DesiredStore, RouteVersion
from gateway.store.errors import StoreUnreadable
from gateway.store.sql import Store

log = logging.getLogger("loragate.moving")

FINGERPRINTS: Final = "fingerprints"
MOVED: Final = ".moved"


def take_in(store: Store, folder: Path) -> bool:
    """Move what an earlier release kept in `folder` into the store; returns whether there was anything.

    Raises:
        StoreUnreadable: The file is damaged, or the store holds another state already.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return False
    with _locked(folder):
        if not path.exists():
            return False  # another process was faster
        desired = DesiredStore(folder).read()
        found = _fingerprints(folder)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        store.writing(lambda connection: _take_in(connection, store, desired, found, digest, path))
        for each in (path, folder / FINGERPRINTS):
            if each.exists():
                each.rename(each.with_name(each.name + MOVED))
    log.warning("%s is in %s now; the old file is kept as %s", path, store.database.label, path.name + MOVED)
    return True


def _take_in(
    connection: Connection, store: Store, desired: Desired, found: dict[str, dict[str, Fingerprint]], digest: str,
    path: Path,
) -> None:  # fmt: skip
    state = schema.state
    rows.hold(connection)
    version, moved = connection.execute(select(state.c.version, state.c.moved)).one()
    if moved == digest:
        return  # taken in before, and not renamed because of a crash
    if version:
        raise StoreUnreadable(
            f"`{path}` is of an earlier release, and the store `{store.database.label}` holds another state already; "
            "move the one away that is not wanted"
        )
    # At least 1, or the store would still pass for empty.
    connection.execute(update(state).values(version=max(desired.version, 1), moved=digest))
    mark = RouteVersion(
        alias="", number=0, state=max(desired.version, 1), at=int(store.now()), route=None,
        reason="taken over from an earlier release",
    )  # fmt: skip
    rows.write_keys(connection, desired.keys)
    rows.write_adapters(connection, desired.adapters)
    rows.write_routes(connection, desired.routes, mark)
    for desired_version, by_engine in found.items():
        for number, (engine, fingerprint) in enumerate(by_engine.items(), 1):
            row = {"version": desired_version, "engine": engine, "number": number, "record": rows.encode(fingerprint)}
            connection.execute(insert(schema.fingerprints).values(row))


def _fingerprints(folder: Path) -> dict[str, dict[str, Fingerprint]]:
    """Return them by version and engine; one that cannot be read is made anew by the next check."""
    found = {}
    for path in sorted((folder / FINGERPRINTS).glob("*.json")):
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=dict[str, Fingerprint])
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            log.warning("%s cannot be read, and is not taken in", path)
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
