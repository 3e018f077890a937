"""Kill the gateway at any moment of a ramp: journal, rollout and split always tell the same story."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.admin.rollouts.apply import route_after
from gateway.rollout.replay import KIND, replay
from gateway.store.rollouts import readable
from gateway.store.sql import Store, open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.background_request import Work
from tests.support.gateways import RunningGateway
from tests.support.patience import until

pytestmark = pytest.mark.simulation

KILLS = 30
# Without gates, so that each look of the leader goes one step further.
STEP = {"min_time": 0, "min_samples": 0, "gates": []}
PLAN = {"steps": [*({"weight": 1000 * step, **STEP} for step in range(1, 10)), {"weight": 10_000}]}
KEYS = "keys"
COMMANDS = (
    "rollouts/support/pause",
    "rollouts/support/resume",
    "rollouts/support/resume",
    "routes/support/rollback",
    KEYS,
    KEYS,
)


def check_story(store: Store) -> int:
    """Check that records, rollouts and the split agree; returns the number of transitions."""
    assert store.verify_journal() is None
    desired = store.read_state()
    entries = store.journal()
    rollouts = store.rollouts()
    for record in rollouts:
        stored = readable(record).rollout
        records = [each.record for each in entries if each.record.get("rollout") == record.id]
        assert replay(each for each in records if each["kind"] == KIND) == stored
        assert record.is_open is not stored.is_over
    route = desired.route("support")
    assert route is not None
    if desired.rollouts:
        assert route_after(route, readable(desired.rollouts[0]).rollout, 0) == route
    else:
        assert route.weight == 0
    # What the last record of this alias says of the split is what there is.
    last = next(each.record for each in reversed(entries) if each.record.get("kind") in (KIND, "rollback", "route"))
    if last["kind"] == KIND:
        assert (route.control, route.weight) == (last["after"]["home"], last["after"]["weight"])
    else:
        assert (route.control, route.weight) == (last["after"]["control"], last["after"]["weight"])
    return len(entries)


def check_story_under_way(store: Store) -> int:
    """Check the same while a gateway goes on writing: what it wrote between two looks of ours proves nothing."""
    while True:
        before = store.version()
        try:
            return check_story(store)
        except AssertionError:
            if store.version() == before:
                raise


def seconds_for_a_key(gateway: RunningGateway) -> float:
    work = Work(gateway, KEYS, {})
    work.end()
    return work.seconds


def wait_for_steps(gateway: RunningGateway, steps: int) -> None:
    """Wait until the rollout has taken so many steps more, or stands still."""

    def rollout() -> dict[str, Any]:
        found: dict[str, Any] = gateway.admin("GET", "rollouts/support").json()
        return found

    aim = rollout()["sequence"] + steps
    until(lambda: rollout()["sequence"] >= aim or not rollout()["is_open"] or rollout()["phase"] == "paused")


def test_a_gateway_that_is_killed_at_any_moment_of_a_ramp_loses_and_doubles_nothing(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    moments = random.Random(11)
    points: Counter[str] = Counter()
    with FakeEngine() as engine, RunningGateway(engine.url, state=state) as gateway:
        versions = []
        for seed in (1, 2):
            add = {"source": str(adapter_folder(tmp_path / str(seed), seed)), "name": "support", "activate": seed == 1}
            versions.append(gateway.admin("POST", "adapters", add).json()["version"])
        store = open_store(state, now=time.time)
        with contextlib.closing(store):
            quickest = dict.fromkeys(COMMANDS, min(seconds_for_a_key(gateway) for _ in range(5)))
            entries = 0
            for number in range(KILLS):
                control = gateway.admin("GET", "routes/support").json()["control"]
                candidate = versions[control == versions[0]]
                start = {"candidate": candidate, "plan": PLAN, "reason": f"start {number}"}
                answer = gateway.admin("POST", "routes/support/rollout", start)
                assert answer.status_code in (201, 409), answer.text
                # After none, one or two of the leader's looks, at any moment of what a command takes here.
                wait_for_steps(gateway, moments.choice((0, 0, 1, 2)))
                path = moments.choice(COMMANDS)
                command = Work(gateway, path, {} if path == KEYS else {"reason": f"kill {number}"})
                was_over = command.is_over_after(moments.uniform(0, quickest[path]))
                points["after a command" if was_over else "within a command"] += 1
                os.kill(gateway.process.pid, signal.SIGKILL)
                gateway.process.wait()
                command.end()
                if was_over:  # it was quicker than ever
                    quickest[path] = min(quickest[path], command.seconds)
                grown = check_story(store)
                assert grown >= entries, "nothing journalled is lost"
                gateway.start()
                entries = check_story_under_way(store)
            serves = gateway.admin("GET", "routes/support").json()
            body = {"model": "support", "prompt": "a", "max_tokens": 1}
            reply = httpx.post(gateway.url + "/v1/completions", json=body, headers=gateway.headers)
            assert reply.headers["x-loragate-version"] in (serves["control"], serves["candidate"])
    print(f"\n{KILLS} kills: {dict(points)}, {entries} journal entries, none lost or doubled")
    assert points["within a command"] >= KILLS // 4, "kills must hit commands under way"
