"""Twenty evaluators on one PostgreSQL, five of which are killed: every sample is judged once, and none is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from sqlalchemy import Connection, text

from evaluators.observation import Drift, Score, ScoredPair
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.sample import Sample
from gateway.records.state import Desired
from gateway.store.evaluators import Evaluators
from gateway.store.pairs import Pairs, insert_pair
from gateway.store.samples import Depth, Samples
from gateway.store.sql import Store, open_store
from tests.fakes.engine import FakeEngine
from tests.support import store_processes
from tests.support.load import percentile
from tests.support.postgres import RunningPostgres
from tests.support.samples import judged, sample
from tests.support.store_listeners import heard, running

pytestmark = pytest.mark.real

EVALUATORS = 20
KILLED = 5
SAMPLES = 2500
LEASE_SECONDS = 3.0
WORK_SECONDS = 0.004
# For a machine that does much else: alone, two cores need a quarter of it.
PATIENCE_SECONDS = 600.0
DAY = 86_400.0
# Of the real command, whose processes take a machine of two cores minutes to start by the score.
PROCESSES = 8
KILLED_PROCESSES = 3
REPLAYED = 200
CONTROL, OTHER = "support@aaaaaaaaaaaa", "support@bbbbbbbbbbbb"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningPostgres]:
    # As it is run in earnest: what was answered as done is on the disk.
    with RunningPostgres("fsync=on", "max_connections=200") as server:
        yield server


@pytest.fixture
def store(server: RunningPostgres) -> Iterator[Store]:
    store = open_store(server.database(), now=time.time, seconds=PATIENCE_SECONDS)
    store.prepare()
    yield store
    store.close()


def follow(pairs: Pairs, found: list[ScoredPair]) -> None:
    """Read on from the last number, as a leader does; a number that came late would never be read."""
    while page := pairs.since(found[-1].number if found else 0):
        found += page


def test_of_twenty_evaluators_five_are_killed_and_each_sample_is_judged_once(
    server: RunningPostgres, store: Store
) -> None:
    chance = random.Random(11)
    samples, pairs = Samples(store), Pairs(store)
    where = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    found: list[ScoredPair] = []
    told: list[str] = []
    changes: list[float] = []
    quiet = [_change(store) for _ in range(30)]
    with ExitStack() as stack:
        evaluators = [
            stack.enter_context(
                running(store_processes.judge_for_ever, where, f"evaluator-{number}", LEASE_SECONDS, WORK_SECONDS)
            )
            for number in range(EVALUATORS)
        ]
        time.sleep(3)  # all of them look for work
        began = time.monotonic()
        for first in range(0, SAMPLES, 500):
            assert samples.put([sample(number) for number in range(first, first + 500)], DAY) == 0
        put_seconds = time.monotonic() - began
        victims = chance.sample(evaluators, KILLED)
        kill_at = sorted(chance.uniform(0.1, 0.6) * SAMPLES for _ in victims)
        while len(found) < SAMPLES and time.monotonic() < began + PATIENCE_SECONDS:
            changes.append(_change(store))
            follow(pairs, found)
            if kill_at and len(found) >= kill_at[0]:
                kill_at.pop(0)
                os.kill(victims.pop()[0], signal.SIGKILL)
            for _, connection in evaluators:
                told += [str(each) for each in heard(connection)]
            time.sleep(0.02)
        took = time.monotonic() - began
    assert not victims
    assert [each.number for each in found] == list(range(1, SAMPLES + 1))
    assert {each.sample for each in found} == {sample(number).id for number in range(SAMPLES)}
    assert len(set(told)) == len(told)
    assert pairs.since(0, SAMPLES + 1) == found
    assert samples.depth() == Depth()
    assert samples.tokens_spent("support") == SAMPLES
    print(
        f"\n{SAMPLES} samples put in {put_seconds:.1f} s; judged by {EVALUATORS} evaluators, {KILLED} of them killed,"
    )
    print(f"in {took:.1f} s: {SAMPLES / took:.0f} pairs/s, each with {WORK_SECONDS * 1000:g} ms of work")
    for name, each in (("nobody works", quiet), ("they work", changes)):
        p50, p99 = (1000 * percentile(each, share) for share in (0.5, 0.99))
        print(f"a change of the state while {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms (n={len(each)})")


def test_of_eight_processes_of_loragate_evaluate_three_are_killed_and_each_sample_is_judged_once(
    server: RunningPostgres, store: Store, tmp_path: Path
) -> None:
    chance = random.Random(12)
    samples, pairs, evaluators = Samples(store), Pairs(store), Evaluators(store)
    where = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    found: list[ScoredPair] = []
    # Few comparators: what is shown is who does the work, not how long it takes.
    policy = MirrorPolicy(share=TOTAL_WEIGHT, comparators=("exact", "edit", "finish_reason"))
    route = RouteRecord(alias="support", control=CONTROL, candidate=OTHER, salt="s", mirror=policy)
    store.write_state(Desired(routes=(route,)), expected=0)
    with ExitStack() as stack:
        engine = stack.enter_context(FakeEngine(adapters={CONTROL: "/c", OTHER: "/o"}, check_folders=False))
        began = time.monotonic()
        processes = [
            stack.enter_context(evaluating(engine.url, where, tmp_path / f"{number}.log"))
            for number in range(PROCESSES)
        ]
        until = began + PATIENCE_SECONDS
        while len(evaluators.alive(PATIENCE_SECONDS)) < PROCESSES and time.monotonic() < until:
            time.sleep(0.2)
        assert len(evaluators.alive(PATIENCE_SECONDS)) == PROCESSES, (tmp_path / "0.log").read_text()
        started = time.monotonic()
        put = [mirrored(engine, number) for number in range(REPLAYED)]
        assert samples.put(put, DAY) == 0
        victims = chance.sample(processes, KILLED_PROCESSES)
        kill_at = sorted(chance.uniform(0.05, 0.6) * REPLAYED for _ in victims)
        while len(found) < REPLAYED and time.monotonic() < until:
            follow(pairs, found)
            if kill_at and len(found) >= kill_at[0]:
                kill_at.pop(0)
                victims.pop().kill()
            time.sleep(0.05)
        took = time.monotonic() - started
        told = [int(each["completed"]) for each in evaluators.alive(PATIENCE_SECONDS).values()]
        asked = sum(request.target == CHAT for request in engine.requests)
    assert not victims
    assert [each.number for each in found] == list(range(1, REPLAYED + 1))
    assert {each.sample for each in found} == {each.id for each in put}
    assert all(isinstance(each.scores["exact"], Score) for each in found)
    assert samples.depth() == Depth()
    print(
        f"\n{PROCESSES} x `loragate evaluate` were up after {started - began:.1f} s; {REPLAYED} samples were replayed"
    )
    print(
        f"and judged in {took:.1f} s, {REPLAYED / took:.1f} pairs/s, though {KILLED_PROCESSES} evaluators were killed;"
    )
    print(f"the busiest told of {max(told)}")
    measured = sum(isinstance(each.drift, Drift) for each in found)
    print(f"{asked - REPLAYED} replays on the engine, drift measured for {measured}")


def mirrored(engine: FakeEngine, number: int) -> Sample:
    """A request that the control has answered."""
    asked = {"model": CONTROL, "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 8}
    reply = httpx.post(engine.url + CHAT, json=asked).content
    return sample(
        number,
        control=CONTROL,
        other=OTHER,
        endpoint=CHAT,
        body=msgspec.json.encode(asked),
        reply=reply,
        at=time.time(),
    )


@contextmanager
def evaluating(engine: str, where: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`loragate evaluate`, as it is started on any machine."""
    command = [sys.executable, "-m", "gateway", "evaluate", "--engine", engine, "--store", where]
    settings = {
        "LORAGATE_ADAPTERS__REGISTRY": str(log.parent),
        "LORAGATE_EVALUATOR__LEASE_SECONDS": str(LEASE_SECONDS),
        "LORAGATE_EVALUATOR__TOKENS_PER_SECOND": "1000000",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **settings}, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_change_of_the_state_does_not_wait_for_evaluators(store: Store) -> None:
    samples = Samples(store)
    samples.put([sample(number) for number in range(4)], DAY)
    first, second = samples.claim("one", 2, LEASE_SECONDS)

    def work(connection: Connection) -> float:
        """All that evaluators and gateways do with samples, not committed yet."""
        connection.execute(text("DELETE FROM samples WHERE id = :id"), {"id": first.sample.id})
        connection.execute(text("UPDATE samples SET ready = 0 WHERE id = :id"), {"id": second.sample.id})
        connection.execute(text("SELECT id FROM samples FOR UPDATE"))
        connection.execute(text("UPDATE counters SET value = value"))
        insert_pair(connection, judged(first.sample), None)
        return _change(other)

    other = open_store(store.database.url.render_as_string(hide_password=False), now=time.time, seconds=30.0)
    took = store.run_write(work)  # it would fail after 30 s if it waited
    other.close()
    print(f"\na change of the state beside an open transaction of an evaluator: {1000 * took:.1f} ms")
    assert store.version() == 1


def _change(store: Store) -> float:
    """Seconds that a change of the gateway's state takes."""
    desired = store.read_state()
    began = time.monotonic()
    store.write_state(Desired(version=desired.version), expected=desired.version, journal=[{"what": "rolled back"}])
    return time.monotonic() - began
