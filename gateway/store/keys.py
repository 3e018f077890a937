"""Make, rotate and revoke keys. The key itself is shown once and kept nowhere."""

import secrets
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.decide.authenticate import Principal, Role, digest_of
from gateway.decide.engine_fields import NO_RULES, Rules
from gateway.decide.limit import rates_of
from gateway.records.state import Desired, KeyRecord

# Tells a scanner for leaked secrets what it has found.
PREFIX: Final = "sk-loragate-"
# How long a rotated key is still good: a day, so that everyone who uses it can be given the new one.
OVERLAP_SECONDS: Final = 24 * 3600


class UnknownKey(LookupError):
    """No key has this id."""


class KeyOutOfUse(Exception):
    """The key has expired, or another has been made in its place."""


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
    """Return the state with a new key, the key's record, and the key.

    Args:
        desired: The state as it is.
        role: What the key may do.
        now: Unix seconds.
        name: A remark.
        models: The only models it may use; None for all. Empty means that it may use none.
        expires: Unix seconds from which on it is refused; None for never.
        requests_per_minute, tokens_per_minute: Its limits; None for none.
        engine_fields: Its rules for fields that engines are sent.

    Raises:
        ValueError: It would have expired already, or a limit is below 1, or a rule means nothing.
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
    """Return the state with a new key in an old one's place, the new key's record, and the new key.

    The new one has the old one's role, name, models, limits and account, and where that expires,
    as long to live as that had when it was made.

    Args:
        desired: The state as it is.
        key_id: The old key's.
        now: Unix seconds.
        overlap_seconds: How long the old one is still good; 0 ends it at once.

    Raises:
        UnknownKey: There is none with this id.
        KeyOutOfUse: It has expired or was rotated before.
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
    kept = tuple(record for record in desired.keys if record.id != key_id)
    return msgspec.structs.replace(desired, keys=kept)


def key_view(record: KeyRecord, now: float) -> dict[str, Any]:
    """Return a key as it may be shown."""
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
    """Return digest → principal, as `authenticate` takes it."""
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
