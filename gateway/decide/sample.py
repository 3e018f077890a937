"""Which requests are copied for evaluators, and what each copy is compared with.

By a hash of the mirror's own salt and the request's id, so that being copied tells nothing
of the arm, and a share of requests is a share of every arm and every caller. Only what a
route's split has served is copied: not exact versions, not arms that testers choose, not
what control served in a candidate's place.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from zlib import crc32

from gateway.decide.assign import TOTAL_WEIGHT, bucket

# Of the copies, the share whose own version is asked again: what differs there is noise.
DEFAULT_NOISE_SHARE: Final = 1_000
NOISE: Final = "noise"

_32_BITS: Final = 0xFFFF_FFFF
# Knuth's multiplicative hash: CRCs of ids that differ in their last digits lie in patterns, their products do not.
_STIR: Final = 2_654_435_761

# The names of `evaluators.observation.Kind`.
MirrorKind = Literal["candidate", "base"]
CopyKind = Literal["candidate", "base", "noise"]
Served = Literal["control", "candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """How an alias's requests are copied.

    Attributes:
        kind: `candidate`, or `base` for an alias that has none.
        control, other: The two versions that are compared: control and candidate, or base and the alias's control.
        salt: Its own, so that copies are independent of the split.
        share: Basis points of the requests.
        noise_share: Basis points of the copies that are compared with the same version again.
        capture: What may be kept of the words.
    """

    kind: MirrorKind
    control: str
    other: str
    salt: str
    share: int
    noise_share: int = DEFAULT_NOISE_SHARE
    capture: Literal["full", "metrics_only"] = "full"

    def __post_init__(self) -> None:
        for name in ("share", "noise_share"):
            points = getattr(self, name)
            if not 0 <= points <= TOTAL_WEIGHT:
                raise ValueError(f"the mirror's {name} `{points}` is not in 0..{TOTAL_WEIGHT} basis points")


class Copy(NamedTuple):
    """What a copied request is for: two versions, and which of the two the caller got."""

    kind: CopyKind
    control: str
    other: str
    served: Served


@lru_cache(maxsize=4096)
def _seed(salt: str) -> int:
    return crc32(salt.encode())


def pick_copy(mirror: Mirror, version: str, request_id: bytes) -> Copy | None:
    """Return what a request is copied for, or None if it is not.

    Args:
        mirror: Of the route that served it.
        version: Which has served it.
        request_id: Which decides, with the mirror's salt.
    """
    # On the path of every request of the alias, so a checksum, stirred, instead of a digest, which costs twice as much.
    number = crc32(request_id, _seed(mirror.salt)) * _STIR & _32_BITS
    if number * TOTAL_WEIGHT >> 32 >= mirror.share:
        return None
    served: Served
    if version == mirror.control:
        served = "control"
    elif version == mirror.other:
        served = "candidate"
    else:  # of a split that is not this mirror's
        return None
    if bucket(mirror.salt, request_id.decode("latin-1")) < mirror.noise_share:
        return Copy(NOISE, version, version, "control")
    return Copy(mirror.kind, mirror.control, mirror.other, served)
