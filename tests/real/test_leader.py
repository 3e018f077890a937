"""The gateway that advances rollouts is killed, paused and cut off: another goes on, and nothing happens twice."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.rollout.journal import verify
from gateway.rollout.replay import replay
from gateway.store.rollouts import readable
from gateway.store.sql import Store, open_store
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.replicas import ALIAS, Fleet, failures, fleet
from tests.support.tcp_proxy import Cable

pytestmark = pytest.mark.real

STEPS = 20
# Much longer than a leader may be silent.
PAUSE_SECONDS = 30.0
RATE = 60.0


def plan(step_seconds: int) -> dict[str, Any]:
    """Twenty steps of some seconds that nothing but time holds back, then live."""
    step = {"min_time": step_seconds, "min_samples": 1, "gates": []}
    return {"steps": [*({"weight": 100 * (1 + number), **step} for number in range(STEPS)), {"weight": "100%"}]}


def leaders(gateways: list[RunningGateway]) -> list[RunningGateway]:
    """Those that think that they lead."""
    return [each for each in gateways if each.metrics().get("loragate_leader") == 1.0]


def story(store: Store, rollout: str) -> list[dict[str, Any]]:
    return [dict(each.record) for each in store.journal() if each.record.get("rollout") == rollout]


def check_story(store: Store, rollout: str) -> None:
    """Every transition is there once, in order, whole, and leads to what is stored."""
    records = story(store, rollout)
    assert [each["sequence"] for each in records] == list(range(1, len(records) + 1))
    assert verify(store.journal(), head=store.journal_head()) is None
    (stored,) = [each for each in store.rollouts(ALIAS) if each.id == rollout]
    assert replay(records) == readable(stored).rollout
    weights = [each["after"]["weight"] for each in records if each["event"]["type"] in ("Started", "StepPassed")]
    assert weights == [*(100 * (1 + number) for number in range(STEPS)), 0]
    assert records[-1]["after"]["phase"] == "live"


def run(
    made: Fleet,
    disturb: Callable[[RunningGateway], None],
    undisturb: Callable[[RunningGateway], None],
    *,
    pause_seconds: float = 0.0,
    step_seconds: int = 1,
) -> None:
    """Roll out by plan, disturb the leader in the middle of it, and see it end well."""
    store = open_store(made.database, now=time.time)
    until(lambda: len(leaders(made.gateways)) == 1)
    (leader,) = leaders(made.gateways)
    others = [each for each in made.gateways if each is not leader]
    with made.load(RATE, only=others) as load:
        order = {"candidate": made.new, "plan": plan(step_seconds), "reason": "test"}
        started = others[0].admin("POST", f"routes/{ALIAS}/rollout", order)
        assert started.status_code == 201, started.text
        rollout = started.json()["id"]
        until(lambda: len(story(store, rollout)) > 4)
        before = len(story(store, rollout))
        disturbed_at = time.monotonic()
        disturb(leader)
        until(lambda: len(leaders(others)) == 1 and len(story(store, rollout)) > before + 1)
        taken_over = time.monotonic() - disturbed_at
        time.sleep(max(0.0, disturbed_at + pause_seconds - time.monotonic()))
        undisturb(leader)
        until(lambda: story(store, rollout)[-1]["after"]["phase"] == "live", seconds=3 * PATIENCE_SECONDS)
        time.sleep(3)  # for what an old leader might still do
        load.__exit__()
    print(f"\nanother went on after {taken_over:.1f} s, {before} records in; {len(load.done):,} requests")
    check_story(store, rollout)
    assert failures(load.done) == []
    store.close()


def test_a_leader_that_is_killed_is_followed_by_another() -> None:
    with fleet(3, 1) as made:

        def kill(leader: RunningGateway) -> None:
            leader.process.kill()
            leader.process.wait()

        run(made, kill, lambda leader: leader.start())
        assert len(leaders(made.gateways)) == 1


def test_a_leader_that_is_paused_for_half_a_minute_writes_no_more() -> None:
    with fleet(3, 1) as made:
        run(
            made,
            lambda leader: os.kill(leader.process.pid, signal.SIGSTOP),
            lambda leader: os.kill(leader.process.pid, signal.SIGCONT),
            pause_seconds=PAUSE_SECONDS,
            step_seconds=2,
        )
        until(lambda: len(leaders(made.gateways)) == 1)
        resigned = [each for each in made.gateways if "leads no more" in each.log_path.read_text()]
        assert len(resigned) == 1, "the old leader has noticed"


def test_a_leader_that_is_cut_off_from_the_store_is_followed_by_another() -> None:
    cables: dict[int, Cable] = {}
    with contextlib.ExitStack() as stack:

        def behind_a_cable(database: str, number: int) -> str:
            host, _, name = database.rpartition("/")
            cables[number] = stack.enter_context(Cable(int(host.rpartition(":")[2])))
            return f"{host.rpartition(':')[0]}:{cables[number].port}/{name}"

        with fleet(3, 1, address=behind_a_cable) as made:
            run(
                made,
                lambda leader: cables[made.gateways.index(leader)].cut(),
                lambda leader: cables[made.gateways.index(leader)].mend(),
            )
            until(lambda: len(leaders(made.gateways)) == 1)
            for gateway in made.gateways:  # the one that was cut off has caught up
                until(lambda gateway=gateway: route_of(gateway)["control"] == made.new)  # type: ignore[misc]


def route_of(gateway: RunningGateway) -> dict[str, Any]:
    (route,) = gateway.admin("GET", "routes").json()["routes"]
    return dict(route)
