"""Authentication: a request's key is hashed, and its digest looked up. The key itself is stored nowhere.

Deny by default: a request without a key, or with an unknown one, is refused. Keys are random 256-bit values, so a plain
SHA-256 is enough (no password stretching), and looking a digest up in a hash table leaks nothing useful through timing,
as an attacker cannot choose digests.
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
    """What a key may do, from least to most; each role includes the ones before it.

    `app` sends requests; `app:pin` may also choose exact versions and arms; `viewer` may also read the admin API;
    `operator` may also change what is served; `admin` may also create and revoke keys.
    """

    APP = "app"
    APP_PIN = "app:pin"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK: Final = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller: what the gateway knows of its key.

    Attributes:
        id: The key's public id.
        role: The key's role.
        models: The models that the key may use; None for all.
        expires: Unix seconds from which on the key is refused; None if it never expires.
        rates: The key's rate limits; None for none.
        engine_fields: Exceptions from the default policy for engine fields; see `engine_fields.py`.
        account: Whose limits and units these are, the same through all rotations of the key; if empty, `id` is used.
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
        """The unit of assignment for requests that name no other."""
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


# The headers in which clients of OpenAI, Anthropic and Azure send a key.
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key")


def digest_of(key: bytes) -> bytes:
    """Return the 32-byte digest under which `key` is stored."""
    return hashlib.sha256(key).digest()


def authenticate(
    credential: bytes | None, keys: Mapping[bytes, Principal] | None, now: Callable[[], float]
) -> Principal:
    """Return the caller that owns `credential`.

    Args:
        credential: The value of `Authorization` (`Bearer KEY`), or a bare key as in
            `x-api-key` or `api-key`; None when the request carries none.
        keys: Digest → principal, or None when the gateway runs without keys.
        now: Returns Unix seconds; called only for a key that expires.

    Raises:
        Unauthenticated: There is no credential, it is unknown, or it has expired.
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
    """Return the caller of a request, by the first of its headers that holds a valid key.

    Several headers are tried, since a proxy or a browser may send an `Authorization` of its own beside the key in
    `x-api-key` or `api-key`.

    Args:
        headers: The request's headers, names in lower case.
        keys, now: As for `authenticate`.

    Raises:
        Unauthenticated: No header holds a valid key. If one holds an expired key, the error says so.
    """
    try:
        return authenticate(headers.get(b"authorization"), keys, now)
    except Unauthenticated as error:
        refusal = error
    is_given = bool(headers.get(b"authorization"))
    for name in _CREDENTIALS[1:]:
        credential = headers.get(name)
        if not credential:
            continue
        try:
            return authenticate(credential, keys, now)
        except Unauthenticated as error:
            if not is_given or error.code == EXPIRED:
                refusal = error
            is_given = True
    raise refusal
