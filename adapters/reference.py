"""The names of what is served: a version of an adapter, or the base model.

A version is written `support@3f2a9c81d0e4`: the name it was registered under, and the first 12 hex digits of its
content's digest. The base is a value of its own, not None.
"""

import re
from dataclasses import dataclass
from typing import Final

# 12 hex digits = 48 bits: among 10,000 versions the chance of one collision is 2e-7.
SHORT_DIGEST_LENGTH: Final = 12
# A pin may be shortened to this many digits, as long as it stays unique (git shows 7).
SHORTEST_PIN: Final = 6
# A name is a metric label, a URL path segment and a model name at once.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{12,64}")


class InvalidReference(ValueError):
    """The text is not a valid name or version."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """One immutable version of an adapter: a name and the digest of its content."""

    name: str
    digest: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _DIGEST.fullmatch(self.digest):
            raise InvalidReference(f"`{self.digest}` is not a digest: 12 to 64 lower-case hex digits are")

    @property
    def version(self) -> str:
        """The version as people and engines write it: `name@` and 12 hex digits."""
        return f"{self.name}@{self.digest[:SHORT_DIGEST_LENGTH]}"

    def __str__(self) -> str:
        return self.version


def check_name(name: str) -> str:
    """Return `name` if it can name an adapter.

    Raises:
        InvalidReference: The message names the offender and the rule.
    """
    if not _NAME.fullmatch(name):
        raise InvalidReference(
            f"`{name}` cannot name an adapter: use 1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit"
        )
    if name == "auto":
        raise InvalidReference("`auto` cannot name an adapter: it asks the gateway to choose one")
    return name


def split_version(version: str) -> tuple[str, str]:
    """Return (name, digits) of `name@digits`.

    Raises:
        InvalidReference: There is no `@`, or what follows it is no digest prefix of 6 or more.
    """
    name, at, digits = version.partition("@")
    if not at or len(digits) < SHORTEST_PIN or not re.fullmatch(r"[0-9a-f]+", digits):
        raise InvalidReference(f"`{version}` is not a version: write name@ and at least {SHORTEST_PIN} hex digits")
    return check_name(name), digits
