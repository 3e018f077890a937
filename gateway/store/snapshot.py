"""The route table as bytes, as it is sent to workers and saved on disk for a restart.

It holds digests of keys, so only its owner may read the file.
"""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.decide.assign import Split, headers_of
from gateway.decide.limit import rates_of
from gateway.decide.route import Base, EngineState, Route, RouteTable
from gateway.decide.sample import Mirror, noise_of_control, stage_noise_share
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.state import Desired, KeyRecord
from gateway.store import copies
from gateway.store.keys import principals

if TYPE_CHECKING:  # as in `gateway/records/state.py`
    from gateway.rollout.record import StoredRollout

SNAPSHOT_FILE: Final = "snapshot.json"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A route table in serialisable form. `keys` is None when the gateway runs without authentication.

    `replicas` is the number of gateways that share the rate limits.
    """

    version: int
    base: Base | None
    keys: tuple[KeyRecord, ...] | None
    routes: tuple[Route, ...]
    versions: tuple[str, ...]
    engines: tuple[EngineState, ...]
    replicas: int = 1


def encode(snapshot: Snapshot) -> bytes:
    """Return a snapshot as JSON."""
    return msgspec.json.encode(snapshot)


def to_table(data: bytes) -> RouteTable:
    """Return the route table in `data`, with its look-ups built.

    Raises:
        msgspec.DecodeError: `data` is not a snapshot.
    """
    snapshot = msgspec.json.decode(data, type=Snapshot)
    return RouteTable(
        version=snapshot.version,
        base=snapshot.base,
        keys=None if snapshot.keys is None else MappingProxyType(principals(snapshot.keys)),
        routes=MappingProxyType({route.alias: route for route in snapshot.routes}),
        versions=frozenset(snapshot.versions),
        engines=snapshot.engines,
        replicas=snapshot.replicas,
        has_rates=any(route.rates is not None for route in snapshot.routes),
        unit_headers=tuple(sorted({name.encode() for route in snapshot.routes for name in headers_of(route.unit)})),
        has_engine_fields=any(route.engine_fields for route in snapshot.routes),
    )


def of_state(
    desired: Desired,
    *,
    version: int,
    base: Base | None,
    engines: tuple[EngineState, ...],
    with_keys: bool,
    replicas: int = 1,
) -> Snapshot:
    """Return the snapshot of a desired state and of the engines' present state."""
    return Snapshot(
        version=version,
        base=base,
        keys=desired.keys if with_keys else None,
        routes=tuple(_route(record, desired.rollout(record.alias), base) for record in desired.routes),
        versions=tuple(entry.ref.version for entry in desired.adapters),
        engines=engines,
        replicas=replicas,
    )


def _route(record: RouteRecord, rollout: "StoredRollout | None", base: Base | None) -> Route:
    limits = record.limits
    return Route(
        alias=record.alias,
        split=Split(record.control, record.candidate, record.weight),
        salt=record.salt,
        created=record.created,
        unit=record.unit,
        rates=rates_of(limits.requests_per_minute, limits.tokens_per_minute, limits.max_in_flight) if limits else None,
        rollout=rollout.tag() if rollout else None,
        mirror=_mirror(record, base),
        engine_fields=record.engine_fields,
    )


def _mirror(record: RouteRecord, base: Base | None) -> Mirror | None:
    """Return how an alias's requests are copied for evaluators; None if they are not copied.

    If a rollout's stage compares a candidate, its share and candidate are used. Otherwise the mirror policy's share is
    used, and control is compared with the route's candidate or, without one, with the base. The rest of the policy
    holds in both cases, except for the share of noise pairs: a stage has as many as its gates and the judge need.
    """
    policy, shadow = record.mirror or MirrorPolicy(), record.shadow
    share = policy.share if shadow is None else shadow.share
    if not share or policy.capture == "off":
        return None
    other = record.candidate if shadow is None else shadow.candidate
    if other is not None:
        kind, control = "candidate", record.control
    elif base is not None:
        kind, control, other = "base", base.name, record.control
    else:
        return None
    noise = policy.noise_share
    if shadow is not None:
        noise = stage_noise_share(noise, is_needed=shadow.needs_noise, is_judged=policy.judge is not None)
    if kind == "candidate":
        noise = noise_of_control(noise, record.weight)
    return Mirror(
        kind="candidate" if kind == "candidate" else "base",
        control=control,
        other=other,
        salt=f"{record.salt}:mirror",
        share=share,
        noise_share=noise,
        capture="full" if policy.capture == "full" else "metrics_only",
    )


def read_base(folder: Path) -> Base | None:
    """Return the base model of the last snapshot on disk, so that its name is known before an engine is up."""
    snapshot = copies.read(folder / SNAPSHOT_FILE, Snapshot)
    return snapshot.base if snapshot is not None else None


def save(folder: Path, data: bytes) -> None:
    """Write a snapshot to disk."""
    copies.write(folder / SNAPSHOT_FILE, data)
