"""The desired state: what operators have configured. Its version grows by one with every change."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec

from adapters.catalog import Catalog, Entry
from gateway.decide.authenticate import Role
from gateway.decide.engine_fields import check_rules
from gateway.records.routes import RouteRecord, check_limit

if TYPE_CHECKING:
    # Workers read keys and routes through this module and have no use for plans, gates and their statistics, which
    # take a tenth of a worker's start to import.
    from gateway.rollout.record import StoredRollout

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, without the key: `digest` is SHA-256 in hex, times are Unix seconds.

    `models`, `expires` and the limits are None where there is no such bound. `replaced_by` is the
    id of the key that a rotation put in this one's place; `account` that of the first of them, to
    which limits and units belong; `engine_fields` its rules for fields (`decide/engine_fields.py`).
    """

    id: str
    digest: str
    role: Role
    name: str = ""
    models: tuple[str, ...] | None = None
    created: int = 0
    expires: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    replaced_by: str | None = None
    account: str | None = None
    engine_fields: dict[str, str | int] = {}

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"key `{self.id}` has no SHA-256 digest")
        if self.expires is not None and self.expires < 0:
            raise ValueError(f"key `{self.id}` expires at `{self.expires}`, which is no time in Unix seconds")
        check_rules(self.engine_fields)
        for name in ("requests_per_minute", "tokens_per_minute"):
            check_limit(f"key `{self.id}`", name, getattr(self, name))

    def has_expired(self, now: float) -> bool:
        """Whether the key has expired at `now` (Unix seconds) and is refused."""
        return self.expires is not None and now >= self.expires


class Desired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state that operators have configured. Only versions in `adapters` may be routed to.

    `rollouts` are the open ones, at most one for each alias.
    """

    version: int = 0
    keys: tuple[KeyRecord, ...] = ()
    adapters: tuple[Entry, ...] = ()
    routes: tuple[RouteRecord, ...] = ()
    rollouts: "tuple[StoredRollout, ...]" = ()

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

    def rollout(self, alias: str) -> "StoredRollout | None":
        """Return the open rollout of `alias`, or None."""
        return next((rollout for rollout in self.rollouts if rollout.alias == alias), None)

    def with_rollout(self, rollout: "StoredRollout") -> "Desired":
        """Return the state with `rollout` new or replaced."""
        others = tuple(other for other in self.rollouts if other.id != rollout.id)
        return msgspec.structs.replace(self, rollouts=(*others, rollout))

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
