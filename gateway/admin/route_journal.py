"""Journal records for what changes traffic outside of a rollout, and the guard for what is inside one.

Every record names its kind, who, why and when, and what was before and after. A rollout's
own records are made in `rollout/replay.py`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from adapters.catalog import Catalog
from gateway.admin.state import Conflict
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired
from gateway.rollout.journal import canonical_json
from gateway.store.rollouts import readable

ROUTE: Final = "route"
# Grows with every change of the control and says nothing of the present one.
_LEFT_OUT: Final = "previous"


def route_record(
    before: RouteRecord | None,
    after: RouteRecord | None,
    *,
    by: str,
    reason: str,
    at: float,
    catalog: Catalog | None = None,
) -> dict[str, Any]:
    """Return the journal record of a change to one alias; None stands for an alias that is not there.

    Args:
        before, after: The route, of which at least one is there.
        by, reason: Who, and why.
        at: Unix seconds.
        catalog: Where the full digests of the versions are looked up.
    """
    routes = [route for route in (before, after) if route is not None]
    versions = {version for route in routes for version in (route.control, route.candidate) if version}
    return {
        "kind": ROUTE,
        "alias": routes[0].alias,
        "at": at,
        "who": by,
        "why": reason,
        "before": _standing(before),
        "after": _standing(after),
        "digests": digests_of(catalog, versions) if catalog is not None else {},
        "config_hash": hashlib.sha256(canonical_json(_standing(after)).encode()).hexdigest(),
    }


def _standing(route: RouteRecord | None) -> dict[str, Any] | None:
    if route is None:
        return None
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(route))  # lists, as a reader will find them
    values.pop(_LEFT_OUT)
    return values


def digests_of(catalog: Catalog, versions: Iterable[str]) -> Mapping[str, str]:
    """Return the full digest of each version that is registered."""
    entries = catalog.entries
    return {version: entries[version].manifest.digest for version in sorted(versions) if version in entries}


def changed_routes(
    before: Desired, after: Desired, *, by: str, reason: str, at: float, catalog: Catalog | None = None
) -> tuple[dict[str, Any], ...]:
    """Return a record for each alias that is another in `after` than in `before`, in order."""
    old, new = ({route.alias: route for route in desired.routes} for desired in (before, after))
    return tuple(
        route_record(old.get(alias), new.get(alias), by=by, reason=reason, at=at, catalog=catalog)
        for alias in sorted(old.keys() | new.keys())
        if old.get(alias) != new.get(alias)
    )


def member(name: str, value: str) -> str:
    """Return a member of a record as canonical JSON writes it, to look for; within a text its quotes are escaped."""
    return canonical_json({name: value})[1:-1]


def check_no_rollout(desired: Desired, alias: str) -> None:
    """Refuse to change by hand what a rollout changes by plan: an alias's control, candidate and weight.

    Raises:
        Conflict: The alias has an open rollout; the message says how to end it.
    """
    rollout = desired.rollout(alias)
    if rollout is not None:
        raise Conflict(
            f"`{alias}` is in rollout `{rollout.id}`, which decides its split; wait for its end, or "
            f"`loragate rollout abort {alias}` or `loragate rollback {alias}` first"
        )


def check_not_rolled_out(desired: Desired, version: str) -> None:
    """Refuse to remove a version that an open rollout is from or to.

    Raises:
        Conflict: It is; the message says of which.
    """
    for rollout in desired.rollouts:
        stored = readable(rollout).rollout
        if version in (stored.control, stored.candidate, stored.home):
            raise Conflict(
                f"`{version}` is in rollout `{rollout.id}` of `{rollout.alias}`; wait for its end, or "
                f"`loragate rollout abort {rollout.alias}` first"
            )
