"""The desired state as a value: what operators have asked for. Its version grows by one with every change."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from adapters.catalog import Catalog, Entry
from gateway.decide.assign import DEFAULT_SOURCES, TOTAL_WEIGHT, Split, check_sources
from gateway.decide.authenticate import Role
from gateway.decide.engine_fields import check_rules
from gateway.decide.sample import DEFAULT_NOISE_SHARE

if TYPE_CHECKING:
    # Workers read keys and routes through this module and have no use for plans, gates and their statistics, which
    # take a tenth of a worker's start to import.
    from gateway.rollout.record import StoredRollout

# Of one alias's former controls; a rollback reaches back no further.
MAX_HISTORY: Final = 100
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
Capture = Literal["full", "metrics_only", "off"]


def _check_limit(owner: str, name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{owner} has {name} `{value}`; give at least 1, or leave it out for no limit")


def _check_share(what: str, value: int) -> None:
    if not 0 <= value <= TOTAL_WEIGHT:
        raise ValueError(f"the {what} share `{value}` is not in 0..{TOTAL_WEIGHT} basis points")


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
            _check_limit(f"key `{self.id}`", name, getattr(self, name))

    def has_expired(self, now: float) -> bool:
        """Whether the key is refused at `now`."""
        return self.expires is not None and now >= self.expires


class Previous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that was an alias's control, and until when (Unix seconds)."""

    version: str
    until: int


class JudgePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model judges pairs of an alias.

    Attributes:
        url: Of an OpenAI-compatible endpoint, `/v1` included; may be a gateway's own.
        model: The name to ask for there.
        key_env: The environment variable that holds the evaluator's key for it; empty for none.
        rubric: What a good answer is, in words; empty for the built-in one.
        share: Basis points of the pairs that are judged.
        pairs_per_hour: At most so many; None without a bound.
    """

    url: str
    model: str
    key_env: str = ""
    rubric: str = ""
    share: int = TOTAL_WEIGHT
    pairs_per_hour: int | None = None

    def __post_init__(self) -> None:
        _check_share("judged", self.share)
        _check_limit("a judge", "pairs_per_hour", self.pairs_per_hour)


class MirrorPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests of an alias are copied for evaluators, and what becomes of the copies.

    Attributes:
        share: Basis points of the requests.
        capture: What is kept of the words: `full` in the store until they expire, `metrics_only` nothing beyond the
            memory of this gateway; `off` copies nothing, for a rollout neither.
        noise_share: Basis points of the copies that are compared with the same version again; in a rollout's stage
            see `gateway/decide/sample.py`.
        tokens_per_hour: What evaluators may spend on the alias in an hour; None without a bound.
        retention_seconds: How long the store keeps copies, 0 until they were judged; None for the settings' time.
        redact: Names of redactors, applied before anything is stored; `gateway/mirror/redact.py`.
        judge: Which model judges pairs; None for none.
        comparators: Names of those that are run; None for all.
    """

    share: int = 0
    capture: Capture = "full"
    noise_share: int = DEFAULT_NOISE_SHARE
    tokens_per_hour: int | None = None
    retention_seconds: int | None = None
    redact: tuple[str, ...] = ()
    judge: JudgePolicy | None = None
    comparators: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_share("mirrored", self.share)
        _check_share("noise", self.noise_share)
        _check_limit("a mirror", "tokens_per_hour", self.tokens_per_hour)
        if self.retention_seconds is not None and self.retention_seconds < 0:
            raise ValueError(f"a mirror has retention_seconds `{self.retention_seconds}`; give 0 or more")


class Shadow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rollout's stage wants to be compared.

    Attributes:
        candidate: Which is compared with control.
        share: Basis points of the requests.
        needs_noise: Whether one of its gates is held against noise pairs.
    """

    candidate: str
    share: int
    needs_noise: bool = False

    def __post_init__(self) -> None:
        _check_share("shadowed", self.share)


class RouteLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an alias may be asked for, over all keys; None where there is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_in_flight"):
            _check_limit("a route", name, getattr(self, name))


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One alias: its split, the weight in basis points, and how its requests are treated.

    `unit` says where the unit of assignment is looked for, first found first used. `plan` (a rollout
    plan as `plan.canonical` writes it) is for the next rollout. `mirror` is declared by people, `shadow`
    set by a rollout's stage that wants pairs: then its candidate and share count, and the rest of `mirror`.
    """

    alias: str
    control: str
    salt: str
    candidate: str | None = None
    weight: int = 0
    created: int = 0
    previous: tuple[Previous, ...] = ()  # newest first
    unit: tuple[str, ...] = DEFAULT_SOURCES
    mirror: MirrorPolicy | None = None
    plan: dict[str, Any] | None = None
    limits: RouteLimits | None = None
    notes: str = ""
    shadow: Shadow | None = None
    engine_fields: dict[str, str | int] = {}

    def __post_init__(self) -> None:
        Split(self.control, self.candidate, self.weight)  # refuses what cannot be assigned
        check_sources(self.unit)
        check_rules(self.engine_fields)

    def controlled_by(self, version: str, now: int) -> "RouteRecord":
        """Return the route with all its traffic on `version`, the control until now remembered."""
        previous = tuple(each for each in self.previous if each.version not in (version, self.control))
        if self.control and self.control != version:
            previous = (Previous(version=self.control, until=now), *previous)
        return msgspec.structs.replace(
            self,
            control=version,
            candidate=None,
            weight=0,
            created=now,
            previous=previous[:MAX_HISTORY],
            shadow=None,
        )


class RouteVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route as it was from one change to the next.

    `number` counts an alias's versions from 1. `state` is the version of the whole state that
    brought it, `at` Unix seconds. `route` is None where the alias was removed.
    """

    alias: str
    number: int
    state: int
    at: int
    route: RouteRecord | None
    by: str = ""
    reason: str = ""


class Desired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator has asked for. Only versions in `adapters` may be routed to.

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
