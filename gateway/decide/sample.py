"""Mirroring: which requests are copied for evaluators, and which two versions each copy compares.

The choice is by a hash of the mirror's own salt and the request's id. So it is independent of the arm, and a share of
all requests is the same share of each arm's and each caller's. Only requests that were served as the route's split says
are copied: not those for exact versions, nor those whose arm a tester chose, nor those that control served as a
fallback for the candidate.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from zlib import crc32

from gateway.decide.assign import TOTAL_WEIGHT, bucket

# Noise pairs: the share of copies whose own version is asked a second time, so that any difference between the answers
# is noise. This default serves shadowing without a rollout, for the noise beside a report's figures, and stages of a
# rollout whose route has a judge, to calibrate it. In basis points.
DEFAULT_NOISE_SHARE: Final = 1_000
# For stages with a gate that compares against noise: at 10 % such a gate mostly waits for noise pairs. From
# `make simulate`: a version 10 points less similar than noise fails a margin of 5 after a quarter of the pairs that a
# share of 10 % takes, and one as similar as noise passes with the fewest. A larger share would fail a version a little
# sooner, but leave fewer pairs to the stage's other gates.
NEEDED_NOISE_SHARE: Final = 3_500
# The most noise among copies that control served: the gates on `ttft` and `itl` need the others.
MAX_NOISE_OF_CONTROL: Final = 7_000
NOISE: Final = "noise"

_32_BITS: Final = 0xFFFF_FFFF
# Knuth's multiplicative hash: CRCs of ids that differ only in their last digits form patterns, their products do not.
_KNUTH: Final = 2_654_435_761

# The names of `evaluators.observation.Kind`.
MirrorKind = Literal["candidate", "base"]
CopyKind = Literal["candidate", "base", "noise"]
Served = Literal["control", "candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """How the requests of an alias are copied.

    Attributes:
        kind: `candidate`, or `base` for an alias without a candidate.
        control, other: The two versions that are compared: control and candidate, or base and the alias's control.
        salt: The mirror's own salt, so that copying is independent of the split.
        share: The share of requests that are copied, in basis points.
        noise_share: The share of copies that are noise pairs, in basis points. Copies that the candidate served never
            are, as no gate or report compares a candidate with itself.
        capture: Whether texts may be stored (`full`), or only figures (`metrics_only`).
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
    """What a copied request compares: two versions, and which of the two served the caller."""

    kind: CopyKind
    control: str
    other: str
    served: Served


@lru_cache(maxsize=4096)
def _seed(salt: str) -> int:
    return crc32(salt.encode())


def pick_copy(mirror: Mirror, version: str, request_id: bytes) -> Copy | None:
    """Return what a request is copied for; None if it is not copied.

    Args:
        mirror: The mirror of the route that served the request.
        version: The version that served the request.
        request_id: The request's id, whose hash decides.
    """
    # Every request of the alias takes this path: a checksum, spread by a multiplication, costs half of a digest.
    number = crc32(request_id, _seed(mirror.salt)) * _KNUTH & _32_BITS
    if number * TOTAL_WEIGHT >> 32 >= mirror.share:
        return None
    served: Served
    if version == mirror.control:
        served = "control"
    elif version == mirror.other:
        served = "candidate"
    else:  # the route has changed since: this mirror does not compare the version
        return None
    has_noise = mirror.kind == "base" or served == "control"
    if has_noise and bucket(mirror.salt, request_id.decode("latin-1")) < mirror.noise_share:
        return Copy(NOISE, version, version, "control")
    return Copy(mirror.kind, mirror.control, mirror.other, served)


def stage_noise_share(own: int, *, is_needed: bool, is_judged: bool) -> int:
    """Return the share of noise pairs that a rollout's stage needs, in basis points; 0 if nothing uses them.

    Args:
        own: The share that the route asks for.
        is_needed: Whether a gate of the stage compares against noise pairs.
        is_judged: Whether a judge model scores the route's pairs: noise pairs calibrate it.
    """
    if is_needed:
        return max(own, NEEDED_NOISE_SHARE)
    return own if is_judged else 0


def noise_of_control(noise_share: int, weight: int) -> int:
    """Return the share of control's copies that must be noise pairs, so that `noise_share` of all copies are.

    Args:
        noise_share: The share among the copies of both arms, in basis points.
        weight: The candidate's weight in basis points: requests that it serves give no noise pairs.
    """
    of_control = TOTAL_WEIGHT - weight
    scaled = TOTAL_WEIGHT if of_control == 0 else round(noise_share * TOTAL_WEIGHT / of_control)
    return scaled if weight == 0 else min(scaled, max(noise_share, MAX_NOISE_OF_CONTROL))
