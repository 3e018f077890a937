"""Rollouts by what compared pairs say, on a real gateway: found bad and taken back while requests flow, or promoted."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from evaluators.observation import ScoredPair
from gateway.rollout.replay import KIND, replay
from gateway.store.pairs import insert_pair
from gateway.store.rollouts import readable
from gateway.store.sql import Store, open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS
from tests.support.scored_pairs import many
from tests.support.support_rollout import Support

GATES = [{"refusal": {"margin": "20%", "min_samples": 20}}, {"kl": {"limit": 4.9, "min_samples": 20}}]
STEP = {"weight": "30%", "min_time": "0s", "min_samples": 5, "gates": []}


def plan(*gates: Any, **fields: Any) -> dict[str, Any]:
    given = {"pairs": 30, "max_pairs": 60, "share": "100%", "idle": "1s", "gates": list(gates or GATES)}
    return {"shadow": given | fields, "steps": [STEP, {"weight": "100%"}]}


def support_on(gateway: RunningGateway, engine: FakeEngine, folder: Path, alias: str = "support") -> Support:
    versions = []
    for seed in (1, 2):
        source = str(adapter_folder(folder / str(seed), seed))
        reply = gateway.admin("POST", "adapters", {"source": source, "name": alias, "activate": seed == 1})
        versions.append(reply.json()["version"])
    return Support(gateway, engine, alias, versions)


@contextlib.contextmanager
def store_of(gateway: RunningGateway) -> Iterator[Store]:
    store = open_store(gateway.state, now=time.time)
    with contextlib.closing(store):
        yield store


def plant(store: Store, pairs: Iterable[ScoredPair]) -> None:
    """Store pairs as an evaluator does."""

    def work(connection: Connection) -> None:
        for each in pairs:
            insert_pair(connection, each, None)

    store.run_write(work)


def pairs_of(support: Support, rollout: str, n: int, *, bad: float = 0.0) -> list[ScoredPair]:
    now = time.time()
    fields: dict[str, Any] = {"alias": support.alias, "rollout": rollout, "at": now, "scored_at": now}
    return list(many(n, support.first, support.second, bad=bad, **fields))


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine) -> Iterator[RunningGateway]:
    """One that compares nothing itself: the tests make up what evaluators find."""
    with RunningGateway(engine.url, environment={"LORAGATE_EVALUATOR__ENABLED": "false"}) as gateway:
        yield gateway


@pytest.fixture
def support(gateway: RunningGateway, engine: FakeEngine, tmp_path: Path) -> Support:
    alias = f"support-{len(gateway.admin('GET', 'routes').json()['routes'])}"
    return support_on(gateway, engine, tmp_path, alias)


def test_a_good_version_goes_through_shadow_and_canary_to_live_while_requests_flow(support: Support) -> None:
    with support.traffic() as statuses, store_of(support.gateway) as store:
        rollout = support.start(plan())
        assert (rollout["phase"], rollout["weight"]) == ("shadow", 0)
        assert any("none is alive" in each for each in rollout["warnings"])
        plant(store, pairs_of(support, rollout["id"], 60))
        done = support.wait_for(rollout["id"], lambda found: not found["is_open"])
    assert (done["phase"], support.route()) == ("live", (support.second, None, 0))
    assert set(statuses) == {200}
    story = support.story(rollout["id"])
    assert "100 % of the requests are compared on both versions" in story
    assert "stage 1 passes, with 60 samples" in story
    assert "leads to the state as stored" in story


def test_a_bad_version_is_rolled_back_by_itself_and_explained_and_gates_can_be_tried_on_its_pairs(
    support: Support, tmp_path: Path
) -> None:
    gateway = support.gateway
    with support.traffic() as statuses, store_of(gateway) as store:
        rollout = support.start(plan())["id"]
        status = gateway.cli("rollout", "status", rollout)
        assert "warning    an evaluator: none is alive" in status
        assert "0 pairs" in status
        plant(store, pairs_of(support, rollout, 30, bad=0.7))
        done = support.wait_for(rollout, lambda found: not found["is_open"])
    assert (done["phase"], done["last"]["by"]) == ("rolled_back", "automation")
    assert support.route() == (support.first, None, 0)
    assert set(statuses) == {200}
    assert gateway.metrics()[f'loragate_rollbacks_total{{alias="{support.alias}",reason="refusal"}}'] == 1
    story = support.story(rollout)
    for part in ("gate `refusal`: fail: refusal +0.700 > ", "e-value", "most against it: samples"):
        assert part in story

    file = tmp_path / "plan.yaml"
    file.write_text("shadow: {pairs: 30, gates: [{refusal: {margin: 90%, min_samples: 20}}, manual]}\n")
    tried = gateway.cli("gates", "simulate", "--since", "1h", "-f", str(file), "--alias", support.alias)
    assert "not replayed, for pairs do not answer them: manual" in tried
    assert f"{rollout}" in tried
    assert "rolled back" in tried
    answer = gateway.cli("gates", "simulate", "--plan", "shadow 30 pairs 1h", "--alias", support.alias, "--json")
    (replayed,) = answer["rollouts"]
    assert (replayed["simulated"]["outcome"], replayed["simulated"]["gate"]) == ("rolled_back", "refusal")
    assert (replayed["stored_pairs"], replayed["phase"]) == (30, "rolled_back")
    refused = gateway.cli("gates", "simulate", "--plan", "5% → 100%", expect=2)
    assert "no stage reads pairs" in refused


def test_capture_off_is_refused_with_a_sentence(support: Support) -> None:
    route = support.get(f"routes/{support.alias}")
    declared = {"alias": support.alias, "control": route["control"], "mirror": {"share": "1%", "capture": "off"}}
    applied = support.gateway.admin("PUT", "routes", {"routes": [declared], "reason": "no copies"})
    assert applied.status_code == 200, applied.text
    refused = support.start(plan(), expect=409)
    assert "its route says `capture: off`" in refused["error"]["message"]


@pytest.mark.simulation
def test_a_gateway_killed_while_pairs_come_in_decides_the_same_when_it_is_back(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    off = {"LORAGATE_EVALUATOR__ENABLED": "false"}
    with FakeEngine() as engine, RunningGateway(engine.url, state=state, environment=off) as gateway:
        support = support_on(gateway, engine, tmp_path)
        rollout = support.start(plan(pairs=200, max_pairs=400))["id"]
        with store_of(gateway) as store:
            plant(store, pairs_of(support, rollout, 10))
            support.wait_for(rollout, lambda found: found["samples"] == 10)
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
            plant(store, pairs_of(support, rollout, 40, bad=1.0))
            gateway.start()
            done = support.wait_for(rollout, lambda found: not found["is_open"])
            assert done["phase"] == "rolled_back"
            stored = readable(store.rollouts()[0]).rollout
            records = [each.record for each in store.journal() if each.record["kind"] == KIND]
            assert replay(records) == stored
            assert records[-1]["event"]["readings"][0]["first"] == 1, "what came before it was killed counts, too"


@pytest.mark.simulation
def test_from_requests_to_the_verdict_with_the_gateways_own_evaluator(tmp_path: Path) -> None:
    with FakeEngine() as engine, RunningGateway(engine.url) as gateway:
        support = support_on(gateway, engine, tmp_path)
        # The fake's versions differ by some hundredths of a nat.
        assert ended(support, plan({"kl": {"limit": 0.001}})) == ("rolled_back", "StepFailed")
        assert support.route() == (support.first, None, 0)
        assert "gate `kl`: fail: kl" in support.story(support.alias)
        assert ended(support, plan({"kl": {"limit": 4.9, "min_samples": 20}})) == ("live", "StepPassed")
        assert support.route() == (support.second, None, 0)


def ended(support: Support, given: dict[str, Any]) -> tuple[str, str]:
    """Send some requests a second until a rollout ends; returns its phase and last event."""
    rollout = support.start(given)["id"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    with httpx.Client(
        base_url=support.gateway.url, headers=support.gateway.headers, timeout=PATIENCE_SECONDS
    ) as client:
        while time.monotonic() < deadline:
            for _ in range(3):
                assert support.ask(client) == 200
            found = support.get(f"rollouts/{rollout}")
            if not found["is_open"]:
                return found["phase"], found["last"]["event"]
            time.sleep(0.1)
    raise AssertionError(f"the rollout stands at {found}\n{support.gateway.log_path.read_text()}")
