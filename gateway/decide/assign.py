"""Which arm serves a unit: a sticky, uniform, monotone function of (salt, unit, weights).

The candidate owns the buckets `[0, weight)`. Raising its weight moves units to it and
never away from it; lowering only moves them back.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

# Weights are integer basis points, so no share can drift by rounding.
TOTAL_WEIGHT: Final = 10_000
# Where the unit of a request may come from; the defaults are in the order of DESIGN 4.3.
DEFAULT_SOURCES: Final = ("header", "safety_identifier", "user", "prompt_cache_key", "key")
CONVERSATION: Final = "conversation"  # a hash of how the conversation begins
SOURCES: Final = (*DEFAULT_SOURCES, CONVERSATION)
# Before a source: it counts only from callers above the role `app`; from others it is as if it were not there.
TRUSTED: Final = "trusted:"
# Before the name of a header, in lower case, or the path of a value in the body: a source of the operator's own.
HEADER: Final = "header:"
BODY: Final = "body:"
MAX_SOURCES: Final = 20
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_BODY_PATH: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}")
# Whoever shares a key is one unit already, by `key`; a cookie holds what is nobody's business.
_SECRET_HEADERS: Final = frozenset(("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"))
_KNOWN: Final = f"{', '.join(SOURCES)}, {HEADER}NAME, {BODY}PATH"


class Arm(StrEnum):
    """The two sides of a split."""

    CONTROL = "control"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Split:
    """The versions of a route and the candidate's weight in basis points."""

    control: str
    candidate: str | None = None
    weight: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= TOTAL_WEIGHT:
            raise ValueError(f"weight `{self.weight}` is not in 0..{TOTAL_WEIGHT} basis points")
        if self.weight and self.candidate is None:
            raise ValueError(f"weight `{self.weight}` is given to a candidate that is not named")


# Units whose buckets are remembered: callers come again within seconds, and a look-up costs a tenth of the hash.
_REMEMBERED: Final = 16_384


@lru_cache(maxsize=_REMEMBERED)
def bucket(salt: str, unit: str) -> int:
    """Return the bucket of `unit`, in 0..9,999, the same in every process and release.

    The unit separator between them keeps (`ab`, `c`) apart from (`a`, `bc`).
    """
    digest = hashlib.sha256(f"{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % TOTAL_WEIGHT


def sample_hash(salt: str, unit: str) -> int:
    """Return 64 bits that choose whether `unit` is kept in a sample; they tell nothing of its arm."""
    digest = hashlib.sha256(f"sample\x1f{salt}\x1f{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def pick_arm(split: Split, number: int) -> Arm:
    """Return the arm that owns bucket `number`.

    Raises:
        ValueError: `number` is outside 0..9,999.
    """
    if not 0 <= number < TOTAL_WEIGHT:
        raise ValueError(f"bucket `{number}` is not in 0..{TOTAL_WEIGHT - 1}")
    return Arm.CANDIDATE if number < split.weight else Arm.CONTROL


def check_sources(sources: tuple[str, ...]) -> None:
    """Refuse a list of unit sources that cannot be used.

    Raises:
        ValueError: Why not.
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
    """Refuse a unit source that cannot be used, with the reason."""
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
    """Return the names of the headers that some sources are looked for in."""
    bare = (source.removeprefix(TRUSTED) for source in sources)
    return {source.removeprefix(HEADER) for source in bare if source.startswith(HEADER)}
