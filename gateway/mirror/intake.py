"""The node's side of the mirror: captured requests become samples, which are redacted and then stored, in threads.

Bounded in items and bytes. While the store is away, samples wait here for a while; those that do not fit or wait too
long are dropped and counted. None of this is on the path of a request.
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
from gateway.mirror.faults import safe_traceback
from gateway.mirror.memory_queue import InMemorySamples
from gateway.mirror.redactor_process import RedactorRunner
from gateway.mirror.redactors import NotRedacted
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.routes import MirrorPolicy
from gateway.records.sample import Sample
from gateway.store.errors import StoreError

log = logging.getLogger("loragate.mirror")

# The bounds on one transaction.
BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 4 * 1024 * 1024
# The pause between tries while the store is away.
RETRY_SECONDS: Final = 1.0


class SampleStore(Protocol):
    """The store of samples; `gateway.store.samples.Samples` implements it."""

    def put(self, samples: Sequence[Sample], retention_seconds: float) -> int:
        """Store samples; returns how many of the last ones were refused for lack of room."""


class _Clean(NamedTuple):
    """A redacted sample that waits for the store: since when (monotonic seconds), and how long it is to be kept."""

    since: float
    sample: Sample
    retention_seconds: int
    redact: tuple[str, ...]


class MirrorIntake:
    """Takes captured requests from workers, and stores samples where evaluators claim them.

    Args:
        store: The store's samples.
        memory: Holds samples that may not be stored.
        policy_of: Returns an alias's current policy; None if there is no such alias.
        bounds: How many samples and bytes may be held here.
        clock: Unix seconds.
        retry_seconds: The pause between tries while the store is away.
        redactor: Redacts samples; a new one unless given.
    """

    def __init__(
        self,
        store: SampleStore,
        memory: InMemorySamples,
        policy_of: Callable[[str], MirrorPolicy | None],
        bounds: Bounds,
        clock: Callable[[], float],
        retry_seconds: float = RETRY_SECONDS,
        redactor: RedactorRunner | None = None,
    ) -> None:
        self.redactor = redactor or RedactorRunner()
        self.counts = MirrorCounts()
        self.memory = memory
        self._store = store
        self._policy_of = policy_of
        self._bounds = bounds
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._arrived: deque[CapturedRequest] = deque()
        self._to_store: deque[_Clean] = deque()  # the oldest first
        self._items = 0  # in both queues, and in the batch that is being redacted
        self._bytes = 0
        self._has_come = asyncio.Event()
        self._has_clean = asyncio.Event()
        self._is_away = False
        self._logged: set[str] = set()

    @property
    def held(self) -> tuple[int, int]:
        """Samples that wait here, and their bytes; those in memory for evaluators included."""
        return self._items + len(self.memory), self._bytes + self.memory.bytes

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        """Take captured requests from a worker. Never waits and never raises."""
        for captured in copies:
            if self._items >= self._bounds.held_items or self._bytes + captured.size > self._bounds.held_bytes:
                self.counts.drop("held_full")
                continue
            self._arrived.append(captured)
            self._items += 1
            self._bytes += captured.size
        self._has_come.set()

    async def run(self) -> None:
        """Redact and store samples, until cancelled."""
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
            except Exception as error:  # noqa: BLE001 (a fault in one batch must not stop the next)
                self._fault(error)
                await asyncio.sleep(self._retry_seconds)

    def _fault(self, error: Exception) -> None:
        self.counts.drop("bug")
        self._log_once(
            "bug", "copies could not be stored, and no caller noticed; this is a bug: %s", safe_traceback(error)
        )

    async def finish(self, seconds: float) -> None:
        """Store what still waits, for at most `seconds`, because the gateway stops. Call it when `run` has ended."""
        deadline = time.monotonic() + seconds
        try:
            while self._arrived and time.monotonic() < deadline:
                await self._clean_batch()
            while self._to_store and time.monotonic() < deadline and await self._put():
                pass
        except Exception as error:  # noqa: BLE001 (the rest of the gateway must still be stopped)
            self._fault(error)

    # Step 1: apply the alias's current policy, and redact.

    async def _clean_batch(self) -> None:
        batch: list[tuple[CapturedRequest, MirrorPolicy]] = []
        arrived = [self._arrived.popleft() for _ in range(min(len(self._arrived), BATCH_ITEMS))]
        try:
            for captured in arrived:
                policy = self._policy_of(captured.alias)
                if policy is None or policy.capture == "off":
                    self.counts.drop("policy_changed")
                else:
                    batch.append((captured, policy))
            for sample, policy in await asyncio.to_thread(self._redact_all, batch):
                self._place(sample, policy)
        except asyncio.CancelledError:  # the gateway stops: `finish` goes on with these
            self._arrived.extendleft(reversed(arrived))
            raise
        except BaseException:  # these are lost; `_keep_on` logs the error
            self._release(arrived)
            raise
        self._release(arrived)

    def _release(self, what: Iterable[CapturedRequest | Sample]) -> None:
        for each in what:
            self._items -= 1
            self._bytes -= each.size

    def _place(self, sample: Sample, policy: MirrorPolicy) -> None:
        if sample.capture == "metrics_only":
            if self.memory.put(sample):
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

    def _redact_all(self, batch: Sequence[tuple[CapturedRequest, MirrorPolicy]]) -> list[tuple[Sample, MirrorPolicy]]:
        """Return samples as they may be kept, in the order given; runs in a thread."""
        redacted: list[tuple[Sample, MirrorPolicy]] = []
        for captured, policy in batch:
            try:
                at = self._clock() - (time.monotonic() - captured.ended_at)
                sample = sample_of(captured, secrets.token_hex(16), at)
                clean = self.redactor.sample(sample, policy.redact)
            except NoPair as no_pair:
                self.counts.skip(no_pair.reason)
            except NotRedacted as error:
                self.counts.drop(error.reason)
                self._log_once(f"{error.reason} {error}", "copies of `%s` are dropped: %s", captured.alias, str(error))
            except Exception as error:  # noqa: BLE001 (a copy that was not redacted is not kept)
                self.counts.drop("bug")
                self._log_once(
                    "bug", "a copy could not be made, and no caller noticed; this is a bug: %s", safe_traceback(error)
                )
            else:
                self.counts.redacted += clean is not sample
                if policy.capture == "metrics_only":  # the policy may have become stricter since the capture
                    clean = structs.replace(clean, capture="metrics_only")
                redacted.append((clean, policy))
        return redacted

    # Step 2: store.

    async def _store_batch(self) -> None:
        if await self._put():
            return
        oldest = time.monotonic() - self._bounds.held_seconds
        while self._to_store and self._to_store[0].since <= oldest:
            self._release([self._to_store.popleft().sample])
            self.counts.drop("store_away")
        await asyncio.sleep(self._retry_seconds)

    async def _put(self) -> bool:
        """Store the oldest samples that share one retention; returns False if the store is away."""
        policies: dict[str, MirrorPolicy | None] = {}
        while self._to_store and not self._may_be_stored(self._to_store[0], policies):
            self._release([self._to_store.popleft().sample])
            self.counts.drop("policy_changed")
        if not self._to_store:
            return True
        seconds = self._to_store[0].retention_seconds
        batch: list[Sample] = []
        size = 0
        for each in self._to_store:
            is_full = len(batch) >= BATCH_ITEMS or size > BATCH_BYTES
            if is_full or each.retention_seconds != seconds or not self._may_be_stored(each, policies):
                break
            batch.append(each.sample)
            size += each.sample.size
        try:
            refused = await asyncio.to_thread(self._store.put, batch, seconds)
        except StoreError as error:
            if not self._is_away:
                self._is_away = True
                log.warning("copies of requests wait: %s", error)
            return False
        except Exception:  # drop these, or they would be tried for ever; `_keep_on` logs the error
            self._release(self._to_store.popleft().sample for _ in batch)
            raise
        self._is_away = False
        self._release(self._to_store.popleft().sample for _ in batch)
        self.counts.stored += len(batch) - refused
        if refused:
            self.counts.drop("store_full", refused)
        return True

    def _may_be_stored(self, clean: _Clean, policies: dict[str, MirrorPolicy | None]) -> bool:
        """Whether the alias's policy still allows it, since the sample may have waited. `policies` caches them."""
        alias = clean.sample.alias
        if alias not in policies:
            policies[alias] = self._policy_of(alias)
        policy = policies[alias]
        return policy is not None and policy.capture == "full" and set(policy.redact) <= set(clean.redact)

    def _log_once(self, what: str, message: str, *values: str) -> None:
        """Log a warning of the kind `what`, once."""
        if what not in self._logged and len(self._logged) < 100:
            self._logged.add(what)
            log.warning(message, *values)
