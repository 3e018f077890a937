"""What became of copies of requests and of feedback; a worker counts, the control plane adds up.

Like the cells of `ledger.py`: plain values that only their process touches. Reasons are few
and ours, so labels are bounded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec


class MirrorCounts(msgspec.Struct, gc=False, kw_only=True):
    """Copies by what became of them.

    Attributes:
        sampled: Alias → kind → requests that were copied to their end and handed on.
        skipped: Reason → requests that were picked and are no pair: `status`, `client_gone`, `failed`,
            `too_large`, `several_prompts`.
        dropped: Reason → copies that were lost: `queue_full`, `bug`; in the node `held_full`, `store_away`,
            `store_full`, `policy_changed`, `redactor_failed`, `redactor_disabled`, `not_redactable`, `unclaimed`.
        stored: Copies that the store has, or the memory of this gateway where nothing may be stored.
        redacted: Copies whose texts were changed first.
        feedback: Outcome → words of callers: `attached`, `unknown_request`, `not_yours`, `dropped`.
    """

    sampled: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    stored: int = 0
    redacted: int = 0
    feedback: dict[str, int] = msgspec.field(default_factory=dict)

    def sample(self, alias: str, kind: str) -> None:
        """Count a copy that was handed on."""
        kinds = self.sampled.setdefault(alias, {})
        kinds[kind] = kinds.get(kind, 0) + 1

    def skip(self, reason: str) -> None:
        """Count a request that was picked and is no pair."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def drop(self, reason: str, number: int = 1) -> None:
        """Count copies that were lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    def hear(self, outcome: str) -> None:
        """Count feedback."""
        self.feedback[outcome] = self.feedback.get(outcome, 0) + 1

    def add(self, other: "MirrorCounts") -> None:
        """Add another process's counts."""
        for alias, kinds in other.sampled.items():
            mine = self.sampled.setdefault(alias, {})
            for kind, count in kinds.items():
                mine[kind] = mine.get(kind, 0) + count
        for name in ("skipped", "dropped", "feedback"):
            counts: dict[str, int] = getattr(self, name)
            for reason, count in getattr(other, name).items():
                counts[reason] = counts.get(reason, 0) + count
        self.stored += other.stored
        self.redacted += other.redacted


def added_up(counts: Iterable[MirrorCounts]) -> MirrorCounts:
    """Return the sum over processes; what is given stays as it is."""
    total = MirrorCounts()
    for each in counts:
        total.add(each)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReading:
    """The mirror at one moment: sums over this gateway, and what it holds in memory."""

    counts: MirrorCounts = field(default_factory=MirrorCounts)
    held_items: int = 0
    held_bytes: int = 0
