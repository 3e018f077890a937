"""The copy of the desired state on disk, `desired.json`, from which a gateway starts while the store is away."""

from pathlib import Path
from typing import Final

import msgspec

from adapters.catalog import Entry
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired, KeyRecord
from gateway.store import copies
from gateway.store.rollouts import RolloutRow, from_row, to_row

COPY_FILE: Final = "desired.json"


class _Copy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON layout of `Desired`."""

    version: int = 0
    keys: tuple[KeyRecord, ...] = ()
    adapters: tuple[Entry, ...] = ()
    routes: tuple[RouteRecord, ...] = ()
    rollouts: tuple[RolloutRow, ...] = ()


def save_copy(folder: Path, desired: Desired) -> None:
    """Write the state to its copy on disk."""
    copy = _Copy(
        version=desired.version,
        keys=desired.keys,
        adapters=desired.adapters,
        routes=desired.routes,
        rollouts=tuple(to_row(each) for each in desired.rollouts),
    )
    copies.write(folder / COPY_FILE, msgspec.json.encode(copy))


def read_copy(folder: Path) -> Desired | None:
    """Return the state from its copy on disk; None if there is no copy or it is damaged."""
    copy = copies.read(folder / COPY_FILE, _Copy)
    if copy is None:
        return None
    return Desired(
        version=copy.version,
        keys=copy.keys,
        adapters=copy.adapters,
        routes=copy.routes,
        rollouts=tuple(from_row(row) for row in copy.rollouts),
    )
