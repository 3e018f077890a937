"""The evaluator against a fake engine over real sockets: what engines do to it, and what it leaves in the store."""

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from evaluators.observation import Drift, Ended, Kind, NoDrift, Score, ScoredPair
from gateway.evaluate.engines import EngineBounds, EvaluatorEngines
from gateway.evaluate.evaluator import Evaluator
from gateway.evaluate.replay import ReplayBounds, replay
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.sample import Sample
from gateway.records.state import Desired
from gateway.settings import Settings
from gateway.store.evaluators import Evaluators
from gateway.store.pairs import Pairs
from gateway.store.samples import Samples
from gateway.store.sql import Store, open_store
from tests.fakes.engine import FakeEngine
from tests.support.patience import PATIENCE_SECONDS

CONTROL, CANDIDATE = "support@aaaaaaaaaaaa", "support@bbbbbbbbbbbb"
CHAT = "/v1/chat/completions"
IDLE_WAIT_SECONDS = 1.5
ASKED: dict[str, Any] = {
    "model": "support",
    "messages": [{"role": "user", "content": "Where is my order?"}],
    "seed": 7,
    "temperature": 0.7,
}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(adapters={CONTROL: "/c", CANDIDATE: "/d"}, check_folders=False) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path, now=time.time, seconds=PATIENCE_SECONDS)
    yield opened
    opened.close()


def sample(engine: FakeEngine, number: int = 0, *, asked: dict[str, Any] | None = None, **more: Any) -> Sample:
    """A sample whose reply is what the fake engine says as the control."""
    body = {**ASKED, **(asked or {})}
    path = more.pop("endpoint", CHAT)
    served = CANDIDATE if more.get("served") == "candidate" else CONTROL
    reply = httpx.post(engine.url + path, json={**body, "model": served}).content
    facts: dict[str, Any] = {
        "id": f"{number:032x}",
        "request_id": f"r{number}",
        "alias": "support",
        "kind": "candidate",
        "control": CONTROL,
        "other": CANDIDATE,
        "served": "control",
        "capture": "full",
        "endpoint": path,
        "body": msgspec.json.encode(body),
        "reply": reply,
        "session": f"{number:016x}",
        "at": time.time(),
        "duration_seconds": 0.1,
    }
    return Sample(**{**facts, **more})


def settings_of(folder: Path, **more: Any) -> Settings:
    bounds = {
        "drain_seconds": 0.2,
        "lease_seconds": 30.0,
        "replay_seconds": PATIENCE_SECONDS,
        "score_seconds": PATIENCE_SECONDS,
    }
    bounds |= {"score_both_answers": True, **more}
    return Settings.model_validate({"state": folder, "evaluator": bounds})


async def run_until(evaluators: Sequence[Evaluator], holds: Callable[[], bool]) -> None:
    """Run evaluators until something holds, then stop them."""
    stop = asyncio.Event()
    running = [asyncio.ensure_future(each.run(stop)) for each in evaluators]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, [each.counts.record({}) for each in evaluators]
        await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*running)


def evaluated(
    store: Store, engine: FakeEngine, samples: Sequence[Sample], folder: Path, **more: Any
) -> list[ScoredPair]:
    """What becomes of samples in the store."""
    pairs = Pairs(store)
    assert Samples(store).put(samples, 3600) == 0

    async def work() -> None:
        evaluator = Evaluator(settings_of(folder, **more), [engine.url])
        await run_until([evaluator], lambda: len(pairs.since(0)) >= len(samples))

    asyncio.run(work())
    return pairs.since(0)


def with_policy(store: Store, policy: MirrorPolicy) -> None:
    route = RouteRecord(alias="support", salt="s", control=CONTROL, created=0, mirror=policy)
    store.write_state(Desired(version=0, routes=(route,)), expected=0)


def test_a_pair_is_replayed_scored_in_both_directions_and_stored_once(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    (judged,) = evaluated(store, engine, [sample(engine)], tmp_path)
    assert (judged.kind, judged.control, judged.other) == (Kind.CANDIDATE, CONTROL, CANDIDATE)
    assert isinstance(judged.drift, Drift)
    assert isinstance(judged.drift_back, Drift)
    assert judged.drift.kl_bound > 0.01
    assert judged.drift.n_bytes
    assert judged.drift_back.n_bytes
    assert judged.drift.temperature == 0.7
    assert judged.drift.top_moved[0][0] != ""
    edit = judged.scores["edit"]
    assert isinstance(edit, Score)
    assert edit.value < 1.0
    replayed = [msgspec.json.decode(each.body) for each in engine.generations if b"return_token_ids" in each.body]
    assert [(each["model"], each["seed"], each["temperature"]) for each in replayed] == [(CANDIDATE, 7, 0.7)]
    assert replayed[0]["priority"] == 1_000_000
    assert Samples(store).depth().pending == 0
    assert Samples(store).tokens_spent("support") > 0
    assert Evaluators(store).alive() == {}  # it said that it ends


def test_one_answer_of_a_pair_is_scored_by_a_coin_and_the_other_where_that_cannot_be(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = [sample(engine, number, asked={"seed": number}) for number in range(40)]
    before = len(engine.generations)
    found = evaluated(store, engine, made, tmp_path, score_both_answers=False)
    scored = [(isinstance(each.drift, Drift), isinstance(each.drift_back, Drift)) for each in found]
    assert set(scored) == {(True, False), (False, True)}
    assert 10 <= scored.count((True, False)) <= 30
    prompts = [each for each in engine.generations[before:] if b"prompt_logprobs" in each.body]
    assert len(prompts) == 2 * len(made)
    engine.set(no_ids=True)  # of the replay; the caller's text still has them
    first = len(made)
    more = [sample(engine, number, asked={"seed": number}) for number in range(first, first + 8)]
    assert Samples(store).put(more, 3600) == 0

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path, score_both_answers=False), [engine.url])
        await run_until([evaluator], lambda: len(Pairs(store).since(0)) == first + len(more))

    asyncio.run(work())
    late = [each for each in Pairs(store).since(0) if each.sample in {one.id for one in more}]
    assert all(isinstance(each.drift, Drift) and not isinstance(each.drift_back, Drift) for each in late)


def test_an_engine_that_tells_fewer_of_the_likeliest_tokens_is_asked_for_as_many_as_it_tells(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.set(max_logprobs=5)
    made = [sample(engine, number, asked={"seed": number}) for number in range(4)]
    before = len(engine.generations)
    found = evaluated(store, engine, made, tmp_path)
    assert all(isinstance(each.drift, Drift) and each.drift.kl_bound > 0.01 for each in found)
    bodies = [msgspec.json.decode(each.body) for each in engine.generations[before:]]
    asked = [each["prompt_logprobs"] for each in bodies if "prompt_logprobs" in each]
    assert set(asked) == {20, 5}
    assert asked.count(20) <= 4, "once known it is not asked for more"
    assert asked.count(5) == 4 * len(made)


def test_an_engine_that_runs_something_else_is_waited_for_but_not_for_long(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = [sample(engine, number, asked={"seed": number}) for number in range(3)]
    engine.set(server_load=1)
    before, began = len(engine.requests), time.monotonic()
    evaluated(store, engine, made, tmp_path, idle_wait_seconds=IDLE_WAIT_SECONDS, requests_per_engine=1)
    assert time.monotonic() - began > IDLE_WAIT_SECONDS
    order = [each.target for each in list(engine.requests)[before:] if each.target in ("/load", CHAT)]
    assert order.index(CHAT) >= 3  # looks, while it waited
    assert "/load" not in order[order.index(CHAT) :]  # it is busy by nature: nobody waits for it again so soon


def test_an_engine_that_becomes_idle_is_asked_at_once(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = sample(engine)
    engine.set(server_load=1)
    samples, before = Samples(store), len(engine.generations)
    assert samples.put([made], 3600) == 0

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path, idle_wait_seconds=30.0), [engine.url])
        stop = asyncio.Event()
        running = asyncio.ensure_future(evaluator.run(stop))
        while sum(each.target == "/load" for each in engine.requests) < 5:
            await asyncio.sleep(0.02)
        assert len(engine.generations) == before
        engine.set(server_load=0)
        while not Pairs(store).since(0):
            await asyncio.sleep(0.02)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(work(), PATIENCE_SECONDS))


def test_a_noise_pair_asks_the_same_version_and_its_drift_is_nothing(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    (judged,) = evaluated(store, engine, [sample(engine, kind="noise", other=CONTROL)], tmp_path)
    assert judged.kind is Kind.NOISE
    assert isinstance(judged.drift, Drift)
    assert (judged.drift.kl, judged.drift.log_ratio, judged.drift_back) == (0.0, 0.0, None)
    exact = judged.scores["exact"]
    assert isinstance(exact, Score)
    assert exact.value == 1.0  # the fake's words hang on the seed alone


def test_a_served_candidate_is_compared_with_a_replay_of_control_and_keeps_its_side(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = [sample(engine, 1), sample(engine, 2, served="candidate")]
    one, other = sorted(evaluated(store, engine, made, tmp_path), key=lambda judged: judged.sample)
    assert (one.served, other.served) == ("control", "candidate")
    for name in ("edit", "repetition"):
        assert one.scores[name] == other.scores[name]
    assert isinstance(one.drift, Drift)
    assert isinstance(other.drift, Drift)
    assert one.drift.kl == pytest.approx(other.drift.kl)  # on the control's tokens, both


def test_the_base_is_control_of_a_pair_with_the_base(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = sample(engine, kind="base", control="base", other=CONTROL, served="candidate")
    (judged,) = evaluated(store, engine, [made], tmp_path)
    assert (judged.kind, judged.control, judged.other) == (Kind.BASE, "base", CONTROL)
    assert isinstance(judged.drift, Drift)


def test_a_redacted_sample_is_replayed_on_both_versions(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = msgspec.structs.replace(sample(engine), redacted=True, reply=b"")
    (judged,) = evaluated(store, engine, [made], tmp_path)
    replayed = [msgspec.json.decode(each.body) for each in engine.generations if b"return_token_ids" in each.body]
    assert sorted(each["model"] for each in replayed) == [CONTROL, CANDIDATE]
    assert isinstance(judged.drift, Drift)


def test_metrics_only_leaves_no_words_in_the_pair(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    (judged,) = evaluated(store, engine, [sample(engine, capture="metrics_only")], tmp_path)
    assert isinstance(judged.drift, Drift)
    assert {text for text, *_ in judged.drift.top_moved} <= {""}


def test_where_ids_cannot_be_had_drift_says_why(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    input_only = {"model": "support", "input": "Where?"}
    made = [sample(engine, 1, asked=tools), sample(engine, 2, asked=input_only, endpoint="/v1/responses")]
    called, responses = sorted(evaluated(store, engine, made, tmp_path), key=lambda judged: judged.sample)
    assert isinstance(called.drift, NoDrift)
    assert called.drift.reason == "tool_calls"
    assert isinstance(called.drift_back, Drift)  # the replay's own ids come with it
    assert isinstance(responses.drift, NoDrift)
    assert responses.drift.reason == "no_token_ids"


def test_a_text_that_its_ids_do_not_give_back_is_not_scored(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = sample(engine)
    engine.set(lossy=True)
    (judged,) = evaluated(store, engine, [made], tmp_path)
    assert isinstance(judged.drift, NoDrift)
    assert judged.drift.reason == "not_round_trip"
    assert isinstance(judged.drift_back, Drift)


def test_an_engine_without_priorities_is_asked_without_from_then_on(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = [sample(engine, number, asked={"seed": number}) for number in range(3)]
    engine.set(no_priorities=True)
    evaluated(store, engine, made, tmp_path)
    asked = [each for each in engine.requests if each.target == CHAT and b"return_token_ids" in each.body]
    refused = [each for each in asked if b'"priority"' in each.body]
    assert len(asked) - len(refused) == 3
    assert 1 <= len(refused) <= 2  # two replays may run at once


def test_an_engine_that_is_busy_gets_nothing_until_it_is_not(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = sample(engine)
    engine.set(waiting=3)
    before = len(engine.generations)
    assert Samples(store).put([made], 3600) == 0

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path), [engine.url])
        stop = asyncio.Event()
        running = asyncio.ensure_future(evaluator.run(stop))
        while not evaluator.counts.shed:
            await asyncio.sleep(0.02)
        assert evaluator.counts.shed == {"queue": 1}
        assert len(engine.generations) == before
        stop.set()
        await running

    asyncio.run(work())
    assert Samples(store).depth().pending == 1


def test_what_cannot_be_replayed_for_long_is_dropped_with_its_reason(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    # The version fails against itself, too, so it may be the engine.
    old = sample(engine, 1, at=time.time() - 1000, kind="noise", control=CANDIDATE, other=CANDIDATE)
    lost = sample(engine, 2, other="support@cccccccccccc", at=time.time() - 1000)
    engine.set(failing=CANDIDATE)
    samples = Samples(store)
    assert samples.put([old, lost], 3600) == 0
    evaluator: list[Evaluator] = []

    async def work() -> None:
        evaluator.append(Evaluator(settings_of(tmp_path), [engine.url]))
        await run_until(evaluator, lambda: samples.depth().failed == 2)

    asyncio.run(work())
    assert evaluator[0].counts.failed == {"status_500": 1, "no_engine": 1}
    assert Pairs(store).since(0) == []


def test_a_version_that_fails_where_the_other_answers_has_failed_by_itself(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = sample(engine, 1)
    engine.set(failing=CANDIDATE)
    (judged,) = evaluated(store, engine, [made], tmp_path)
    failed = judged.scores["failed"]
    assert isinstance(failed, Score)
    assert (failed.control, failed.candidate) == (0.0, 1.0)
    assert list(judged.scores) == ["failed"]
    assert judged.drift is None


def test_an_engine_that_fails_both_versions_counts_against_neither(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = sample(engine, 1)
    before = len(engine.generations)
    engine.set(status=500)
    samples = Samples(store)
    assert samples.put([made], 3600) == 0
    evaluator: list[Evaluator] = []

    async def work() -> None:
        evaluator.append(Evaluator(settings_of(tmp_path), [engine.url]))
        await run_until(evaluator, lambda: len(engine.generations) >= before + 2)  # the candidate, then the control

    asyncio.run(work())
    assert Pairs(store).since(0) == []
    assert samples.depth().pending == 1
    assert evaluator[0].counts.failed == {}


def test_nobody_is_asked_for_a_rollout_that_is_over(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    old = sample(engine, 1, rollout="ro-over", stage=1, at=time.time() - 120)
    new = sample(engine, 2, rollout="ro-unheard", stage=1)
    samples = Samples(store)
    assert samples.put([old, new], 3600) == 0
    evaluator: list[Evaluator] = []

    async def work() -> None:
        evaluator.append(Evaluator(settings_of(tmp_path), [engine.url]))
        await run_until(evaluator, lambda: samples.depth().failed == 1 and len(Pairs(store).since(0)) == 1)

    asyncio.run(work())
    assert evaluator[0].counts.failed == {"rollout_over": 1}
    assert [each.sample for each in Pairs(store).since(0)] == [new.id]


def test_a_spent_budget_keeps_samples_from_engines(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    with_policy(store, MirrorPolicy(share=10_000, tokens_per_hour=1))
    evaluated(store, engine, [sample(engine, 1)], tmp_path)
    samples = Samples(store)
    assert samples.put([sample(engine, 2)], 3600) == 0
    before = len(engine.generations)

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path), [engine.url])
        await run_until([evaluator], lambda: evaluator.counts.shed["budget"] == 1)

    asyncio.run(work())
    assert len(engine.generations) == before


def test_two_evaluators_judge_each_sample_once(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = [sample(engine, number, asked={"seed": number}) for number in range(6)]
    pairs = Pairs(store)
    assert Samples(store).put(made, 3600) == 0

    async def work() -> None:
        both = [Evaluator(settings_of(tmp_path), [engine.url]) for _ in range(2)]
        await run_until(both, lambda: len(pairs.since(0)) >= len(made))
        assert sum(each.counts.completed for each in both) == len(made)

    asyncio.run(work())
    assert sorted(judged.sample for judged in pairs.since(0)) == [each.id for each in made]


def test_what_runs_at_a_stop_is_given_back_at_once(store: Store, engine: FakeEngine, tmp_path: Path) -> None:
    made = sample(engine)
    engine.set(hang=True)
    samples = Samples(store)
    assert samples.put([made], 3600) == 0

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path), [engine.url])
        await run_until([evaluator], lambda: evaluator.counts.running == 1)

    asyncio.run(work())
    assert [claimed.sample.id for claimed in samples.claim("another", 9, 60)] == [made.id]


def test_what_a_killed_evaluator_held_is_judged_by_another_once(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    made = sample(engine)
    engine.set(hang=True)
    samples = Samples(store)
    assert samples.put([made], 3600) == 0
    command = [sys.executable, "-m", "gateway", "evaluate", "--engine", engine.url, "--state", str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "LORAGATE_EVALUATOR__LEASE_SECONDS": "1"})
    try:
        assert engine.wait_for(lambda one: any(b"return_token_ids" in each.body for each in one.requests))
    finally:
        process.kill()
        process.wait()
    engine.set(hang=False)

    async def work() -> None:
        evaluator = Evaluator(settings_of(tmp_path), [engine.url])
        await run_until([evaluator], lambda: len(Pairs(store).since(0)) > 0)

    asyncio.run(work())
    assert [judged.sample for judged in Pairs(store).since(0)] == [made.id]


@contextmanager
def raw_server(answer: bytes, *, endless: bytes = b"") -> Iterator[str]:
    """A server that sends the same bytes whatever it is asked, and then `endless` again and again."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(answer)
                while endless:
                    connection.sendall(endless)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"la "}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


@pytest.mark.parametrize(
    ("answer", "endless", "ended", "error"),
    [
        (b"", b"", Ended.FAILED, "broken"),
        (b"no http at all\r\n\r\n", b"", Ended.FAILED, "broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{", b"", Ended.FAILED, "broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"", Ended.FAILED, "no_choices"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 65536, Ended.FAILED, "no_choices"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            b"",
            Ended.FAILED,
            "status_3xx",
        ),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n", b"", Ended.FAILED, "unfinished"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"", Ended.FAILED, "broken"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", CHUNK, Ended.TRUNCATED, ""),
        (HEAD + b"x: ", b"y" * 65536, Ended.FAILED, "broken"),
    ],
    ids=[
        "silent",
        "no http",
        "short body",
        "empty object",
        "lying length",
        "redirect",
        "no end",
        "bad chunk",
        "endless stream",
        "endless head",
    ],
)
def test_whatever_an_engine_does_becomes_an_observation(
    engine: FakeEngine, answer: bytes, endless: bytes, ended: Ended, error: str
) -> None:
    made = sample(engine)

    async def work(url: str) -> Any:
        # Its first request is the replay: the server closes after one answer.
        engines = EvaluatorEngines([url], EngineBounds(idle_wait_seconds=0), time.monotonic)
        try:
            (one,) = engines
            return await replay(one, made, CANDIDATE, ReplayBounds(seconds=PATIENCE_SECONDS, reply_bytes=200_000))
        finally:
            await engines.close()

    with raw_server(answer, endless=endless) as url:
        seen = asyncio.run(work(url))
    assert (seen.ended, seen.error) == (ended, error)
    assert len(seen.text) <= 200_000


def test_an_engine_that_hangs_is_waited_for_so_long_and_one_in_mid_stream_is_cut(engine: FakeEngine) -> None:
    made = sample(engine)

    async def work(seconds: float = PATIENCE_SECONDS) -> Any:
        engines = EvaluatorEngines([engine.url], EngineBounds(), time.monotonic)
        try:
            (one,) = engines
            return await replay(one, made, CANDIDATE, ReplayBounds(seconds=seconds))
        finally:
            await engines.close()

    began = time.monotonic()
    assert asyncio.run(work()).ended is Ended.COMPLETE
    enough = max(0.3, 10 * (time.monotonic() - began))  # for as much of an answer as there is
    engine.set(hang=True)
    seen = asyncio.run(work(enough))
    assert (seen.ended, seen.error) == (Ended.FAILED, "late")
    engine.set(hang=False, hang_after=5)
    seen = asyncio.run(work(enough))
    assert seen.ended is Ended.TRUNCATED
    assert 0 < len(seen.text.split()) <= 5
    assert engine.wait_for(lambda running: running.running == 0)  # the connection was closed: it may stop generating


def test_an_engine_that_hangs_when_asked_what_it_has_holds_up_no_other(engine: FakeEngine) -> None:
    ticks = itertools.count(0.0, 10.0)

    async def work(port: int, dead: socket.socket) -> None:
        urls = [f"http://127.0.0.1:{port}", engine.url]
        engines = EvaluatorEngines(urls, EngineBounds(look_seconds=60.0), lambda: next(ticks))
        try:
            assert (await engines.find(CONTROL))[1] == ""
            dead.listen()  # from now on it takes connections, and says nothing
            for _ in range(3):
                found, _ = await engines.find(CONTROL)
                assert found is not None
                assert found.url == engine.url
        finally:
            await engines.close()

    async def bounded(port: int, dead: socket.socket) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await work(port, dead)

    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        asyncio.run(bounded(dead.getsockname()[1], dead))
