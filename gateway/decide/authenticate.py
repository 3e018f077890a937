"""Who is calling? A credential's digest is looked up; the key itself is kept nowhere.

Deny by default: no credential, or an unknown one, is refused. Keys are random 256-bit
values, so a plain SHA-256 is enough (no password stretching), and looking a digest up
in a hash table leaks nothing useful through timing: an attacker cannot steer digests.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.decide.limit import Rates
from gateway.errors import Unauthenticated

BEARER: Final = b"bearer "
EXPIRED: Final = "expired_api_key"


class Role(StrEnum):
    """What a key may do, least first; each role may do what those before it may.

    `app` sends requests, `app:pin` also to exact versions and arms, `viewer` also reads the
    admin API, `operator` also changes what is served, `admin` also makes and revokes keys.
    """

    APP = "app"
    APP_PIN = "app:pin"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK: Final = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller who is known.

    Attributes:
        id: The key's public id.
        role: What it may do.
        models: The models that it may use; None for all.
        expires: Unix seconds from which on it is refused, if ever.
        rates: What it may take in a minute; None without limits.
        engine_fields: Which fields it may send to engines, where that is not the usual; see `engine_fields.py`.
        account: To whom limits and units belong, through all rotations of the key; empty: to `id`.
    """

    id: str
    role: Role
    models: frozenset[str] | None = None
    expires: int | None = None
    rates: Rates | None = None
    account: str = ""
    engine_fields: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """The unit of assignment of a caller who names no other."""
        return self.account or self.id

    def may_pin(self) -> bool:
        """Whether this caller may ask for one exact version."""
        return self.is_at_least(Role.APP_PIN)

    def is_at_least(self, role: Role) -> bool:
        """Whether this caller's role includes `role`."""
        return _RANK[self.role] >= _RANK[role]

    def may_use(self, model: str) -> bool:
        """Whether this caller may send requests to `model` (an alias or the base's name)."""
        return self.models is None or model in self.models


# The caller when the gateway runs with --no-auth, on loopback only.
ANYONE: Final = Principal(id="anyone", role=Role.APP_PIN)


# Where clients put a key: OpenAI's, Anthropic's and Azure's.
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key")


def digest_of(key: bytes) -> bytes:
    """Return the 32-byte digest under which `key` is stored."""
    return hashlib.sha256(key).digest()


def authenticate(
    credential: bytes | None, keys: Mapping[bytes, Principal] | None, now: Callable[[], float]
) -> Principal:
    """Return the caller that `credential` proves.

    Args:
        credential: The value of `Authorization` (`Bearer KEY`), or a bare key as in
            `x-api-key` or `api-key`; None when the request carries none.
        keys: Digest → principal, or None when the gateway runs without keys.
        now: Unix seconds; asked only of a key that expires.

    Raises:
        Unauthenticated: No credential, or one that is not known, or that has expired.
    """
    if keys is None:
        return ANYONE
    if not credential:
        raise Unauthenticated(
            "You didn't provide an API key. Send it in the Authorization header (Authorization: Bearer YOUR_KEY); "
            "an operator makes one with `loragate keys create --role app`."
        )
    key = credential[7:].strip() if credential[:7].lower() == BEARER else credential
    principal = keys.get(hashlib.sha256(key).digest())
    if principal is None:
        raise Unauthenticated("Incorrect API key provided: it is not one of this gateway's keys, or was revoked.")
    if principal.expires is not None and now() >= principal.expires:
        raise Unauthenticated(
            "This API key has expired. Whoever gave it to you makes a new one with `loragate keys create`.",
            code=EXPIRED,
        )
    return principal


def caller_of(
    headers: Mapping[bytes, bytes], keys: Mapping[bytes, Principal] | None, now: Callable[[], float]
) -> Principal:
    """Return the caller whom one of a request's headers proves.

    A proxy or a browser may send an `Authorization` of its own beside the key in `x-api-key` or `api-key`: the first
    header that holds a good key counts.

    Args:
        headers: By name in lower case.
        keys, now: As `authenticate` takes them.

    Raises:
        Unauthenticated: None of them holds a good key. If one holds a key that has expired, the error says that.
    """
    try:
        return authenticate(headers.get(b"authorization"), keys, now)
    except Unauthenticated as error:
        told = error
    is_given = bool(headers.get(b"authorization"))
    for name in _CREDENTIALS[1:]:
        credential = headers.get(name)
        if not credential:
            continue
        try:
            return authenticate(credential, keys, now)
        except Unauthenticated as error:
            if not is_given or error.code == EXPIRED:
                told = error
            is_given = True
    raise told
