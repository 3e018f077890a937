"""Which arm (control or candidate) serves a unit: a sticky, uniform, monotone function of salt, unit and weight.

A unit (a user, a conversation, a key) is hashed into one of 10,000 buckets, and the candidate owns the buckets
`[0, weight)`. Raising its weight only moves units to the candidate; lowering it only moves units back to control.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

# Weights are integer basis points, so that rounding cannot change a share.
TOTAL_WEIGHT: Final = 10_000
# Where the unit of a request may come from, in the default order: the first source that the request has counts.
DEFAULT_SOURCES: Final = ("header", "safety_identifier", "user", "prompt_cache_key", "key")
CONVERSATION: Final = "conversation"  # a hash of how the conversation begins
SOURCES: Final = (*DEFAULT_SOURCES, CONVERSATION)
# Prefix of a source that counts only from callers above the role `app`; from others it is ignored.
TRUSTED: Final = "trusted:"
# Prefixes of sources that an operator defines: a header's name in lower case, or the path of a value in the body.
HEADER: Final = "header:"
BODY: Final = "body:"
MAX_SOURCES: Final = 20
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_BODY_PATH: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}")
# Not allowed as sources: keys (the source `key` gives a unit for each key) and cookies, which hold private data.
_SECRET_HEADERS: Final = frozenset(("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"))
_KNOWN: Final = f"{', '.join(SOURCES)}, {HEADER}NAME, {BODY}PATH"


class Arm(StrEnum):
    """The two sides of a split."""

    CONTROL = "control"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Split:
    """The two versions of a route, and the candidate's weight in basis points."""

    control: str
    candidate: str | None = None
    weight: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= TOTAL_WEIGHT:
            raise ValueError(f"weight `{self.weight}` is not in 0..{TOTAL_WEIGHT} basis points")
        if self.weight and self.candidate is None:
            raise ValueError(f"weight `{self.weight}` is given to a candidate that is not named")


# How many units' buckets are cached: callers come again within seconds, and a look-up costs a tenth of the hash.
_REMEMBERED: Final = 16_384


@lru_cache(maxsize=_REMEMBERED)
def bucket(salt: str, unit: str) -> int:
    """Return the bucket of `unit`, in 0..9,999; the same in every process and release.

    The separator character between salt and unit keeps (`ab`, `c`) apart from (`a`, `bc`).
    """
    digest = hashlib.sha256(f"{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % TOTAL_WEIGHT


def sample_hash(salt: str, unit: str) -> int:
    """Return a 64-bit hash for sampling units; it is independent of the hash that assigns the arm."""
    digest = hashlib.sha256(f"sample\x1f{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def pick_arm(split: Split, number: int) -> Arm:
    """Return the arm that owns the bucket `number`.

    Raises:
        ValueError: `number` is outside 0..9,999.
    """
    if not 0 <= number < TOTAL_WEIGHT:
        raise ValueError(f"bucket `{number}` is not in 0..{TOTAL_WEIGHT - 1}")
    return Arm.CANDIDATE if number < split.weight else Arm.CONTROL


def check_sources(sources: tuple[str, ...]) -> None:
    """Check a list of unit sources.

    Raises:
        ValueError: The list cannot be used; the message says why.
    """
    if not sources:
        raise ValueError(f"the unit has no source; name at least one of {_KNOWN}")
    if len(sources) > MAX_SOURCES:
        raise ValueError(f"the unit has {len(sources)} sources; name at most {MAX_SOURCES}")
    for source in sources:
        _check_source(source)
    if len(set(sources)) < len(sources):
        raise ValueError(f"the unit sources `{', '.join(sources)}` name one twice")


def _check_source(source: str) -> None:
    bare = source.removeprefix(TRUSTED)
    if bare in SOURCES and (bare == source or bare not in ("key", CONVERSATION)):
        return
    shown = source[:100]
    if bare.startswith(HEADER):
        name = bare.removeprefix(HEADER)
        if name in _SECRET_HEADERS:
            raise ValueError(
                f"the unit source `{shown}` names a header that holds a secret; `key` tells whose key it is"
            )
        if _HEADER_NAME.fullmatch(name):
            return
        raise ValueError(f"the unit source `{shown}` names no header; write `{HEADER}NAME` with its name in lower case")
    if bare.startswith(BODY):
        if _BODY_PATH.fullmatch(bare.removeprefix(BODY)):
            return
        raise ValueError(
            f"the unit source `{shown}` is no path in a body; write `{BODY}` and at most four names with dots between "
            f"them, such as `{BODY}metadata.user_id`"
        )
    raise ValueError(
        f"the unit source `{shown}` is unknown; it may be one of {_KNOWN}; with `{TRUSTED}` before it (not before "
        f"`key` or `{CONVERSATION}`) it counts only from keys above the role `app`"
    )


def headers_of(sources: Iterable[str]) -> set[str]:
    """Return the names of the headers that `sources` read."""
    bare = (source.removeprefix(TRUSTED) for source in sources)
    return {source.removeprefix(HEADER) for source in bare if source.startswith(HEADER)}
