"""Several gateways on one store: what is changed at one is served by all."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import until


@pytest.fixture
def replicas(engine: FakeEngine, tmp_path: Path) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    """Two gateways on one SQLite file."""
    environment = {
        "LORAGATE_STORE": f"sqlite:///{tmp_path / 'shared.db'}",
        "LORAGATE_ADAPTERS__REGISTRY": str(tmp_path / "registry"),
    }
    with ExitStack() as stack:
        yield (
            stack.enter_context(RunningGateway(engine.url, environment=environment)),
            stack.enter_context(RunningGateway(engine.url, environment=environment)),
        )


def ask(gateway: RunningGateway, model: str, key: str) -> httpx.Response:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    return httpx.post(
        f"{gateway.url}/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30
    )


def test_keys_adapters_and_removals_reach_the_other_gateway(
    replicas: tuple[RunningGateway, RunningGateway], tmp_path: Path
) -> None:
    one, two = replicas
    made = one.admin("POST", "keys", {"role": "app"}).json()
    until(lambda: ask(two, "base", made["key"]).status_code == 200)
    added = one.admin("POST", "adapters", {"source": str(write_adapter(tmp_path / "a")), "name": "support"})
    assert added.status_code == 201, added.text
    version = added.json()["version"]
    until(lambda: ask(two, "support", made["key"]).status_code == 200)
    assert ask(two, "support", made["key"]).headers["x-loragate-version"] == version
    assert two.admin("DELETE", "adapters/support").status_code == 200
    until(lambda: ask(one, "support", made["key"]).status_code == 404)
    two.admin("DELETE", f"keys/{made['id']}")
    until(lambda: ask(one, "base", made["key"]).status_code == 401)


def test_each_knows_of_the_other_until_it_ends(replicas: tuple[RunningGateway, RunningGateway]) -> None:
    one, two = replicas
    until(lambda: len(one.status()["replicas"]) == 2)
    assert {each["url"] for each in one.status()["replicas"]} == {one.url, two.url}
    until(lambda: one.metrics()["loragate_replicas"] == 2)
    two.stop()
    until(lambda: len(one.status()["replicas"]) == 1)


def test_a_gateway_started_without_its_store_serves_the_last_state_and_catches_up(
    engine: FakeEngine, tmp_path: Path
) -> None:
    database = tmp_path / "there" / "shared.db"
    database.parent.mkdir()
    environment = {"LORAGATE_STORE": f"sqlite:///{database}", "LORAGATE_ADAPTERS__REGISTRY": str(tmp_path / "registry")}
    state = tmp_path / "s"
    state.mkdir()
    with RunningGateway(engine.url, environment=environment, state=state) as gateway:
        added = gateway.admin("POST", "adapters", {"source": str(write_adapter(tmp_path / "a")), "name": "support"})
        assert added.status_code == 201, added.text
        gateway.stop()
        database.parent.rename(tmp_path / "away")
        database.parent.write_text("a file where the folder was")
        gateway.start()
        assert ask(gateway, "support", gateway.key).status_code == 200
        until(lambda: gateway.status()["store"]["is_away"])
        assert gateway.metrics()["loragate_store_up"] == 0
        ready = httpx.get(f"{gateway.control_url}/readyz")
        assert ready.status_code == 200
        assert "away" in ready.json()["store"]
        refused = gateway.admin("POST", "keys", {"role": "app"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        database.parent.unlink()
        (tmp_path / "away").rename(database.parent)
        until(lambda: not gateway.status()["store"]["is_away"])
        key = gateway.admin("POST", "keys", {"role": "app"}).json()["key"]
        assert ask(gateway, "support", key).status_code == 200
        with closing(sqlite3.connect(database)) as store:
            assert store.execute("SELECT count(*) FROM keys").fetchone() == (2,)


def test_a_store_that_was_emptied_does_not_empty_what_is_served(engine: FakeEngine, tmp_path: Path) -> None:
    with RunningGateway(engine.url, state=tmp_path) as gateway:
        gateway.stop()
        for path in tmp_path.glob("state.db*"):
            path.rename(tmp_path / f"away-{path.name}")
        gateway.start()
        assert ask(gateway, "base", gateway.key).status_code == 200
        refused = gateway.admin("POST", "keys", {"role": "app"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "is empty" in gateway.log_path.read_text()


def test_a_shared_store_without_a_shared_registry_is_refused(tmp_path: Path) -> None:
    gateway = RunningGateway(
        "http://127.0.0.1:9", state=tmp_path, environment={"LORAGATE_STORE": "postgresql://u@127.0.0.1/x"}
    )
    assert "adapters.registry" in gateway.cli("serve", expect=2)
