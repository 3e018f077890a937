"""The node's side of the mirror: what workers have copied becomes samples, redacted and then stored, in threads.

Bounded in items and bytes. While the store is away copies wait here for a while; what does not
fit, or waits too long, is dropped and counted. Nothing here is on the path of a request.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from msgspec import structs

from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest, NoPair, sample_of
from gateway.mirror.faults import told
from gateway.mirror.memory_queue import InMemorySamples
from gateway.mirror.redactor_process import Redacting
from gateway.mirror.redactors import NotRedacted
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.routes import MirrorPolicy
from gateway.records.sample import Sample
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# Samples of one transaction.
BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 4 * 1024 * 1024
# The store is tried again so often while it is away.
RETRY_SECONDS: Final = 1.0


class Shelf(Protocol):
    """Where samples are stored: `gateway.store.samples.Samples`."""

    def put(self, samples: Sequence[Sample], retention_seconds: float) -> int:
        """Store samples; returns how many of the last ones were refused for want of room."""


class _Clean(NamedTuple):
    """What may be stored: since when it waits (monotonic seconds), and how long it is to be kept."""

    since: float
    sample: Sample
    retention_seconds: int
    redact: tuple[str, ...]


class MirrorIntake:
    """Takes samples over from workers, and puts them where evaluators find them.

    Args:
        shelf: The store's samples.
        straight: The memory for those that may not be stored.
        policy_of: Returns an alias's policy as it is now; None if there is no such alias.
        bounds: What may be held here.
        clock: Unix seconds.
        retry_seconds: How soon the store is tried again while it is away.
        redacting: Who redacts; one of its own unless given.
    """

    def __init__(
        self,
        shelf: Shelf,
        straight: InMemorySamples,
        policy_of: Callable[[str], MirrorPolicy | None],
        bounds: Bounds,
        clock: Callable[[], float],
        retry_seconds: float = RETRY_SECONDS,
        redacting: Redacting | None = None,
    ) -> None:
        self.redacting = redacting or Redacting()
        self.counts = MirrorCounts()
        self.straight = straight
        self._shelf = shelf
        self._policy_of = policy_of
        self._bounds = bounds
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._arrived: deque[CapturedRequest] = deque()
        self._to_store: deque[_Clean] = deque()  # the oldest first
        self._items = 0  # everywhere in here
        self._bytes = 0
        self._has_come = asyncio.Event()
        self._has_clean = asyncio.Event()
        self._is_away = False
        self._told: set[str] = set()

    @property
    def held(self) -> tuple[int, int]:
        """Samples that wait here, and their bytes; those in the memory for evaluators included."""
        return self._items + len(self.straight), self._bytes + self.straight.bytes

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        """Take copies over; never waits, never raises."""
        for taken in copies:
            if self._items >= self._bounds.held_items or self._bytes + taken.size > self._bounds.held_bytes:
                self.counts.drop("held_full")
                continue
            self._arrived.append(taken)
            self._items += 1
            self._bytes += taken.size
        self._has_come.set()

    async def run(self) -> None:
        """Put samples where they belong, until cancelled."""
        await asyncio.gather(
            self._keep_on(self._has_come, self._arrived, self._clean_batch),
            self._keep_on(self._has_clean, self._to_store, self._store_batch),
        )

    async def _keep_on(self, has_come: asyncio.Event, queue: deque[Any], step: Callable[[], Awaitable[object]]) -> None:
        while True:
            if not queue:
                has_come.clear()
                await has_come.wait()
            try:
                await step()
            except Exception as error:  # noqa: BLE001 (the next batch gets its chance)
                self._fault(error)
                await asyncio.sleep(self._retry_seconds)

    def _fault(self, error: Exception) -> None:
        self.counts.drop("bug")
        self._tell("bug", "copies could not be placed, and no caller noticed; this is a bug: %s", told(error))

    async def finish(self, seconds: float) -> None:
        """Store what still waits, for so long: the gateway ends. Call when `run` has ended."""
        deadline = time.monotonic() + seconds
        try:
            while self._arrived and time.monotonic() < deadline:
                await self._clean_batch()
            while self._to_store and time.monotonic() < deadline and await self._put():
                pass
        except Exception as error:  # noqa: BLE001 (the rest of the gateway has to be stopped all the same)
            self._fault(error)

    # First: whose policy holds now, and what must not be kept?

    async def _clean_batch(self) -> None:
        batch: list[tuple[CapturedRequest, MirrorPolicy]] = []
        arrived = [self._arrived.popleft() for _ in range(min(len(self._arrived), BATCH_ITEMS))]
        try:
            for taken in arrived:
                policy = self._policy_of(taken.alias)
                if policy is None or policy.capture == "off":
                    self.counts.drop("policy_changed")
                else:
                    batch.append((taken, policy))
            for sample, policy in await asyncio.to_thread(self._cleaned, batch):
                self._place(sample, policy)
        except asyncio.CancelledError:  # the gateway ends: `finish` goes on with them
            self._arrived.extendleft(reversed(arrived))
            raise
        except BaseException:  # whatever it was, they are no longer held; the error goes on to the fence in `_keep_on`
            self._let_go(arrived)
            raise
        self._let_go(arrived)

    def _let_go(self, what: Iterable[CapturedRequest | Sample]) -> None:
        for each in what:
            self._items -= 1
            self._bytes -= each.size

    def _place(self, sample: Sample, policy: MirrorPolicy) -> None:
        if sample.capture == "metrics_only":
            if self.straight.put(sample):
                self.counts.stored += 1
            else:
                self.counts.drop("held_full")
            return
        retention = policy.retention_seconds
        seconds = self._bounds.retention_seconds if retention is None else retention
        self._items += 1
        self._bytes += sample.size
        self._to_store.append(_Clean(time.monotonic(), sample, seconds, policy.redact))
        self._has_clean.set()

    def _cleaned(self, batch: Sequence[tuple[CapturedRequest, MirrorPolicy]]) -> list[tuple[Sample, MirrorPolicy]]:
        """Return samples as they may be kept, in the order given; runs in a thread."""
        kept: list[tuple[Sample, MirrorPolicy]] = []
        for taken, policy in batch:
            try:
                at = self._clock() - (time.monotonic() - taken.ended_at)
                sample = sample_of(taken, secrets.token_hex(16), at)
                clean = self.redacting.sample(sample, policy.redact)
            except NoPair as no_pair:
                self.counts.skip(no_pair.reason)
            except NotRedacted as error:
                self.counts.drop(error.reason)
                self._tell(f"{error.reason} {error}", "copies of `%s` are dropped: %s", taken.alias, str(error))
            except Exception as error:  # noqa: BLE001 (what nobody has looked into is not kept)
                self.counts.drop("bug")
                self._tell("bug", "a copy could not be made, and no caller noticed; this is a bug: %s", told(error))
            else:
                self.counts.redacted += clean is not sample
                if policy.capture == "metrics_only":  # it may be stricter now than it was
                    clean = structs.replace(clean, capture="metrics_only")
                kept.append((clean, policy))
        return kept

    # Then: into the store

    async def _store_batch(self) -> None:
        if await self._put():
            return
        oldest = time.monotonic() - self._bounds.held_seconds
        while self._to_store and self._to_store[0].since <= oldest:
            self._let_go([self._to_store.popleft().sample])
            self.counts.drop("store_away")
        await asyncio.sleep(self._retry_seconds)

    async def _put(self) -> bool:
        """Store the oldest samples of one retention; returns False if the store is away."""
        known: dict[str, MirrorPolicy | None] = {}
        while self._to_store and not self._may_be_stored(self._to_store[0], known):
            self._let_go([self._to_store.popleft().sample])
            self.counts.drop("policy_changed")
        if not self._to_store:
            return True
        seconds = self._to_store[0].retention_seconds
        batch: list[Sample] = []
        size = 0
        for each in self._to_store:
            is_full = len(batch) >= BATCH_ITEMS or size > BATCH_BYTES
            if is_full or each.retention_seconds != seconds or not self._may_be_stored(each, known):
                break
            batch.append(each.sample)
            size += each.sample.size
        try:
            refused = await asyncio.to_thread(self._shelf.put, batch, seconds)
        except StoreError as error:
            if not self._is_away:
                self._is_away = True
                log.warning("copies of requests wait: %s", error)
            return False
        except Exception:  # or these would be tried for ever; the error goes on to the fence in `_keep_on`
            self._let_go(self._to_store.popleft().sample for _ in batch)
            raise
        self._is_away = False
        self._let_go(self._to_store.popleft().sample for _ in batch)
        self.counts.stored += len(batch) - refused
        if refused:
            self.counts.drop("store_full", refused)
        return True

    def _may_be_stored(self, clean: _Clean, known: dict[str, MirrorPolicy | None]) -> bool:
        """Whether the alias's policy allows it still: it may have waited for the store; `known` are those asked for."""
        alias = clean.sample.alias
        if alias not in known:
            known[alias] = self._policy_of(alias)
        policy = known[alias]
        return policy is not None and policy.capture == "full" and set(policy.redact) <= set(clean.redact)

    def _tell(self, what: str, message: str, *values: str) -> None:
        """Log a kind of trouble once."""
        if what not in self._told and len(self._told) < 100:
            self._told.add(what)
            log.warning(message, *values)
