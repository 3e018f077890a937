"""Make, list and revoke keys. The key itself is shown once and kept nowhere."""

import secrets
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.decide.authenticate import Principal, Role, digest_of
from gateway.store.desired import Desired, KeyRecord

# Tells a scanner for leaked secrets what it has found.
PREFIX: Final = "sk-loragate-"


class UnknownKey(LookupError):
    """No key has this id."""


def create_key(
    desired: Desired, role: Role, now: float, name: str = "", models: Iterable[str] | None = None
) -> tuple[Desired, KeyRecord, str]:
    """Return the state with a new key, the key's record, and the key.

    Args:
        desired: The state as it is.
        role: What the key may do.
        now: Unix seconds.
        name: A remark.
        models: The only models it may use; None for all. Empty means that it may use none.
    """
    key = PREFIX + secrets.token_urlsafe(32)  # 256 bits
    record = KeyRecord(
        id=f"key-{secrets.token_hex(6)}",
        digest=digest_of(key.encode()).hex(),
        role=role,
        name=name,
        models=None if models is None else tuple(sorted(models)),
        created=int(now),
    )
    return msgspec.structs.replace(desired, keys=(*desired.keys, record)), record, key


def revoke_key(desired: Desired, key_id: str) -> Desired:
    """Return the state without a key.

    Raises:
        UnknownKey: There is none with this id.
    """
    kept = tuple(record for record in desired.keys if record.id != key_id)
    if len(kept) == len(desired.keys):
        raise UnknownKey(f"there is no key `{key_id}`; `loragate keys ls` lists them")
    return msgspec.structs.replace(desired, keys=kept)


def principals(records: Iterable[KeyRecord]) -> dict[bytes, Principal]:
    """Return digest → principal, as `authenticate` takes it."""
    return {
        bytes.fromhex(record.digest): Principal(
            id=record.id, role=record.role, models=frozenset(record.models) if record.models is not None else None
        )
        for record in records
    }
