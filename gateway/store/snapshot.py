"""The route table as bytes: what workers are sent, and what lies on disk for a restart.

Holds key digests, so the file is readable by its owner alone.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.decide.assign import Split
from gateway.decide.route import Base, EngineView, Route, RouteTable
from gateway.store.desired import Desired, KeyRecord, replace_file
from gateway.store.keys import principals

SNAPSHOT_FILE: Final = "snapshot.json"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A route table, flat. `keys` is None when the gateway runs without authentication."""

    version: int
    base: Base | None
    keys: tuple[KeyRecord, ...] | None
    routes: tuple[Route, ...]
    versions: tuple[str, ...]
    engines: tuple[EngineView, ...]


def encode(snapshot: Snapshot) -> bytes:
    """Return a snapshot as JSON."""
    return msgspec.json.encode(snapshot)


def to_table(data: bytes) -> RouteTable:
    """Return the route table in `data`, with its look-ups built.

    Raises:
        msgspec.DecodeError: It is not a snapshot.
    """
    snapshot = msgspec.json.decode(data, type=Snapshot)
    return RouteTable(
        version=snapshot.version,
        base=snapshot.base,
        keys=None if snapshot.keys is None else MappingProxyType(principals(snapshot.keys)),
        routes=MappingProxyType({route.alias: route for route in snapshot.routes}),
        versions=frozenset(snapshot.versions),
        engines=snapshot.engines,
    )


def of_state(
    desired: Desired, *, version: int, base: Base | None, engines: tuple[EngineView, ...], with_keys: bool
) -> Snapshot:
    """Return the snapshot of a desired state and the engines as they are."""
    return Snapshot(
        version=version,
        base=base,
        keys=desired.keys if with_keys else None,
        routes=tuple(
            Route(
                alias=route.alias, split=Split(route.control, route.candidate, route.weight),
                salt=route.salt, created=route.created,
            )
            for route in desired.routes
        ),
        versions=tuple(entry.ref.version for entry in desired.adapters),
        engines=engines,
    )  # fmt: skip


def read_base(folder: Path) -> Base | None:
    """Return the base that the last snapshot on disk served, so that its name is known before an engine is up."""
    try:
        return msgspec.json.decode((folder / SNAPSHOT_FILE).read_bytes(), type=Snapshot).base
    except (OSError, msgspec.DecodeError):
        return None


def save(folder: Path, data: bytes) -> None:
    """Keep a snapshot on disk."""
    replace_file(folder / SNAPSHOT_FILE, data)
