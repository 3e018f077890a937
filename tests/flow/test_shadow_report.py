"""The shadow report of a running gateway: over HTTP and on the command line, from pairs in its store."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from evaluators.observation import Drift, Kind, Score, ScoredPair
from gateway.store.pairs import Pairs
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import until

ALIAS = "support"
# Pairs alone decide, and never within this test.
PLAN = {
    "shadow": {"pairs": 1000, "share": "0.01%", "idle": "1s", "gates": [{"kl": {"limit": 2.0}}]},
    "steps": [{"weight": "100%"}],
}


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with an alias, whose second version is in a rollout's shadow stage."""
    with RunningGateway(engine.url, environment={"LORAGATE_EVALUATOR__ENABLED": "false"}) as gateway:
        for seed in (1, 2):
            source = str(adapter_folder(tmp_path_factory.mktemp("adapters") / str(seed), seed))
            order = {"source": source, "name": ALIAS, "activate": seed == 1}
            assert gateway.admin("POST", "adapters", order).status_code == 201
        yield gateway


@pytest.fixture(scope="module")
def rollout(gateway: RunningGateway) -> dict[str, Any]:
    """The rollout, and forty pairs of it with ten of noise in the store."""
    versions = [each["version"] for each in gateway.admin("GET", "adapters").json()["adapters"]]
    control = gateway.admin("GET", f"routes/{ALIAS}").json()["control"]
    candidate = next(each for each in versions if each != control)
    started = gateway.admin(
        "POST", f"routes/{ALIAS}/rollout", {"candidate": candidate, "plan": PLAN, "reason": "another tone"}
    )
    assert started.status_code == 201, started.text
    found: dict[str, Any] = started.json()
    # The leader hears of pairs from its first look at the rollout on, of which it tells at once.
    until(lambda: any(name.startswith("loragate_rollout_gate_bound{") for name in gateway.metrics()))
    store = open_store(gateway.state, now=time.time)
    try:
        pairs = Pairs(store)
        for number in range(50):
            is_noise = number % 5 == 0
            assert pairs.add(
                judged(number, control, control if is_noise else candidate, found, 1e-4 if is_noise else 1.0)
            )
    finally:
        store.close()
    until(lambda: read(gateway) == 40)  # sessions are over when they have been idle for a second
    return found


def read(gateway: RunningGateway) -> int:
    """How many pairs the rollout's gate has read."""
    (gate,) = gateway.admin("GET", f"shadow/{ALIAS}").json()["rollout"]["gates"]
    n: int = gate["n"]
    return n


def judged(number: int, control: str, other: str, rollout: dict[str, Any], kl: float) -> ScoredPair:
    now = time.time()
    return ScoredPair(
        sample=f"{number:032x}",
        session=f"{number:016x}",
        alias=ALIAS,
        rollout=rollout["id"],
        stage=rollout["stage"],
        kind=Kind.NOISE if control == other else Kind.CANDIDATE,
        control=control,
        other=other,
        task="facts" if number % 2 else "support",
        at=now,
        scored_at=now,
        scores={"expected": Score(value=0.25, version="1", control=1.0, candidate=0.5)},
        drift=Drift(n_tokens=10, log_ratio=kl, kl=kl, kl_bound=kl, moved_share=0.1, top1_agreement=0.9),
    )


def test_the_report_has_each_version_by_task_and_the_rollouts_gates(
    gateway: RunningGateway, rollout: dict[str, Any]
) -> None:
    reply = gateway.admin("GET", f"shadow/{ALIAS}")
    assert reply.status_code == 200, reply.text
    report = reply.json()
    assert (report["alias"], report["pairs"], report["is_cut"]) == (ALIAS, 50, False)
    candidate, noise = report["comparisons"]
    assert (candidate["kind"], candidate["n"], noise["kind"], noise["n"]) == ("candidate", 40, "noise", 10)
    assert candidate["version"] == rollout["candidate"]
    assert {task["task"]: task["n"] for task in candidate["tasks"]} == {"facts": 20, "support": 20}
    assert candidate["drift"]["kl"] == pytest.approx(1.0)
    assert candidate["drift"]["noise"] == pytest.approx(1e-4)
    assert report["rollout"]["id"] == rollout["id"]
    (gate,) = report["rollout"]["gates"]
    (evidence,) = report["rollout"]["evidence"]
    assert (gate["gate"], evidence["gate"]) == ("kl", "kl")
    assert gate["n"] == evidence["sessions"][-1] == 40
    assert evidence["e_fail"][-1] == pytest.approx(gate["e_value"], rel=1e-6)
    assert report["queue"]["pending"] == 0


def test_the_list_has_a_line_for_it(gateway: RunningGateway, rollout: dict[str, Any]) -> None:
    (line,) = gateway.cli("shadow", "ls", "--json")["shadows"]
    assert (line["alias"], line["version"], line["n"]) == (ALIAS, rollout["candidate"], 40)
    assert rollout["candidate"] in gateway.cli("shadow", "ls")


def test_the_command_prints_a_table_and_writes_a_page(
    gateway: RunningGateway, rollout: dict[str, Any], tmp_path: Path
) -> None:
    table = gateway.cli("shadow", "report", ALIAS)
    for words in (rollout["candidate"], "facts (20)", "100.0% → 50.0%", "gate kl"):
        assert words in table
    page = tmp_path / "report.html"
    gateway.cli("shadow", "report", ALIAS, "--html", str(page))
    written = page.read_text()
    assert written.startswith("<!DOCTYPE html>")
    assert rollout["candidate"] in written


def test_older_pairs_are_left_out_on_request(gateway: RunningGateway, rollout: dict[str, Any]) -> None:
    report = gateway.cli("shadow", "report", ALIAS, "--since", "1s", "--json")
    assert report["pairs"] == 0
    assert report["rollout"]["id"] == rollout["id"]


def test_what_does_not_exist_is_refused_in_words(gateway: RunningGateway, rollout: dict[str, Any]) -> None:
    for path, status in (
        ("shadow/nobody", 404),
        (f"shadow/{ALIAS}?rollout=ro-00000000", 404),
        (f"shadow/{ALIAS}?since_seconds=0", 400),
    ):
        reply = gateway.admin("GET", path)
        assert reply.status_code == status, path
        assert reply.json()["error"]["message"]
    gateway.cli("shadow", "report", ALIAS, "--since", "soon", expect=2)


def test_the_leader_exports_what_it_saw(gateway: RunningGateway, rollout: dict[str, Any]) -> None:
    wanted = f'loragate_shadow_pairs_total{{alias="{ALIAS}",kind="candidate",version="{rollout["candidate"]}"}} 40.0'
    until(lambda: wanted in httpx.get(gateway.control_url + "/metrics", trust_env=False).text, wanted)
    text = httpx.get(gateway.control_url + "/metrics", trust_env=False).text
    assert f'loragate_rollout_gate_bound{{alias="{ALIAS}",gate="kl"}}' in text
