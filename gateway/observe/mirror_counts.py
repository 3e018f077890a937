"""Counts of request copies and of feedback, by outcome; each process counts, the control plane sums.

They are plain values that only their own process touches, like the cells of `ledger.py`. Reasons are a small fixed set
of our own words, so label values are bounded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec


class MirrorCounts(msgspec.Struct, gc=False, kw_only=True):
    """How many copies of requests were made, skipped, lost and stored.

    Attributes:
        sampled: Alias → kind → requests that were copied completely and sent to the node.
        skipped: Reason → requests that were chosen but cannot be compared: `status`, `client_gone`, `failed`,
            `too_large`, `several_prompts`.
        dropped: Reason → copies that were lost. In a worker: `queue_full`, `bug`. In the node: `held_full`,
            `store_away`, `store_full`, `policy_changed`, `redactor_failed`, `redactor_disabled`, `not_redactable`,
            `unclaimed`.
        stored: Copies in the store, or in this gateway's memory where the policy forbids storing them.
        redacted: Copies of which a redactor changed a text before they were kept.
        feedback: Outcome → feedback from callers: `attached`, `unknown_request`, `not_yours`, `dropped`.
    """

    sampled: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    stored: int = 0
    redacted: int = 0
    feedback: dict[str, int] = msgspec.field(default_factory=dict)

    def sample(self, alias: str, kind: str) -> None:
        """Count a copy that was sent to the node."""
        kinds = self.sampled.setdefault(alias, {})
        kinds[kind] = kinds.get(kind, 0) + 1

    def skip(self, reason: str) -> None:
        """Count a request that was chosen to be copied but cannot be compared."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def drop(self, reason: str, number: int = 1) -> None:
        """Count copies that were lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    def count_feedback(self, outcome: str) -> None:
        """Count one piece of feedback by its outcome."""
        self.feedback[outcome] = self.feedback.get(outcome, 0) + 1

    def add(self, other: "MirrorCounts") -> None:
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


def sum_copies(counts: Iterable[MirrorCounts]) -> MirrorCounts:
    """Return the sum over processes, as a new value."""
    total = MirrorCounts()
    for each in counts:
        total.add(each)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReading:
    """The mirror at one moment: counts summed over this gateway, and the copies that it holds in memory."""

    counts: MirrorCounts = field(default_factory=MirrorCounts)
    held_items: int = 0
    held_bytes: int = 0
