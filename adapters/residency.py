"""Which versions an engine holds: what is brought in, and what makes room for it.

An engine has a fixed number of slots. Versions that routes serve come before those that a
rollback would need, and both before the rest; among equals the one used last stays.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

# A version is not swapped out for another that nobody has asked for, while it was used this lately (seconds).
SETTLED_SECONDS: Final = 10.0


class Keep(IntEnum):
    """Why a version is kept loaded; the higher, the longer."""

    NONE = -1  # no longer registered
    REST = 0
    ROLLBACK = 1  # was an alias's control within the rollback window
    SERVING = 2  # is a control or a candidate


@dataclass(frozen=True, slots=True)
class VersionStanding:
    """How much a version matters: why it is kept, and when it was last used (monotonic seconds; 0: never)."""

    keep: Keep = Keep.NONE
    used: float = 0.0


def _weight(standings: Mapping[str, VersionStanding], version: str) -> tuple[Keep, float, str]:
    standing = standings[version]
    return standing.keep, standing.used, version  # the name decides between those that were never used


def to_evict(held: Mapping[str, VersionStanding]) -> str | None:
    """Return the version that matters least of those `held`, or None if there is none."""
    return min(held, key=lambda version: _weight(held, version), default=None)


def to_bring(
    held: Mapping[str, VersionStanding], wanted: Mapping[str, VersionStanding], slots: int, now: float
) -> tuple[str, str | None] | None:
    """Return the next version to load unasked, and the one that makes room for it.

    A free slot goes to the version that matters most. A full engine swaps only a version of a
    lesser kind that has not been used lately: among equals, requests decide.

    Args:
        held: Versions that are on the engine, or on their way to it.
        wanted: Every version that it may hold.
        slots: How many it can hold.
        now: Monotonic seconds.

    Returns:
        None if nothing is to be done.
    """
    absent = [version for version in wanted if version not in held]
    best = max(absent, key=lambda version: _weight(wanted, version), default=None)
    if best is None:
        return None
    if len(held) < slots:
        return best, None
    least = to_evict(held)
    if least is None:
        return None
    standing = held[least]
    if wanted[best].keep > standing.keep and now - standing.used >= SETTLED_SECONDS:
        return best, least
    return None


def homes(version: str, engines: Collection[str], copies: int | None) -> tuple[str, ...]:
    """Return the engines that hold `version`, best first; every one of them if `copies` is None.

    Rendezvous hashing: an engine that comes or goes moves only the versions that it gains or held.

    Source: Thaler & Ravishankar (1998), IEEE/ACM Trans. Networking 6(1), doi:10.1109/90.663936.
    """
    ranked = sorted(engines, key=lambda url: sha256(f"{version}\x1f{url}".encode()).digest(), reverse=True)
    return tuple(ranked if copies is None else ranked[:copies])
