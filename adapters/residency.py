"""Decide which versions an engine holds: which one is loaded next, and which one is evicted for it.

An engine has a fixed number of slots. Versions that routes serve come before those that a rollback would need, and both
come before the rest. Among versions of one kind, the one used most recently stays.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

# Do not evict a version that was used within this many seconds in favour of one that no request has asked for.
SETTLED_SECONDS: Final = 10.0


class Keep(IntEnum):
    """Why a version is kept loaded; higher values are kept longer."""

    NONE = -1  # no longer registered
    REST = 0
    ROLLBACK = 1  # was an alias's control within the rollback window
    SERVING = 2  # is a control or a candidate


@dataclass(frozen=True, slots=True)
class VersionStanding:
    """How important a version is: why it is kept, and when it was last used (monotonic seconds; 0 for never)."""

    keep: Keep = Keep.NONE
    used: float = 0.0


def _weight(standings: Mapping[str, VersionStanding], version: str) -> tuple[Keep, float, str]:
    standing = standings[version]
    return standing.keep, standing.used, version  # the name breaks ties between versions that were never used


def to_evict(held: Mapping[str, VersionStanding]) -> str | None:
    """Return the least important of the `held` versions, or None if there is none."""
    return min(held, key=lambda version: _weight(held, version), default=None)


def to_bring(
    held: Mapping[str, VersionStanding], wanted: Mapping[str, VersionStanding], slots: int, now: float
) -> tuple[str, str | None] | None:
    """Return the next version to load before any request asks for it, and the version to evict for it.

    A free slot goes to the most important version. On a full engine, only a version of a less important kind that was
    not used recently is replaced; within one kind, requests decide.

    Args:
        held: Versions that are on the engine, or being loaded.
        wanted: Every version that the engine may hold.
        slots: How many it can hold.
        now: Monotonic seconds.

    Returns:
        None if nothing should be loaded.
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
    """Return the engines that hold `version`, best first; every engine if `copies` is None.

    Rendezvous hashing: when an engine comes or goes, only the versions that it gains or held move. Source: Thaler &
    Ravishankar (1998), IEEE/ACM Trans. Networking 6(1), doi:10.1109/90.663936.
    """
    ranked = sorted(engines, key=lambda url: sha256(f"{version}\x1f{url}".encode()).digest(), reverse=True)
    return tuple(ranked if copies is None else ranked[:copies])
