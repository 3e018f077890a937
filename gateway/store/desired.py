"""The desired state of one machine, in one file: replaced whole, or not at all.

Readers see the old file or the new one, never half of either (write, fsync, rename).
A lock file keeps a second writer out, such as a CLI that makes a key while the gateway
is down. The version grows by one with every change.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from adapters.catalog import Catalog, Entry
from gateway.decide.assign import Split
from gateway.decide.authenticate import Role

STATE_FILE: Final = "state.json"
# Of one alias's former controls; a rollback reaches back no further.
LONGEST_HISTORY: Final = 100
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class StoreUnreadable(Exception):
    """The state file is there and cannot be understood."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, without the key: `digest` is SHA-256 in hex, `created` Unix seconds."""

    id: str
    digest: str
    role: Role
    name: str = ""
    models: tuple[str, ...] | None = None
    created: int = 0

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"key `{self.id}` has no SHA-256 digest")


class Previous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that was an alias's control, and until when (Unix seconds)."""

    version: str
    until: int


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One alias and its split, the weight in basis points."""

    alias: str
    control: str
    salt: str
    candidate: str | None = None
    weight: int = 0
    created: int = 0
    previous: tuple[Previous, ...] = ()  # newest first

    def __post_init__(self) -> None:
        Split(self.control, self.candidate, self.weight)  # refuses what cannot be assigned

    def controlled_by(self, version: str, now: int) -> "RouteRecord":
        """Return the route with all its traffic on `version`, the control until now remembered."""
        previous = tuple(each for each in self.previous if each.version not in (version, self.control))
        if self.control and self.control != version:
            previous = (Previous(version=self.control, until=now), *previous)
        return msgspec.structs.replace(
            self, control=version, candidate=None, weight=0, created=now, previous=previous[:LONGEST_HISTORY]
        )


class Desired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator has asked for. Only versions in `adapters` may be routed to."""

    version: int = 0
    keys: tuple[KeyRecord, ...] = ()
    adapters: tuple[Entry, ...] = ()
    routes: tuple[RouteRecord, ...] = ()

    def catalog(self) -> Catalog:
        """Return the registered versions."""
        return Catalog.of(self.adapters)

    def route(self, alias: str) -> RouteRecord | None:
        """Return the route of `alias`, or None."""
        return next((route for route in self.routes if route.alias == alias), None)

    def with_route(self, route: RouteRecord) -> "Desired":
        """Return the state with `route` new or replaced."""
        others = tuple(other for other in self.routes if other.alias != route.alias)
        return msgspec.structs.replace(self, routes=(*others, route))

    def without(self, versions: Collection[str]) -> "Desired":
        """Return the state without some versions and without the routes that they control."""
        return msgspec.structs.replace(
            self,
            routes=tuple(route for route in self.routes if route.control not in versions),
            adapters=tuple(entry for entry in self.adapters if entry.ref.version not in versions),
        )

    def with_catalog(self, catalog: Catalog) -> "Desired":
        """Return the state with another catalog."""
        return msgspec.structs.replace(self, adapters=tuple(catalog))


class DesiredStore:
    """The state file in a folder, made with the first change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / STATE_FILE

    def read(self) -> Desired:
        """Return the state as it stands; an empty one before the first change.

        Raises:
            StoreUnreadable: The file is damaged, or written by a later release.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Desired)
        except FileNotFoundError:
            return Desired()
        except OSError as error:
            raise StoreUnreadable(f"`{self._path}` cannot be read ({error.strerror})") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreUnreadable(
                f"`{self._path}` cannot be read ({error}); restore it from a backup, or move it away to begin anew"
            ) from None

    def write(self, desired: Desired) -> Desired:
        """Replace the state; returns it with its new version. Call within `locked`."""
        desired = msgspec.structs.replace(desired, version=desired.version + 1)
        replace_file(self._path, msgspec.json.format(msgspec.json.encode(desired)))
        return desired

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out; short, since they wait."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, readable by the owner alone; a crash leaves the old file."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:  # interrupted, too: no scratch file stays
        Path(scratch).unlink(missing_ok=True)
        raise
