"""The node's own evaluator: it runs while a route mirrors, is started again, and gets what may not be stored."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from evaluators.observation import Drift, Kind, ScoredPair
from gateway.store.pairs import Pairs
from gateway.store.sql import Store, open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

ALIAS = "mirrored"
MARKER = "xyzzy-planted-marker"


@pytest.fixture
def store(gateway: RunningGateway) -> Iterator[Store]:
    opened = open_store(gateway.state, now=time.time)
    yield opened
    opened.close()


def apply(gateway: RunningGateway, control: str, mirror: dict[str, object]) -> None:
    body = {"routes": [{"alias": ALIAS, "control": control, "mirror": mirror}], "reason": "test"}
    reply = gateway.admin("PUT", "routes", body)
    assert reply.status_code == 200, reply.text


def evaluator_pids(gateway: RunningGateway) -> list[int]:
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(gateway.process.pid)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "gateway.evaluate" in line]


def wait_for(holds: Callable[[], bool], gateway: RunningGateway) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, gateway.log_path.read_text()[-3000:]
        time.sleep(0.05)


def ask(gateway: RunningGateway, number: int) -> None:
    body = {"model": ALIAS, "messages": [{"role": "user", "content": f"{MARKER} {number}"}], "seed": number}
    reply = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers)
    assert reply.status_code == 200


def test_what_may_not_be_stored_is_compared_in_memory_and_a_dead_evaluator_is_replaced(
    gateway: RunningGateway, engine: FakeEngine, store: Store, tmp_path: Path
) -> None:
    source = str(adapter_folder(tmp_path / "a", 5))
    control = gateway.admin("POST", "adapters", {"source": source, "name": ALIAS, "activate": True}).json()["version"]
    pairs = Pairs(store)

    def found() -> list[ScoredPair]:
        return pairs.since(0, alias=ALIAS)

    assert evaluator_pids(gateway) == []
    apply(gateway, control, {"share": "100%", "capture": "metrics_only"})
    try:
        for number in range(3):
            ask(gateway, number)
        wait_for(lambda: len(found()) == 3, gateway)
        (first,) = evaluator_pids(gateway)
        subprocess.run(["kill", "-9", str(first)], check=True)
        ask(gateway, 3)
        wait_for(lambda: len(found()) == 4, gateway)
        assert evaluator_pids(gateway) != [first]
    finally:
        apply(gateway, control, {"share": 0})
    judged = found()
    assert {each.kind for each in judged} <= {Kind.BASE, Kind.NOISE}
    assert all(isinstance(each.drift, Drift) or isinstance(each.drift_back, Drift) for each in judged)
    assert all(each.scores for each in judged)
    written = [each for each in gateway.state.rglob("*") if each.is_file()]
    assert [each.name for each in written if MARKER.encode() in each.read_bytes()] == []
    assert b"metrics_only" in b"".join(each.read_bytes() for each in written)  # they were the right files


def test_what_may_not_be_stored_is_given_to_the_control_sockets_user_alone(gateway: RunningGateway) -> None:
    key = gateway.create_key("admin")
    reply = httpx.post(
        f"{gateway.control_url}/admin/v1/shadow/straight", content=b"\x80", headers={"authorization": f"Bearer {key}"}
    )
    assert reply.status_code == 403
    assert gateway.admin("POST", "shadow/straight", {}).status_code == 400
    socket = httpx.HTTPTransport(uds=str(gateway.state / "control.sock"), verify=False)
    with httpx.Client(transport=socket, headers={"idempotency-key": "k"}) as client:  # the reply would be stored
        reply = client.post("http://control/admin/v1/shadow/straight", content=b"\x80")
    assert "`idempotency-key` is not taken" in reply.text
    assert "/admin/v1/shadow/straight" not in gateway.admin("GET", "../openapi.json").text
