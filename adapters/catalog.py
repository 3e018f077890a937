"""The catalog: every registered version, what it is made of, and where it came from.

It is immutable: a change makes a new catalog, and its owner swaps the whole catalog.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from adapters.lifecycle import Event, State, advance
from adapters.manifest import Manifest
from adapters.recipe import Recipe
from adapters.reference import AdapterRef


class UnknownVersion(LookupError):
    """No version of this name is registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One registered version.

    `folder` is the registry's own copy, which is never changed; `source` is where it was copied from. `created` is in
    Unix seconds. A fused or scaled version has the `recipe` that it was made by, and `difference` says how far it is
    from the exact weighted sum of its parents. `may_be_null`: it is meant to add nothing to the base. `warnings` are
    those of its verification and its fusion.
    """

    ref: AdapterRef
    manifest: Manifest
    folder: str
    source: str
    created: int
    created_by: str = ""
    notes: str = ""
    recipe: Recipe | None = None
    difference: str = ""
    signed_by: str = ""
    may_be_null: bool = False
    warnings: tuple[str, ...] = ()
    state: State = State.REGISTERED
    reason: str = ""

    def after(self, event: Event, reason: str = "") -> "Entry":
        """Return the entry after `event`.

        Raises:
            IllegalLifecycleEvent: The event is not allowed in the version's state.
        """
        return replace(self, state=advance(self.state, event), reason=reason)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All registered versions by their full names, oldest first."""

    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Catalog":
        return cls(MappingProxyType({entry.ref.version: entry for entry in entries}))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, version: str) -> Entry:
        """Return the entry of a version, given by its full name.

        Raises:
            UnknownVersion: It is not registered.
        """
        try:
            return self.entries[version]
        except KeyError:
            raise UnknownVersion(f"`{version}` is not registered") from None

    def of_name(self, name: str) -> tuple[Entry, ...]:
        """Return the versions registered under `name`, oldest first."""
        return tuple(entry for entry in self.entries.values() if entry.ref.name == name)

    def with_entry(self, entry: Entry) -> "Catalog":
        """Return a catalog in which `entry` is added, or replaces the entry of its version."""
        return Catalog(MappingProxyType({**self.entries, entry.ref.version: entry}))

    def without(self, version: str) -> "Catalog":
        return Catalog(MappingProxyType({key: entry for key, entry in self.entries.items() if key != version}))
