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

# Of the copies, the share whose own version is asked again: what differs there is noise. Shadowing without a rollout
# takes so many, for the noise beside a report's figures, and a stage of a rollout for its route's judge's calibration.
DEFAULT_NOISE_SHARE: Final = 1_000
# Where a gate is held against noise: at 10 % the few noise pairs are what it waits for. From `make simulate`: 10 points
# less similar than noise fail a margin of 5 after a quarter of the pairs that 10 % takes, and what is as similar passes
# with the fewest. More would fail a little sooner, and leave less to the stage's other gates.
NEEDED_NOISE_SHARE: Final = 3_500
# Of what control served, so many copies at most: the others are what `ttft` and `itl` compare.
MAX_NOISE_OF_CONTROL: Final = 7_000
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
        noise_share: Basis points of the copies that are compared with the same version again. What the candidate served
            never is: nobody reads how a candidate differs from itself.
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
    has_noise = mirror.kind == "base" or served == "control"
    if has_noise and bucket(mirror.salt, request_id.decode("latin-1")) < mirror.noise_share:
        return Copy(NOISE, version, version, "control")
    return Copy(mirror.kind, mirror.control, mirror.other, served)


def stage_noise_share(own: int, *, is_needed: bool, is_judged: bool) -> int:
    """Return which share of a rollout stage's pairs is noise, in basis points: as much as somebody reads.

    Args:
        own: The route's.
        is_needed: Whether a gate of the stage is held against noise pairs.
        is_judged: Whether a model judges the route's pairs: noise pairs show whether it is fit.
    """
    if is_needed:
        return max(own, NEEDED_NOISE_SHARE)
    return own if is_judged else 0


def noise_of_control(noise_share: int, weight: int) -> int:
    """Return how much of control's copies must be noise so that `noise_share` of all copies is, in basis points.

    Args:
        noise_share: Of the copies of both arms.
        weight: The candidate's, in basis points: of what it serves no noise pairs are made.
    """
    of_control = TOTAL_WEIGHT - weight
    scaled = TOTAL_WEIGHT if of_control == 0 else round(noise_share * TOTAL_WEIGHT / of_control)
    return scaled if weight == 0 else min(scaled, max(noise_share, MAX_NOISE_OF_CONTROL))
