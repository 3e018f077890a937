"""Evaluate up to N samples at once: claim each, renew its lease, and finish it exactly once.

While the store is away, results are kept and sent again. On a stop, running samples are finished within a bound.
Nothing is lost when this process dies: its leases run out and other evaluators claim the samples. The store decides
whether a claim still holds; the result of a sample that another evaluator has claimed meanwhile is dropped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from gateway.evaluate.counts import OwnCounts
from gateway.evaluate.evaluate_sample import Completed, Returned
from gateway.evaluate.sources import SampleSource
from gateway.records.sample import Sample
from gateway.store.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("loragate.evaluate")

# The pause between two claims while there is no work; a claim on an empty queue reads one index.
IDLE_SECONDS: Final = 0.5
# Reason → seconds for which no samples of an alias are claimed after one was given back for this reason, which is not
# the sample's fault. Otherwise its samples would be claimed and given back over and over, and hold up other aliases.
_SHED: Final = {
    "queue": 1.0,
    "kv_cache": 1.0,
    "running": 1.0,
    "engine_tokens": 1.0,
    "engine_down": 2.0,
    "no_engine": 5.0,
    "budget": 30.0,
}
_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 10.0
# Renewals in the time of one lease, so that two in a row may fail.
_RENEWALS: Final = 3
# The errors of a store or a node that is away.
AWAY: Final = (StoreError, OSError)


@dataclass(slots=True)
class _Held:
    sample: Sample
    source: SampleSource
    task: asyncio.Task[None] | None = field(default=None)


class Loop:
    """One evaluator's loop.

    Args:
        sources: Where samples come from, in order of preference.
        evaluate: Evaluates one sample.
        counts: The evaluator's counts.
        at_once: How many samples are evaluated at a time.
        lease_seconds: How long a claim lasts.
        now: Unix seconds.
    """

    def __init__(
        self,
        sources: tuple[SampleSource, ...],
        evaluate: Callable[[Sample], Awaitable[Completed | Returned]],
        counts: OwnCounts,
        *,
        at_once: int,
        lease_seconds: float,
        now: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._evaluate = evaluate
        self._counts = counts
        self._at_once = at_once
        self._lease = lease_seconds
        self._now = now
        self._held: dict[str, _Held] = {}
        self._has_room = asyncio.Event()
        self._skipped: dict[str, float] = {}  # alias → until when none of its samples are claimed
        # One thread, so that this evaluator's additions to its spent tokens do not run against each other.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluate-store")

    async def run(self, stop: asyncio.Event, drain_seconds: float) -> None:
        """Evaluate until `stop` is set; then finish running samples for at most `drain_seconds`."""
        holding = asyncio.ensure_future(self._hold())
        try:
            while not stop.is_set():
                if holding.done():
                    holding.result()  # a bug: end, and be restarted, rather than lose every lease
                await self._fill(stop)
            await self._drain(drain_seconds)
        finally:
            holding.cancel()
            for held in self._held.values():
                if held.task is not None:
                    held.task.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _fill(self, stop: asyncio.Event) -> None:
        pause = 0.0
        free = self._at_once - len(self._held)
        if free:
            claimed = 0
            for source in self._sources:
                claimed += await self._claim(source, free - claimed)
            pause = 0.0 if claimed else IDLE_SECONDS
            if claimed and len(self._held) < self._at_once:
                return
        self._has_room.clear()
        waits = [asyncio.ensure_future(stop.wait())]
        if not pause:  # every place is taken: wait until one is free
            waits.append(asyncio.ensure_future(self._has_room.wait()))
        await asyncio.wait(waits, timeout=pause or None, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _claim(self, source: SampleSource, most: int) -> int:
        if most <= 0:
            return 0
        now = asyncio.get_running_loop().time()
        self._skipped = {alias: until for alias, until in self._skipped.items() if until > now}
        try:
            samples = await self._in_thread(source.claim, most, tuple(self._skipped))
        except AWAY as error:
            log.debug("samples cannot be claimed now: %s", error)
            return 0
        for sample in samples:
            held = self._held[sample.id] = _Held(sample, source)
            held.task = asyncio.ensure_future(self._work(held))
        self._counts.running = len(self._held)
        return len(samples)

    async def _work(self, held: _Held) -> None:
        sample = held.sample
        try:
            outcome = await self._evaluate(sample)
        except AWAY:
            outcome = Returned(reason="store_away", again_after_seconds=_MAX_PAUSE)
        except Exception as error:  # noqa: BLE001  # one sample that cannot be evaluated must not end the others
            # Only the error's type and place are logged: its message may quote a caller.
            log.error("sample %s cannot be evaluated: %s at %s", sample.id, type(error).__name__, _place_of(error))
            outcome = Returned(reason=f"bug:{type(error).__name__}", again_after_seconds=None)
        try:
            await self._settle(held, outcome)
        except Exception as error:  # noqa: BLE001  # a result that cannot be stored must not keep its place for ever
            log.error("sample %s cannot be stored: %s at %s", sample.id, type(error).__name__, _place_of(error))
            self._counts.failed[f"bug:{type(error).__name__}"] += 1
            with contextlib.suppress(Exception):  # if this fails, its lease runs out
                await self._report(partial(held.source.give_up, sample, "not_storable", None, 0))
        self._forget(sample.id)

    async def _settle(self, held: _Held, outcome: Completed | Returned) -> None:
        sample, counts = held.sample, self._counts
        if isinstance(outcome, Completed):
            counts.replay_tokens += outcome.tokens
            if await self._report(partial(held.source.finish, outcome.scored_pair, outcome.tokens)):
                counts.completed += 1
                counts.lag_seconds = max(0.0, self._now() - sample.at)
            else:
                counts.lost += 1
            return
        counts.replay_tokens += outcome.tokens
        again = outcome.again_after_seconds
        if outcome.reason in _SHED:
            counts.shed[outcome.reason] += 1
            self._skipped[sample.alias] = asyncio.get_running_loop().time() + _SHED[outcome.reason]
        if again is None:
            counts.failed[outcome.reason] += 1
            log.info("sample %s is given up: %s", sample.id, outcome.reason)
        await self._report(partial(held.source.give_up, sample, outcome.reason, again, outcome.tokens))

    async def _report(self, send: Callable[[], bool]) -> bool:
        """Call `send`, which reports to a sample's source, until the source answers; False if the claim was lost."""
        loop = asyncio.get_running_loop()
        pause, deadline = _FIRST_PAUSE, loop.time() + 2 * self._lease
        while True:
            try:
                return await self._in_thread(send)
            except AWAY as error:
                if loop.time() + pause > deadline:  # the lease has run out by then
                    log.warning("the result of a sample is lost, as it could not be stored in time: %s", error)
                    return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            for source in self._sources:
                held = {each.sample.id: each for each in self._held.values() if each.source is source}
                if not held:
                    continue
                try:
                    ours = await self._in_thread(source.extend, tuple(held))
                except AWAY:
                    continue  # the store checks each claim again when its sample is finished
                for lost in held.keys() - ours:
                    self._lose(lost)

    def _lose(self, sample_id: str) -> None:
        held = self._held.get(sample_id)
        if held is None or held.task is None:
            return  # it was finished meanwhile
        log.info("sample %s is dropped: its lease ran out, and another evaluator may have claimed it", sample_id)
        self._counts.lost += 1
        held.task.cancel()
        self._forget(sample_id)

    async def _drain(self, seconds: float) -> None:
        running = [held.task for held in self._held.values() if held.task is not None]
        if running:
            await asyncio.wait(running, timeout=seconds)
        for held in list(self._held.values()):  # given back, so that others can claim it before the lease runs out
            if held.task is not None:
                held.task.cancel()
            with contextlib.suppress(*AWAY):
                await self._in_thread(partial(held.source.give_up, held.sample, "stopped", 0.0, 0))

    def _forget(self, sample_id: str) -> None:
        self._held.pop(sample_id, None)
        self._counts.running = len(self._held)
        self._has_room.set()

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _place_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
