"""The evaluator's loop with a source in memory: a store that is away, a lost lease, a bug, a stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import pytest

from evaluators.observation import Kind, ScoredPair
from gateway.evaluate.counts import OwnCounts
from gateway.evaluate.evaluate_sample import Completed, Returned
from gateway.evaluate.loop import Loop
from gateway.records.sample import Sample
from gateway.store.errors import StoreUnavailable
from tests.support.patience import PATIENCE_SECONDS

SECRET = "what somebody wrote"


def a_sample(number: int, alias: str = "support") -> Sample:
    return Sample(
        id=f"{number:032x}",
        request_id="r",
        alias=alias,
        kind="candidate",
        control="a",
        other="b",
        served="control",
        capture="full",
        endpoint="/v1/completions",
        body=b"{}",
        reply=b"{}",
    )


def done(sample: Sample) -> Completed:
    judged = ScoredPair(sample=sample.id, alias=sample.alias, kind=Kind.CANDIDATE, control="a", other="b")
    return Completed(scored_pair=judged, tokens=5)


@dataclass
class Memory:
    """A source; `away` counts the calls that fail from now on, `lost` the samples that are another's."""

    waiting: list[Sample]
    away: int = 0
    lost: set[str] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)
    back: list[tuple[str, str, float | None]] = field(default_factory=list)

    def _check(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the store is away")

    def claim(self, most: int, skipping: Collection[str]) -> list[Sample]:
        self._check()
        found = [each for each in self.waiting if each.alias not in skipping][:most]
        self.waiting = [each for each in self.waiting if each not in found]
        return found

    def extend(self, ids: Collection[str]) -> set[str]:
        return set(ids) - self.lost

    def finish(self, judged: ScoredPair, tokens: int) -> bool:
        assert tokens == 5
        self._check()
        if judged.sample in self.lost:
            return False
        self.finished.append(judged.sample)
        return True

    def give_up(self, sample: Sample, reason: str, again_after_seconds: float | None, tokens: int) -> bool:
        self.back.append((sample.id, reason, again_after_seconds))
        return True


def ran(
    source: Memory,
    evaluate: Callable[[Sample], Awaitable[Completed | Returned]],
    until: Callable[[OwnCounts], bool],
    *,
    lease: float = 60.0,
    drain: float = 0.0,
    at_once: int = 2,
) -> OwnCounts:
    """Run a loop until its counts say so."""
    counts = OwnCounts("test")

    async def work() -> None:
        stop = asyncio.Event()
        loop = Loop((source,), evaluate, counts, at_once=at_once, lease_seconds=lease, now=lambda: 0.0)
        running = asyncio.ensure_future(loop.run(stop, drain))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not until(counts):
                await asyncio.sleep(0.005)
        stop.set()
        await running

    asyncio.run(work())
    return counts


async def at_once(sample: Sample) -> Completed:
    return done(sample)


def test_every_sample_is_finished_once() -> None:
    source = Memory([a_sample(number) for number in range(20)])
    counts = ran(source, at_once, lambda counts: counts.completed == 20)
    assert sorted(source.finished) == [a_sample(number).id for number in range(20)]
    assert counts.record({})["replay_tokens"] == 100


def test_a_store_that_is_away_is_told_when_it_is_back() -> None:
    source = Memory([a_sample(1)], away=1)
    before: list[int] = []

    async def then_away(sample: Sample) -> Completed:
        before.append(source.away)
        source.away = 1
        return done(sample)

    counts = ran(source, then_away, lambda counts: counts.completed == 1)
    assert before == [0]
    assert source.finished == [a_sample(1).id]
    assert counts.lost == 0


def test_what_is_another_evaluators_by_now_is_dropped() -> None:
    source = Memory([a_sample(1)], lost={a_sample(1).id})
    ended: list[str] = []

    async def never(sample: Sample) -> Completed:
        try:
            await asyncio.sleep(10 * PATIENCE_SECONDS)
        finally:
            ended.append(sample.id)
        return done(sample)

    counts = ran(source, never, lambda counts: counts.lost == 1, lease=0.05)
    assert ended == [a_sample(1).id]
    assert (source.finished, source.back, counts.completed) == ([], [], 0)


def test_a_bug_of_ours_ends_one_sample_and_tells_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    source = Memory([a_sample(1), a_sample(2)])

    async def broken(sample: Sample) -> Completed:
        if sample.id == a_sample(1).id:
            raise KeyError(SECRET)
        return done(sample)

    with caplog.at_level(logging.DEBUG):
        counts = ran(source, broken, lambda counts: counts.completed == 1 and bool(counts.failed))
    assert counts.failed == {"bug:KeyError": 1}
    assert source.back == [(a_sample(1).id, "bug:KeyError", None)]
    assert "KeyError at " in caplog.text
    assert SECRET not in caplog.text


def test_a_store_that_is_away_in_the_middle_gives_the_sample_back() -> None:
    source = Memory([a_sample(1)])

    async def away(_: Sample) -> Completed:
        raise StoreUnavailable("the store is away")

    ran(source, away, lambda _: bool(source.back))
    assert source.back[0][1:] == ("store_away", 10.0)


def test_an_alias_that_has_to_wait_does_not_hold_up_others() -> None:
    source = Memory(
        [*(a_sample(number, "waits") for number in range(5)), *(a_sample(number) for number in range(5, 10))]
    )

    async def by_alias(sample: Sample) -> Completed | Returned:
        return Returned(reason="budget", again_after_seconds=60.0) if sample.alias == "waits" else done(sample)

    counts = ran(source, by_alias, lambda counts: counts.completed == 5)
    assert counts.shed["budget"] <= 2  # what was claimed before it was known
    assert len(source.waiting) >= 3


def test_at_a_stop_what_is_nearly_done_is_finished_and_the_rest_given_back() -> None:
    source = Memory([a_sample(1), a_sample(2), a_sample(3)])

    nearly_done = asyncio.Event()

    async def slow(sample: Sample) -> Completed:
        if sample.id != a_sample(1).id:
            await asyncio.sleep(10 * PATIENCE_SECONDS)
        await nearly_done.wait()
        return done(sample)

    def both_run(counts: OwnCounts) -> bool:
        if counts.running == 2:
            asyncio.get_running_loop().call_later(0.05, nearly_done.set)  # after the stop
        return counts.running == 2

    ran(source, slow, both_run, drain=2.0)
    assert source.finished == [a_sample(1).id]
    assert source.back == [(a_sample(2).id, "stopped", 0.0)]
    assert source.waiting == [a_sample(3)]  # nothing more is claimed


def test_what_the_store_cannot_take_gives_its_place_back() -> None:
    class Picky(Memory):
        def finish(self, judged: ScoredPair, tokens: int) -> bool:
            if judged.sample == a_sample(1).id:
                raise ValueError(SECRET)
            return super().finish(judged, tokens)

    source = Picky([a_sample(number) for number in range(1, 4)])
    counts = ran(source, at_once, lambda counts: counts.completed == 2 and not counts.running, at_once=1)
    assert counts.failed == {"bug:ValueError": 1}
    assert source.back == [(a_sample(1).id, "not_storable", None)]
