"""Samples whose texts may not be stored: kept in this gateway's memory, for its own evaluator.

Bounded: samples that do not fit are refused, those that no evaluator finishes in time are deleted, and all end with the
process. A claim is a lease, as in the store.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from gateway.records.sample import Sample

# A sample is given up after this many leases ran out: as many evaluators have died or hung while they had it.
MAX_DEATHS: Final = 3


@dataclass(slots=True)
class _Held:
    sample: Sample
    arrived: float
    holder: str = ""
    until: float = 0.0  # end of the claim, or, without a holder, when it may be claimed again
    claims: int = 0
    died: int = 0


class InMemorySamples:
    """A bounded queue of samples in memory; not thread-safe.

    Args:
        most_items, most_bytes: The bounds.
        keep_seconds: How long an unfinished sample is kept.
        now: Monotonic seconds.
    """

    def __init__(self, most_items: int, most_bytes: int, keep_seconds: float, now: Callable[[], float]) -> None:
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._keep_seconds = keep_seconds
        self._now = now
        self._held: dict[str, _Held] = {}  # the oldest first
        self.bytes = 0
        self.expired = 0  # samples since the start that no evaluator finished in time

    def __len__(self) -> int:
        return len(self._held)

    def put(self, sample: Sample) -> bool:
        """Add a sample; returns False if there is no room."""
        self._forget_old()
        if sample.id in self._held:
            return True
        if len(self._held) >= self._most_items or self.bytes + sample.size > self._most_bytes:
            return False
        self._held[sample.id] = _Held(sample, self._now())
        self.bytes += sample.size
        return True

    def claim(
        self, holder: str, most: int, lease_seconds: float, *, skipping: Collection[str] = ()
    ) -> list[tuple[Sample, int]]:
        """Claim the oldest samples that are not claimed, at most `most`; each comes with the number of its claim, from
        1.

        Args:
            holder: The evaluator's name.
            most: How many.
            lease_seconds: How long the claims last.
            skipping: Aliases to leave out, such as those whose budget is spent.
        """
        self._forget_old()
        now = self._now()
        found: list[tuple[Sample, int]] = []
        for held in list(self._held.values()):
            if len(found) >= most:
                break
            if held.until > now or held.sample.alias in skipping:
                continue
            if held.holder:  # its claim has run out
                held.holder, held.died = "", held.died + 1
                if held.died >= MAX_DEATHS:
                    self._forget(held.sample.id)
                    self.expired += 1
                    continue
            held.holder, held.until, held.claims = holder, now + lease_seconds, held.claims + 1
            found.append((held.sample, held.claims))
        return found

    def extend(self, holder: str, ids: Collection[str], seconds: float) -> set[str]:
        """Let claims end `seconds` from now; returns the ids whose claims the holder still has."""
        now = self._now()
        ours = {each for each in ids if (held := self._held.get(each)) is not None and self._is_of(held, holder, now)}
        for each in ours:
            self._held[each].until = now + seconds
        return ours

    def finish(self, sample_id: str, holder: str | None = None) -> bool:
        """Delete a sample that was evaluated; returns False if the holder's claim has ended, or there is no such
        sample.

        Args:
            sample_id: The sample.
            holder: The evaluator's name; None for whichever has the claim.
        """
        held = self._held.get(sample_id)
        if held is None or not self._is_of(held, holder, self._now()):
            return False
        self._forget(sample_id)
        return True

    def give_up(self, sample_id: str, holder: str | None = None, *, again_after_seconds: float | None = None) -> bool:
        """Give a claimed sample back: it can be claimed again after so many seconds, or never with None."""
        held = self._held.get(sample_id)
        if held is None or not self._is_of(held, holder, self._now()):
            return False
        if again_after_seconds is None:
            self._forget(sample_id)
        else:
            held.holder, held.until = "", self._now() + again_after_seconds
        return True

    @staticmethod
    def _is_of(held: _Held, holder: str | None, now: float) -> bool:
        return bool(held.holder) and held.until > now and holder in (None, held.holder)

    def _forget(self, sample_id: str) -> None:
        self.bytes -= self._held.pop(sample_id).sample.size

    def _forget_old(self) -> None:
        oldest = self._now() - self._keep_seconds
        for sample_id, held in list(self._held.items()):
            if held.arrived >= oldest:
                return
            if not held.holder or held.until <= self._now():
                self._forget(sample_id)
                self.expired += 1
