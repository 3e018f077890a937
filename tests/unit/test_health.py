"""An engine's standing with a worker: ejected, tried again, back; and the worker's book of it."""

import asyncio
from collections.abc import Callable
from time import monotonic

import msgspec
import pytest

from gateway.decide.health import (
    WELL,
    EngineFailure,
    EngineStanding,
    Health,
    Rules,
    after_failure,
    after_pause,
    after_success,
)
from gateway.decide.route import EngineState, RouteTable
from gateway.observe.engine_counts import PlacementCounts, sum_placements
from gateway.openai.body import read
from gateway.openai.prefix import MAX_OPENING_BYTES, prefix_key
from gateway.ports import Link, Outgoing, Reader
from gateway.receive.limits import Limits
from gateway.receive.placing import Placing
from gateway.receive.queueing import Line, Queue
from gateway.workers.rate_sync import share_of

RULES = Rules(failures=3, pause_seconds=5, longest_pause_seconds=15)


def after_failures(
    count: int, health: Health = WELL, now: float = 10.0, why: EngineFailure = EngineFailure.STATUS
) -> Health:
    for _ in range(count):
        health = after_failure(health, why, RULES, sent_at=now, now=now)
    return health


def test_so_many_failures_in_a_row_eject_and_one_less_does_not() -> None:
    assert after_failures(2).standing is EngineStanding.CLOSED
    ejected = after_failures(3)
    assert (ejected.standing, ejected.since, ejected.pause_seconds) == (EngineStanding.EJECTED, 10.0, 5)
    between = after_success(after_failures(2), sent_at=10, now=10)
    assert after_failures(2, between).standing is EngineStanding.CLOSED
    assert after_failures(3, between).standing is EngineStanding.EJECTED


def test_silence_ejects_at_once() -> None:
    assert after_failures(1, why=EngineFailure.SILENCE).standing is EngineStanding.EJECTED


def test_a_pause_that_is_over_is_followed_by_one_try() -> None:
    ejected = after_failures(3)
    assert after_pause(ejected, 14.9) is ejected
    half_open = after_pause(ejected, 15.0)
    assert (half_open.standing, half_open.since) == (EngineStanding.HALF_OPEN, 15.0)
    assert after_success(half_open, sent_at=15, now=16) == Health(since=16)
    assert after_pause(half_open, 99.0) is half_open
    assert after_pause(WELL, 99.0) is WELL


def test_each_failed_try_doubles_the_pause_up_to_the_longest() -> None:
    health, pauses, now = after_failures(3), [], 10.0
    for _ in range(4):
        pauses.append(health.pause_seconds)
        now += health.pause_seconds
        health = after_failure(after_pause(health, now), EngineFailure.LOST, RULES, sent_at=now, now=now)
    assert pauses == [5, 10, 15, 15]
    back = after_success(after_pause(health, 1000), sent_at=1000, now=1000)
    assert after_failures(3, back, 1000).pause_seconds == 5


def test_what_was_sent_before_says_nothing_of_now() -> None:
    ejected = after_failures(3)
    assert after_failure(ejected, EngineFailure.LOST, RULES, sent_at=11, now=12) is ejected
    assert after_success(ejected, sent_at=9, now=12) is ejected
    half_open = after_pause(ejected, 15)
    assert after_failure(half_open, EngineFailure.LOST, RULES, sent_at=14, now=16) is half_open
    assert after_success(half_open, sent_at=14, now=16) is half_open


def test_an_ejected_engine_that_serves_when_no_other_was_left_is_back() -> None:
    assert after_success(after_failures(3), sent_at=11, now=12).standing is EngineStanding.CLOSED


# The worker's book


class Heard:
    """Engines as far as their silence is known."""

    in_flight: dict[str, int]

    def __init__(self, **heard_at: float) -> None:
        self.in_flight = {}
        self.heard_at = heard_at

    def send(self, url: str, request: Outgoing, reader: Reader) -> Link:
        raise AssertionError("nothing is sent here")


def ejected_from(placing: Placing) -> list[str]:
    """The engines that get nothing now, by the terms of a one-engine table."""
    return sorted(placing.terms(None, RouteTable()).ejected)  # type: ignore[arg-type]


def test_a_half_open_engine_gets_one_request_at_a_time() -> None:
    placing = Placing(Limits(eject_failures=1, eject_seconds=5))
    placing.on_failure("a", EngineFailure.LOST, 1e12)
    assert ejected_from(placing) == ["a"]
    placing.tick(1e12)
    assert ejected_from(placing) == []
    first, second = object(), object()
    placing.on_sent("a", first)
    placing.on_sent("a", second)  # one that no other engine was left for
    assert ejected_from(placing) == ["a"]
    placing.on_abandoned("a", second)
    assert ejected_from(placing) == ["a"]
    placing.on_abandoned("a", first)  # its client left: another may try
    assert ejected_from(placing) == []
    placing.on_sent("a", second)
    placing.on_success("a", 2e12)
    assert ejected_from(placing) == []
    assert msgspec.to_builtins(placing.counts.engines["a"]) == {
        "ejections": {"lost": 1},
        "ejected_now": 0,
        "returns": 1,
        "faults": 0,
    }


def test_an_engine_that_comes_up_again_begins_anew() -> None:
    placing = Placing(Limits(eject_failures=1))
    placing.on_failure("a", EngineFailure.CONNECTION, 1e12)
    for is_up, ejected in ((True, ["a"]), (False, ["a"]), (True, [])):
        placing.on_table(RouteTable(engines=(EngineState(url="a", is_up=is_up),)))
        assert ejected_from(placing) == ejected


@pytest.mark.parametrize(
    ("waited", "silent", "is_stream", "is_stuck"),
    [
        (59, 99, True, False),
        (60, 59, True, False),
        (60, 60, True, True),
        (60, 99, False, False),
        (300, 300, False, True),
    ],
)
def test_an_engine_is_stuck_when_something_was_due_and_nothing_came(
    waited: float, silent: float, is_stream: bool, is_stuck: bool
) -> None:
    placing, now = Placing(Limits(engine_silent_seconds=60)), 1e12
    engines = Heard(a=now - silent)
    assert placing.is_stuck("a", engines, waited, now, is_stream=is_stream) is is_stuck
    assert placing.is_stuck("a", engines, 0, now, is_stream=is_stream) is is_stuck  # younger ones move as well
    assert ejected_from(placing) == (["a"] if is_stuck else [])


def test_what_has_waited_since_before_a_pause_does_not_bring_about_the_next() -> None:
    placing, engines, now = Placing(Limits(eject_seconds=5)), Heard(a=0.0), monotonic() + 100
    assert placing.is_stuck("a", engines, 60, now, is_stream=True)
    placing.tick(now + 5)
    assert placing.is_stuck("a", engines, 65, now + 5, is_stream=True)
    assert ejected_from(placing) == []


def test_counts_of_workers_add_up_and_what_held_for_the_moment_ends_with_its_worker() -> None:
    ended, running = PlacementCounts(queued_now=3), PlacementCounts(queued_now=1)
    for counts in (ended, running):
        counts.count_ejection("a", "status")
        counts.count_refusal("full")
        counts.observe_queue_wait(0.3)
    ended.forget_now()
    total = sum_placements([ended, running])
    assert (total.queued_now, total.refused, sum(total.queue_wait.counts)) == (1, {"full": 2}, 2)
    assert msgspec.to_builtins(total.engines["a"]) == {
        "ejections": {"status": 2},
        "ejected_now": 1,
        "returns": 0,
        "faults": 0,
    }


def test_the_cap_of_a_gateway_is_shared_out_among_its_workers() -> None:
    shares = [share_of(Limits(engine_concurrency=10), place, 4).engine_concurrency for place in range(4)]
    assert shares == [3, 3, 2, 2]
    assert share_of(Limits(engine_concurrency=1), 3, 4).engine_concurrency == 1
    assert share_of(Limits(), 0, 4).engine_concurrency == 0
    with pytest.raises(ValueError, match="engine_concurrency is `-1`"):
        Limits(engine_concurrency=-1)


# The queue


class Waiter:
    """A request that goes when its version has room."""

    def __init__(self, name: str, version: str, queue: Queue, room: dict[str, int], gone: list[str]) -> None:
        self.name, self.version, self.queue, self.room, self.gone = name, version, queue, room, gone
        self.line: Line = version, ()
        self.asked = 0

    def on_room(self) -> bool:
        self.asked += 1
        if not self.room[self.version]:
            return False
        self.room[self.version] -= 1
        self.queue.leave(self.line, self)
        self.gone.append(self.name)
        return True


def test_the_longest_waiting_goes_first_and_a_full_engine_does_not_hold_up_another() -> None:
    counts = PlacementCounts()
    queue, room, gone = Queue(4, counts), {"v": 0, "w": 0}, list[str]()
    waiters = [Waiter(name, name[0], queue, room, gone) for name in ("v1", "w1", "v2", "w2", "v3")]
    joined = [queue.join(waiter.line, waiter) for waiter in waiters]
    assert (joined, counts.queued_now) == ([True] * 4 + [False], 4)

    async def make_room(**more: int) -> list[str]:
        room.update(more)
        queue.recheck()
        queue.recheck()
        await asyncio.sleep(0)
        return gone

    assert asyncio.run(make_room(w=1)) == ["w1"]
    assert asyncio.run(make_room(v=2, w=1)) == ["w1", "v1", "v2", "w2"]
    assert (queue.lines, counts.queued_now) == ({}, 0)


def test_one_place_that_becomes_free_has_no_more_asked_than_it_takes_to_fill_it() -> None:
    queue, room, gone = Queue(400, PlacementCounts()), {f"v{number}": 1 for number in range(300)}, list[str]()
    room["v0"] = 0
    waiters = [Waiter(version, version, queue, room, gone) for version in room]
    for waiter in waiters:
        assert queue.join(waiter.line, waiter)

    async def free(*tell: Callable[[], None]) -> int:
        for each in tell:
            each()
        await asyncio.sleep(0)
        return sum(waiter.asked for waiter in waiters)

    assert (asyncio.run(free(queue.on_place_free)), gone) == (2, ["v1"])  # the first has no room there
    assert (asyncio.run(free(queue.on_place_free, queue.on_place_free)), gone) == (5, ["v1", "v2", "v3"])
    assert (asyncio.run(free(queue.recheck)), len(gone)) == (5 + 297, 299)


# How a conversation begins


def opening(**body: object) -> bytes:
    return prefix_key(read(msgspec.json.encode(body)))


def test_every_turn_of_a_conversation_begins_alike_and_another_does_not() -> None:
    system, first = (
        {"role": "system", "content": "Be kind."},
        {"content": [{"type": "text", "text": "hi"}], "role": "user"},
    )
    more = [{"content": "hello", "role": "assistant"}, {"role": "user", "content": "and?"}]
    begin = opening(messages=[system, first])
    assert begin
    assert begin == opening(messages=[system, first, *more]) == opening(messages=[system, first, *more, *more])
    assert begin == opening(model="x", input=[system, first, *more])
    assert begin != opening(messages=[system, *more])
    assert begin != opening(messages=[first])


def test_a_long_beginning_stands_for_itself() -> None:
    long = {"role": "user", "content": "ä" * MAX_OPENING_BYTES}
    more = {"role": "user", "content": "x"}
    begin = opening(messages=[long])
    assert len(begin) + 3 >= MAX_OPENING_BYTES
    assert begin == opening(messages=[long, more])


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": None}, {"prompt": [1, 2]}, {"input": 7}, {"messages": [[]]}]
)
def test_odd_bodies_have_some_beginning_or_none(body: dict[str, object]) -> None:
    assert opening(**body) in (b"", b"[]", b"null", b"[1,2]", b"7", b"[[]]")


def test_a_prompt_begins_with_its_first_kibibyte() -> None:
    assert opening(prompt="x" * 5_000) == opening(prompt="x" * 6_000) == b'"' + b"x" * 1023
