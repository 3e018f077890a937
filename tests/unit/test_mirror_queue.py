"""Copies on their way: taken without a caller noticing, bounded everywhere, counted where they are lost."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import pytest

from gateway.decide.route import EngineState
from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest
from gateway.mirror.fair_queue import FairQueue
from gateway.mirror.feedback_service import FeedbackService
from gateway.mirror.intake import MirrorIntake
from gateway.mirror.memory_queue import InMemorySamples
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.feedback import About, Feedback, RequestKey
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.sample import Sample
from gateway.store.errors import StoreUnavailable
from tests.support.one_worker import BREAKS, LEAVES, OneWorker, Script, events, request_of
from tests.support.patience import LOOK_SECONDS, PATIENCE_SECONDS
from tests.support.worker_pools import table_of

VERSION = "support@" + "a" * 12
MARKER = "a secret of somebody"


def table(share: int = 10_000, **fields: Any) -> bytes:
    route = RouteRecord(alias="support", control=VERSION, salt="s", mirror=MirrorPolicy(share=share, **fields))
    return without_keys(table_of(routes=[route], engines=[EngineState(url="http://e", versions=frozenset([VERSION]))]))


def without_keys(made: bytes) -> bytes:
    return json.dumps({**json.loads(made), "keys": None}).encode()


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "support", "messages": [{"role": "user", "content": MARKER}], **fields}).encode()


WHOLE = Script(b'{"choices":[]}')
STREAM = Script(*events(b'{"a":1}', b'{"b":2}'), b"data: [DONE]\n\n", is_stream=True)


def counts(worker: OneWorker) -> MirrorCounts:
    found: MirrorCounts = worker.queue.counts
    return found


def test_a_copy_has_the_bytes_of_both_sides_and_leaves_a_moment_later() -> None:
    worker = OneWorker(table())
    body = chat(stream=True)
    worker.ask(request_of(body, headers={"x-loragate-task": "refund"}), STREAM)
    assert worker.samples == []
    worker.flush()
    (sample,) = worker.samples
    assert sample.body == body
    assert sample.reply == b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'
    assert (sample.is_stream, sample.task, sample.alias, sample.endpoint) == (
        True,
        "refund",
        "support",
        "/v1/chat/completions",
    )
    assert b'"model": "support@' in worker.engines.asked[0]
    assert counts(worker).sampled == {"support": {sample.kind: 1}}


@pytest.mark.parametrize(
    ("script", "target", "fields", "reason"),
    [
        (Script(b'{"error":1}', status=400), "chat/completions", {}, "status"),
        (Script(*events(b"1"), BREAKS, is_stream=True), "chat/completions", {"stream": True}, "failed"),
        (Script(*events(b'{"error": {}}'), is_stream=True), "chat/completions", {"stream": True}, "failed"),
        (Script(*events(b"1"), LEAVES, is_stream=True), "chat/completions", {"stream": True}, "client_gone"),
        (Script(b"x" * 2000), "chat/completions", {}, "too_large"),
        (Script(*events(b"x" * 600, b"x" * 600), is_stream=True), "chat/completions", {"stream": True}, "too_large"),
        (WHOLE, "chat/completions", {"metadata": {"long": "x" * 2000}}, "too_large"),
    ],
)
def test_what_makes_no_pair_is_counted_by_its_reason(
    script: Script, target: str, fields: dict[str, Any], reason: str
) -> None:
    worker = OneWorker(table(), Bounds(request_bytes=1000, reply_bytes=1000))
    worker.ask(request_of(chat(**fields), f"/v1/{target}"), script)
    worker.flush()
    assert worker.samples == []
    assert counts(worker).skipped == {reason: 1}
    assert worker.queue.reserve(worker.queue._most_bytes)  # nothing is held for it


@pytest.mark.parametrize("target", ["/v1/embeddings", "/tokenize"])
def test_what_generates_nothing_is_not_copied(target: str) -> None:
    worker = OneWorker(table())
    worker.ask(request_of(chat(input="x", prompt="x"), target), WHOLE)
    worker.flush()
    assert (worker.samples, counts(worker)) == ([], MirrorCounts())


def test_a_full_queue_drops_and_counts_and_goes_on_when_there_is_room() -> None:
    worker = OneWorker(table(), Bounds(queue_items=2))
    for _ in range(5):
        worker.ask(request_of(chat()), WHOLE)
    assert counts(worker).dropped == {"queue_full": 3}
    worker.flush()
    worker.ask(request_of(chat()), WHOLE)
    worker.flush()
    assert len(worker.samples) == 3


def test_bytes_are_bounded_over_all_copies_those_under_way_too() -> None:
    worker = OneWorker(table(), Bounds(queue_bytes=20_000, reply_bytes=100_000))
    worker.ask(request_of(chat()), Script(b"x" * 15_000))
    worker.ask(request_of(chat()), Script(b"x" * 15_000))
    worker.ask(request_of(chat(stream=True)), Script(*events(*[b"x" * 1000] * 30), is_stream=True))
    assert counts(worker).dropped == {"queue_full": 2}
    worker.flush()
    assert [len(sample.reply) for sample in worker.samples] == [15_000]
    assert worker.queue.reserve(20_000)


def test_a_node_that_does_not_read_holds_up_nothing() -> None:
    is_reading = False
    worker = OneWorker(table(), Bounds(queue_items=3), has_room=lambda: is_reading)
    for _ in range(5):
        worker.ask(request_of(chat()), WHOLE)
        worker.flush()
    assert worker.samples == []
    assert counts(worker).dropped == {"queue_full": 2}
    is_reading = True
    worker.flush()
    assert len(worker.samples) == 3


class Broken:
    """A queue in which everything fails."""

    def __init__(self, fails_at: str) -> None:
        self.counts = MirrorCounts()
        self._fails_at = fails_at

    def _fail(self, at: str) -> bool:
        if at == self._fails_at:
            raise RuntimeError(MARKER)
        return True

    def reserve(self, _size: int) -> bool:
        return self._fail("reserve")

    def release(self, _size: int) -> None:
        self._fail("release")

    def offer(self, _taken: object) -> None:
        self._fail("offer")


@pytest.mark.parametrize("fails_at", ["reserve", "release", "offer"])
def test_a_bug_in_the_mirror_is_counted_and_told_once_without_words_of_anybody(
    fails_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = OneWorker(table(share=0)).ask(request_of(chat(stream=True), headers={"x-request-id": "r"}), STREAM)
    broken = OneWorker(table(), queue=Broken(fails_at))
    for _ in range(3):
        assert broken.ask(request_of(chat(stream=True), headers={"x-request-id": "r"}), STREAM) == expected
    assert counts(broken).dropped["bug"] >= 3
    (record,) = caplog.records
    assert "RuntimeError at" in record.getMessage()
    assert MARKER not in caplog.text


def test_copies_that_cannot_be_sent_are_bugs_and_the_next_ones_are_sent(caplog: pytest.LogCaptureFixture) -> None:
    worker = OneWorker(table())
    for _ in range(3):
        worker.ask(request_of(chat()), WHOLE)
    send, worker.queue._send = worker.queue._send, lambda _: json.loads(MARKER)
    worker.flush()
    worker.queue._send = send
    worker.ask(request_of(chat()), WHOLE)
    worker.flush()
    assert len(worker.samples) == 1
    assert counts(worker).dropped == {"bug": 3}
    assert "JSONDecodeError at" in caplog.text
    assert MARKER not in caplog.text


@pytest.mark.parametrize(
    ("fields", "headers", "named"),
    [
        ({}, {}, ""),
        ({"user": "ann"}, {}, "ann"),
        ({"user": 7, "prompt_cache_key": "c"}, {}, "c"),
        ({"user": "ann", "safety_identifier": "bob"}, {}, "bob"),
        ({"user": "ann"}, {"x-loragate-unit": "dora"}, "dora"),
    ],
)
def test_a_copy_tells_who_the_request_names(fields: dict[str, Any], headers: dict[str, str], named: str) -> None:
    worker = OneWorker(table())
    worker.ask(request_of(chat(**fields), headers=headers), WHOLE)
    worker.flush()
    assert worker.taken[0].named == named


def test_what_is_left_leaves_with_the_worker_as_far_as_there_is_room() -> None:
    worker = OneWorker(table())
    for _ in range(100):
        worker.ask(request_of(chat()), WHOLE)
    worker.queue.close()
    assert len(worker.samples) == 100


# In the node


def sample(number: int, **fields: Any) -> Sample:
    values: dict[str, Any] = {
        "id": f"{number:032x}",
        "request_id": "r",
        "alias": "support",
        "kind": "base",
        "control": "base",
        "other": VERSION,
        "served": "candidate",
        "capture": "full",
        "endpoint": "/v1/chat/completions",
        "body": chat(),
        "reply": b"{}",
        **fields,
    }
    return Sample(**values)


def taken(number: int, body: bytes | None = None, **fields: Any) -> CapturedRequest:
    made = CapturedRequest(
        "base",
        "base",
        VERSION,
        "candidate",
        "support",
        "",
        0,
        "full",
        b"/v1/chat/completions",
        b"%d" % number,
        "key",
        "salt",
        "",
        None,
        body or chat(),
        False,
        100,
        time.monotonic(),
        parts=[b"{}"],
        plain=[0],
        ended_at=time.monotonic(),
    )
    return msgspec.structs.replace(made, **fields)


class Shelf:
    """A store of samples that can be away, or full."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Sample, float]] = {}
        self.is_away = False
        self.is_broken = False
        self.room = 1_000_000

    def put(self, samples: Sequence[Sample], retention_seconds: float) -> int:
        if self.is_away:
            raise StoreUnavailable("the store is away")
        if self.is_broken:
            raise RuntimeError(MARKER)
        fits = samples[: max(0, self.room - len(self.kept))]
        self.kept |= {each.id: (each, retention_seconds) for each in fits}
        return len(samples) - len(fits)


class Desk:
    """An intake that runs, around a shelf of the test's."""

    def __init__(self, **bounds: Any) -> None:
        self.shelf = Shelf()
        self.policy: MirrorPolicy | None = MirrorPolicy(share=1)
        self.clock = 0.0
        self.memory_queue = InMemorySamples(100, 1_000_000, 600.0, lambda: self.clock)
        self.intake = MirrorIntake(
            self.shelf, self.memory_queue, lambda _alias: self.policy, Bounds(**bounds), lambda: 1000.0, 0.01
        )

    @property
    def dropped(self) -> dict[str, int]:
        return self.intake.counts.dropped


def running(work: Callable[[Desk], Any], **bounds: Any) -> Desk:
    """Run `work` beside an intake; it yields until what it waits for is so."""
    desk = Desk(**bounds)

    async def main() -> None:
        task = asyncio.create_task(desk.intake.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for holds in work(desk):
                    while not holds():
                        await asyncio.sleep(0.005)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await desk.intake.finish(1.0)

    asyncio.run(main())
    return desk


def test_samples_are_stored_with_the_routes_own_retention() -> None:
    def work(desk: Desk) -> Any:
        desk.intake.take([taken(1), taken(2)])
        yield lambda: len(desk.shelf.kept) == 2
        desk.policy = MirrorPolicy(share=1, retention_seconds=60)
        desk.intake.take([taken(3)])
        yield lambda: len(desk.shelf.kept) == 3

    desk = running(work)
    assert [seconds for _, seconds in desk.shelf.kept.values()] == [604_800, 604_800, 60]
    assert (desk.intake.counts.stored, desk.dropped, desk.intake.held) == (3, {}, (0, 0))
    assert all(999.0 < kept.at <= 1000.0 and kept.session for kept, _ in desk.shelf.kept.values())


def test_what_makes_no_pair_or_cannot_be_made_is_counted_and_the_rest_is_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work(desk: Desk) -> Any:
        several = taken(1, json.dumps({"prompt": [MARKER, "b"]}).encode(), endpoint=b"/v1/completions")
        desk.intake.take([several, taken(2, endpoint=b"/unknown"), taken(3)])
        yield lambda: len(desk.shelf.kept) == 1

    desk = running(work)
    assert (desk.intake.counts.skipped, desk.dropped, desk.intake.held) == (
        {"several_prompts": 1},
        {"bug": 1},
        (0, 0),
    )
    assert "KeyError at" in caplog.text
    assert MARKER not in caplog.text


def test_a_fault_while_the_gateway_ends_is_told_without_its_words_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.shelf.is_broken = True
    desk.intake.take([taken(1)])
    asyncio.run(desk.intake.finish(1.0))
    assert (desk.dropped, desk.intake.held, desk.shelf.kept) == ({"bug": 1}, (0, 0), {})
    assert "RuntimeError at" in caplog.text
    assert MARKER not in caplog.text


def test_while_the_store_is_away_samples_wait_and_those_beyond_the_bounds_are_dropped() -> None:
    def work(desk: Desk) -> Any:
        desk.shelf.is_away = True
        desk.intake.take([taken(1)])
        yield lambda: desk.intake._is_away
        desk.intake.take([taken(number) for number in range(2, 10)])
        assert desk.dropped == {"held_full": 6}
        desk.policy = MirrorPolicy(share=1, capture="metrics_only")  # what needs no store does not wait for it
        yield lambda: len(desk.memory_queue) == 2 and "policy_changed" in desk.dropped  # the first one
        desk.policy = MirrorPolicy(share=1)
        desk.intake.take([taken(10)])
        desk.shelf.is_away = False
        yield lambda: len(desk.shelf.kept) == 1

    desk = running(work, held_items=3)
    assert (desk.dropped, desk.intake.held[0]) == ({"held_full": 6, "policy_changed": 1}, 2)


def test_what_waits_for_too_long_is_dropped() -> None:
    def work(desk: Desk) -> Any:
        desk.shelf.is_away = True
        desk.intake.take([taken(1), taken(2)])
        yield lambda: desk.dropped == {"store_away": 2}

    assert running(work, held_seconds=0.01).shelf.kept == {}


def test_a_full_store_drops_and_says_so() -> None:
    def work(desk: Desk) -> Any:
        desk.shelf.room = 1
        desk.intake.take([taken(1), taken(2), taken(3)])
        yield lambda: desk.dropped == {"store_full": 2}

    assert running(work).intake.counts.stored == 1


def test_the_stricter_of_two_policies_holds_for_what_is_on_its_way() -> None:
    def work(desk: Desk) -> Any:
        desk.policy = MirrorPolicy(share=1, capture="metrics_only")
        desk.intake.take([taken(1)])
        yield lambda: len(desk.memory_queue) == 1
        for policy in (None, MirrorPolicy(share=1, capture="off")):
            desk.policy = policy
            desk.intake.take([taken(2)])
            yield lambda: not desk.intake._arrived
        yield lambda: desk.dropped == {"policy_changed": 2}

    desk = running(work)
    assert desk.shelf.kept == {}
    ((kept, _),) = desk.memory_queue.claim("me", 5, 60.0)
    assert kept.capture == "metrics_only"


@pytest.mark.parametrize("stricter", [{"capture": "off"}, {"capture": "metrics_only"}, {"redact": ("email",)}])
def test_what_waits_for_the_store_is_not_stored_once_its_policy_forbids_it(stricter: dict[str, Any]) -> None:
    def work(desk: Desk) -> Any:
        desk.shelf.is_away = True
        desk.intake.take([taken(1)])
        yield lambda: desk.intake._is_away
        desk.policy = MirrorPolicy(share=1, **stricter)
        desk.shelf.is_away = False
        yield lambda: desk.dropped == {"policy_changed": 1}

    desk = running(work)
    assert (desk.shelf.kept, desk.intake.held) == ({}, (0, 0))


def test_samples_are_redacted_before_they_are_stored_and_dropped_where_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work(desk: Desk) -> Any:
        desk.policy = MirrorPolicy(share=1, redact=("regex:secret",))
        desk.intake.take([taken(1)])
        yield lambda: len(desk.shelf.kept) == 1
        desk.policy = MirrorPolicy(share=1, redact=("never_heard_of",))
        desk.intake.take([taken(2), taken(3)])
        yield lambda: desk.dropped == {"redactor_failed": 2}

    desk = running(work)
    desk.intake.redactor.close()
    ((kept, _),) = desk.shelf.kept.values()
    assert (kept.redacted, kept.reply) == (True, b"")
    assert b"a [redacted] of somebody" in kept.body
    assert desk.intake.counts.redacted == 1
    (record,) = caplog.records
    assert "never_heard_of" in record.getMessage()
    assert "secret" not in caplog.text


# In memory, for this gateway's own evaluator


def test_a_claim_in_memory_is_a_lease() -> None:
    now = 0.0
    memory_queue = InMemorySamples(10, 10_000, 600.0, lambda: now)
    assert all(memory_queue.put(sample(number)) for number in (1, 2))
    ((first, claims),) = memory_queue.claim("one", 1, 30.0)
    assert (first.id, claims) == (sample(1).id, 1)
    assert [each.id for each, _ in memory_queue.claim("two", 5, 30.0)] == [sample(2).id]
    assert memory_queue.extend("one", [first.id, sample(2).id], 60.0) == {first.id}
    now = 50.0
    assert memory_queue.finish(sample(2).id, "two") is False  # its lease ran out
    assert memory_queue.claim("two", 5, 30.0) == [(sample(2), 2)]
    assert memory_queue.finish(first.id, "one") is True
    assert memory_queue.finish(first.id, "one") is False
    assert memory_queue.give_up(sample(2).id, "two", again_after_seconds=10.0)
    assert memory_queue.claim("two", 5, 30.0) == []
    now = 61.0
    assert memory_queue.claim("two", 5, 30.0, skipping=["support"]) == []
    assert memory_queue.claim("two", 5, 30.0) == [(sample(2), 3)]
    assert memory_queue.give_up(sample(2).id)
    assert (len(memory_queue), memory_queue.bytes) == (0, 0)


def test_memory_is_bounded_and_forgets_what_nobody_finishes() -> None:
    now = 0.0
    size = sample(1).size
    memory_queue = InMemorySamples(2, size * 10, 600.0, lambda: now)
    assert [memory_queue.put(sample(number)) for number in (1, 1, 2, 3)] == [True, True, True, False]
    assert not InMemorySamples(10, size - 1, 600.0, lambda: now).put(sample(1))
    for _ in range(3):
        assert memory_queue.claim("one", 1, 10.0)[0][0].id == sample(1).id
        now += 10.0
    assert memory_queue.claim("one", 1, 10.0)[0][0].id == sample(2).id  # the first has cost three leases
    now = 700.0
    assert (memory_queue.claim("one", 5, 10.0), len(memory_queue), memory_queue.bytes, memory_queue.expired) == (
        [],
        0,
        0,
        2,
    )


# Feedback


class Box:
    """A store of feedback that can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, Feedback] = {}
        self.is_away = False
        self.refused = 0

    def put(self, given: Feedback) -> None:
        if self.is_away:
            self.refused += 1
            raise StoreUnavailable("the store is away")
        self.kept[given.id] = given

    def resolve(self, request_id: str, account: str, about: About, *, comment: str | None = None) -> bool:
        key = Feedback(request_id=request_id, account=account).id
        self.kept[key] = msgspec.structs.replace(self.kept[key], about=about, comment=comment or "")
        return True

    def drop(self, request_id: str, account: str) -> None:
        self.kept.pop(Feedback(request_id=request_id, account=account).id, None)

    def read_unresolved(self, limit: int = 1000, *, newest: bool = False) -> list[Feedback]:
        return sorted(
            (each for each in self.kept.values() if each.about is None), key=attrgetter("at"), reverse=newest
        )[:limit]


def about(account: str = "me", alias: str = "support") -> About:
    return About(alias=alias, version=VERSION, arm="control", account=account)


def heard(
    given: Sequence[Feedback], known: dict[RequestKey, About], policies: dict[str, MirrorPolicy]
) -> FeedbackService:
    async def recall(_asked: Sequence[RequestKey]) -> dict[RequestKey, About]:
        return known

    async def main() -> FeedbackService:
        desk = FeedbackService(Box(), recall, lambda: policies, 60.0, lambda: 1000.0)
        await desk._attach(list(given))
        return desk

    return asyncio.run(main())


def word(request_id: str, **fields: Any) -> Feedback:
    return Feedback(**{"request_id": request_id, "account": "me", "thumb": "up", "at": 990.0, **fields})


def test_feedback_is_attached_to_what_served_the_request_and_only_its_own_account_may_give_it() -> None:
    known = {("1", "me"): about(), ("req-2", "another"): about("another")}
    desk = heard([word("1"), word("req-2"), word("3")], known, {})
    kept = {each.request_id: each.about for each in desk._store.kept.values()}  # type: ignore[attr-defined]
    assert kept == {"1": about(), "3": None}
    assert desk.counts.feedback == {"attached": 1, "not_yours": 1, "unknown_request": 1}


def test_who_sends_anothers_request_id_neither_takes_its_feedback_over_nor_keeps_it_from_being_attached() -> None:
    known = {("1", "me"): about(), ("1", "another"): about("another"), ("2", "another"): about("another")}
    desk = heard([word("1"), word("1", account="another"), word("2")], known, {})
    kept = {each.request_key: each.about for each in desk._store.kept.values()}  # type: ignore[attr-defined]
    # The last may have been asked at another gateway, so it is not dropped.
    assert kept == {("1", "me"): about(), ("1", "another"): about("another"), ("2", "me"): None}


def test_one_accounts_flood_of_feedback_delays_nobody_elses() -> None:
    waiting = FairQueue(10_000, 2_000)
    taken = [waiting.add(word(f"u{number}", account="loud")) for number in range(6_000)]
    assert taken.count(True) == 2_000
    assert waiting.add(word("1"))
    assert waiting.add(word("2"))
    batch = waiting.take(500)
    assert [each.request_id for each in batch if each.account == "me"] == ["1", "2"]
    assert [each.request_id for each in batch if each.account == "loud"] == [f"u{number}" for number in range(498)]
    waiting.give_back(batch)
    assert (len(waiting), waiting.take(500) == batch, len(waiting)) == (2_002, True, 1_502)


def test_what_was_put_back_stands_before_what_came_later() -> None:
    waiting = FairQueue(3, 3)
    for name in ("1", "2", "3"):
        waiting.add(word(name))
    batch = waiting.take(2)
    waiting.add(word("4"))
    waiting.give_back(batch)
    assert not waiting.add(word("5"))
    assert [each.request_id for each in waiting.take(9)] == ["1", "2", "3", "4"]
    assert (waiting.take(9), len(waiting)) == ([], 0)


@pytest.mark.parametrize(
    ("known", "policies", "comment"),
    [
        (True, {"support": MirrorPolicy()}, "mail me: a@b.example"),
        (True, {"support": MirrorPolicy(redact=("email",))}, "mail me: [email]"),
        (True, {"support": MirrorPolicy(redact=("gone",))}, ""),
        (True, {"support": MirrorPolicy(capture="metrics_only")}, ""),
        (True, {"support": MirrorPolicy(capture="off")}, ""),
        (True, {"support": MirrorPolicy(), "other": MirrorPolicy(capture="off")}, "mail me: a@b.example"),
        (True, {}, "mail me: a@b.example"),
        (False, {"support": MirrorPolicy(), "other": MirrorPolicy(capture="off")}, ""),
        (False, {"support": MirrorPolicy(redact=("email",))}, "mail me: [email]"),
    ],
)
def test_a_comment_is_kept_as_far_as_words_of_its_alias_may_be(
    known: bool, policies: dict[str, MirrorPolicy], comment: str
) -> None:
    desk = heard([word("1", comment="mail me: a@b.example")], {("1", "me"): about()} if known else {}, policies)
    (kept,) = desk._store.kept.values()  # type: ignore[attr-defined]
    assert kept.comment == comment


def test_what_another_gateway_could_not_resolve_is_resolved_here_or_expires() -> None:
    box = Box()
    asked: list[list[RequestKey]] = []

    async def recall(wanted: Sequence[RequestKey]) -> dict[RequestKey, About]:
        asked.append(list(wanted))
        return {("1", "me"): about(), ("req-2", "another"): about("another")}

    async def main() -> FeedbackService:
        for given in (word("1", comment="words"), word("req-2"), word("3"), word("4", at=900.0)):
            box.put(given)
        desk = FeedbackService(box, recall, lambda: {"support": MirrorPolicy(capture="off")}, 60.0, lambda: 1000.0)
        await desk._look()
        await desk._look()  # those that are not known here are not looked for again
        return desk

    desk = asyncio.run(main())
    assert asked == [[("1", "me"), ("req-2", "me"), ("3", "me")]]
    kept = {each.request_id: each for each in box.kept.values()}
    assert (kept["1"].about, kept["1"].comment, kept["3"].about, sorted(kept)) == (about(), "", None, ["1", "3"])
    assert desk.counts.feedback == {"attached": 1, "not_yours": 1}


def test_feedback_that_nobody_can_resolve_does_not_hide_what_has_just_come() -> None:
    box = Box()

    async def recall(_asked: Sequence[RequestKey]) -> dict[RequestKey, About]:
        return {("new", "me"): about()}

    async def main() -> None:
        for number in range(1_000):
            box.put(word(str(number), at=990.0))
        box.put(word("new", at=999.0))
        await FeedbackService(box, recall, dict, 60.0, lambda: 1000.0)._look()

    asyncio.run(main())
    assert [each.request_id for each in box.kept.values() if each.about is not None] == ["new"]


def test_feedback_waits_while_the_store_is_away() -> None:
    box = Box()
    box.is_away = True

    async def recall(_asked: Sequence[RequestKey]) -> dict[RequestKey, About]:
        return {("1", "me"): about()}

    async def main() -> FeedbackService:
        desk = FeedbackService(box, recall, dict, 60.0, lambda: 1000.0, 0.01)
        desk.hear(word("1"))
        task = asyncio.create_task(desk.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while box.refused < 2:
                await asyncio.sleep(LOOK_SECONDS)
            box.is_away = False
            while not box.kept:
                await asyncio.sleep(LOOK_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return desk

    assert asyncio.run(main()).counts.feedback == {"attached": 1}
