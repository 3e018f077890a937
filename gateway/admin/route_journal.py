"""Make journal records of route changes outside of rollouts, and refuse manual changes to what a rollout controls.

Every record has its kind, its author, the reason, the time, and the route before and after. The records
of rollouts are made in `rollout/replay.py`.
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
# The field of former controls is left out of records: it grows with every change and does not describe the present one.
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
    """Return the journal record of a change to one alias.

    Args:
        before, after: The alias's route before and after the change; None if the alias does not exist then. At least
            one is given.
        by, reason: The author of the change and the reason.
        at: Unix seconds.
        catalog: The versions' full digests are looked up here.
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
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(route))  # JSON types, as in the stored journal
    values.pop(_LEFT_OUT)
    return values


def digests_of(catalog: Catalog, versions: Iterable[str]) -> Mapping[str, str]:
    """Return the full digest of each version that is registered."""
    entries = catalog.entries
    return {version: entries[version].manifest.digest for version in sorted(versions) if version in entries}


def route_records(
    before: Desired, after: Desired, *, by: str, reason: str, at: float, catalog: Catalog | None = None
) -> tuple[dict[str, Any], ...]:
    """Return a journal record for each alias whose route differs between `before` and `after`, in order of alias."""
    old, new = ({route.alias: route for route in desired.routes} for desired in (before, after))
    return tuple(
        route_record(old.get(alias), new.get(alias), by=by, reason=reason, at=at, catalog=catalog)
        for alias in sorted(old.keys() | new.keys())
        if old.get(alias) != new.get(alias)
    )


def member(name: str, value: str) -> str:
    """Return `"name":"value"` as canonical JSON writes it, to search the journal's text for records that have it.

    Text inside of another value cannot match, because its quotes are escaped.
    """
    return canonical_json({name: value})[1:-1]


def check_no_rollout(desired: Desired, alias: str) -> None:
    """Refuse a manual change of an alias's control, candidate or weight while a rollout decides them.

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
    """Refuse to remove a version that an open rollout starts from or leads to.

    Raises:
        Conflict: An open rollout uses the version; the message names the rollout.
    """
    for rollout in desired.rollouts:
        stored = readable(rollout).rollout
        if version in (stored.control, stored.candidate, stored.home):
            raise Conflict(
                f"`{version}` is in rollout `{rollout.id}` of `{rollout.alias}`; wait for its end, or "
                f"`loragate rollout abort {rollout.alias}` first"
            )
