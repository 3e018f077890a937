"""Create, rotate and revoke API keys. A key itself is shown once and never stored; the store holds its digest."""

import secrets
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.decide.authenticate import Principal, Role, digest_of
from gateway.decide.engine_fields import NO_RULES, Rules
from gateway.decide.limit import rates_of
from gateway.records.state import Desired, KeyRecord

# A prefix by which scanners for leaked secrets recognise keys of Loragate.
PREFIX: Final = "sk-loragate-"
# A rotated key stays valid for a day, so that all its users can change to the new one.
OVERLAP_SECONDS: Final = 24 * 3600


class UnknownKey(LookupError):
    """No key has this id."""


class KeyOutOfUse(Exception):
    """The key has expired, or a rotation has replaced it."""


def create_key(
    desired: Desired,
    role: Role,
    now: float,
    name: str = "",
    models: Iterable[str] | None = None,
    *,
    expires: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    engine_fields: Rules = NO_RULES,
) -> tuple[Desired, KeyRecord, str]:
    """Create a key; returns the state with it, its record, and the key itself.

    Args:
        desired: The state as it is.
        role: What the key may do.
        now: Unix seconds.
        name: A description for people.
        models: The only models it may use; None for all. Empty means that it may use none.
        expires: When the key expires, in Unix seconds; None for never.
        requests_per_minute, tokens_per_minute: The key's rate limits; None for no limit.
        engine_fields: The key's rules for request fields that are passed on to engines.

    Raises:
        ValueError: `expires` is not in the future, a limit is below 1, or a rule is invalid.
    """
    if expires is not None and expires <= now:
        raise ValueError(f"the key would expire at `{expires}`, which is not after now, `{int(now)}`")
    key = PREFIX + secrets.token_urlsafe(32)  # 256 bits
    record = KeyRecord(
        id=f"key-{secrets.token_hex(6)}",
        digest=digest_of(key.encode()).hex(),
        role=role,
        name=name,
        models=None if models is None else tuple(sorted(models)),
        created=int(now),
        expires=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        engine_fields=dict(engine_fields),
    )
    return msgspec.structs.replace(desired, keys=(*desired.keys, record)), record, key


def find_key(desired: Desired, key_id: str) -> KeyRecord:
    """Return the record of a key.

    Raises:
        UnknownKey: There is none with this id.
    """
    for record in desired.keys:
        if record.id == key_id:
            return record
    raise UnknownKey(f"there is no key `{key_id}`; `loragate keys ls` lists them")


def rotate_key(
    desired: Desired, key_id: str, now: float, overlap_seconds: float = OVERLAP_SECONDS
) -> tuple[Desired, KeyRecord, str]:
    """Replace a key by a new one; returns the changed state, the new key's record, and the new key.

    The new key has the role, name, models, limits and account of the old one, and the same lifetime counted from now
    if the old one had an expiry.

    Args:
        desired: The state as it is.
        key_id: The id of the old key.
        now: Unix seconds.
        overlap_seconds: How long the old key stays valid; 0 ends it at once.

    Raises:
        UnknownKey: There is none with this id.
        KeyOutOfUse: The key has expired or was rotated before.
        ValueError: The overlap is below 0.
    """
    if overlap_seconds < 0:
        raise ValueError(f"the overlap `{overlap_seconds:g}` is below 0 seconds")
    old = find_key(desired, key_id)
    if old.replaced_by is not None:
        raise KeyOutOfUse(f"key `{key_id}` was rotated before; rotate `{old.replaced_by}`, which is in its place")
    if old.has_expired(now):
        raise KeyOutOfUse(f"key `{key_id}` has expired; make a new one with `loragate keys create`")
    lifetime = None if old.expires is None else max(1, old.expires - old.created)
    added, new, key = create_key(
        desired,
        old.role,
        now,
        old.name,
        old.models,
        expires=None if lifetime is None else int(now) + lifetime,
        requests_per_minute=old.requests_per_minute,
        tokens_per_minute=old.tokens_per_minute,
        engine_fields=old.engine_fields,
    )
    new = msgspec.structs.replace(new, account=old.account or old.id)
    until = int(now + overlap_seconds)
    expires = until if old.expires is None else min(until, old.expires)
    retired = msgspec.structs.replace(old, expires=expires, replaced_by=new.id)
    replaced = {old.id: retired, new.id: new}
    return msgspec.structs.replace(added, keys=tuple(replaced.get(each.id, each) for each in added.keys)), new, key


def revoke_key(desired: Desired, key_id: str) -> Desired:
    """Return the state without a key.

    Raises:
        UnknownKey: There is none with this id.
    """
    find_key(desired, key_id)
    records = tuple(record for record in desired.keys if record.id != key_id)
    return msgspec.structs.replace(desired, keys=records)


def key_view(record: KeyRecord, now: float) -> dict[str, Any]:
    """Return a key's record for display, without its digest."""
    return {
        "id": record.id,
        "role": record.role.value,
        "name": record.name,
        "models": list(record.models) if record.models is not None else None,
        "created": record.created,
        "expires": record.expires,
        "state": "expired" if record.has_expired(now) else "active",
        "requests_per_minute": record.requests_per_minute,
        "tokens_per_minute": record.tokens_per_minute,
        "replaced_by": record.replaced_by,
        "engine_fields": record.engine_fields,
    }


def principals(records: Iterable[KeyRecord]) -> dict[bytes, Principal]:
    """Return the principals of keys by digest, as `authenticate` takes them."""
    return {
        bytes.fromhex(record.digest): Principal(
            id=record.id,
            role=record.role,
            models=frozenset(record.models) if record.models is not None else None,
            expires=record.expires,
            rates=rates_of(record.requests_per_minute, record.tokens_per_minute),
            account=record.account or "",
            engine_fields=record.engine_fields,
        )
        for record in records
    }
