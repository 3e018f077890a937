"""Fingerprints in a running gateway: what is wrong is not served, says why, and is served again once it is right."""

import concurrent.futures
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.knobs import Knobs
from tests.support.adapter_folders import tensors_of, write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until

NO_KEYS = ("--no-auth",)
OFTEN = {"LORAGATE_ADAPTERS__PROBE_SECONDS": "0.03", "LORAGATE_ENGINE__MAX_CPU_LORAS": "4"}
ASKING = 3


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def running(engine: FakeEngine) -> Iterator[RunningGateway]:
    with RunningGateway(engine.url, options=NO_KEYS, environment=OFTEN) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: RunningGateway, engine: FakeEngine) -> Iterator[RunningGateway]:
    """A gateway without adapters; its engine is well again afterwards."""
    yield running
    engine.set(**{name: getattr(Knobs(), name) for name in Knobs.__slots__})
    for adapter in running.admin("GET", "adapters").json()["adapters"]:
        running.admin("DELETE", f"adapters/{adapter['name']}")


def no_op(folder: Path) -> Path:
    """An adapter whose B is all zeros."""
    tensors = {
        name: (dtype, shape, bytes(64) if "lora_B" in name else content)
        for name, (dtype, shape, content) in tensors_of(3).items()
    }
    return write_adapter(folder, tensors=tensors)


def post(gateway: RunningGateway, folder: Path, name: str, **more: object) -> httpx.Response:
    return gateway.admin("POST", "adapters", {"source": str(folder), "name": name, **more})


def add(gateway: RunningGateway, folder: Path, name: str, **more: object) -> str:
    reply = post(gateway, folder, name, **more)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["version"])


def refused(reply: httpx.Response) -> str:
    """The message of a version that failed its fingerprint."""
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["code"] == "fingerprint_failed"
    return str(reply.json()["error"]["message"])


def ask(gateway: RunningGateway, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=PATIENCE_SECONDS, verify=False) as client:
        return client.post("/v1/chat/completions", json=body)


def shown(gateway: RunningGateway, name: str) -> dict[str, Any]:
    view: dict[str, Any] = gateway.admin("GET", f"adapters/{name}").json()
    return view


def checks(gateway: RunningGateway, engine: FakeEngine, verdict: str) -> float:
    return gateway.metrics().get(f'loragate_fingerprint_checks_total{{engine="{engine.url}",verdict="{verdict}"}}', 0.0)


def is_ready(gateway: RunningGateway, engine: FakeEngine, version: str) -> bool:
    series = f'loragate_adapter_ready{{alias="{version.partition("@")[0]}",engine="{engine.url}",version="{version}"}}'
    return gateway.metrics()[series] == 1.0


def folders(gateway: RunningGateway) -> list[str]:
    """What lies in the registry, and among the fingerprints of versions."""
    versions = [subject for subject in gateway.fingerprinted() if "@" in subject]
    return [*(path.name for path in (gateway.state / "adapters").glob("*")), *versions]


def test_an_adapter_that_changes_nothing_is_refused_and_leaves_no_trace(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    message = refused(post(gateway, no_op(tmp_path), "null"))
    assert "differ by 0 nats <= limit 0.001 (4 probes, alone)" in message
    assert "the adapter changes nothing here" in message
    assert gateway.admin("GET", "adapters").json()["adapters"] == []
    assert gateway.admin("GET", "routes").json()["routes"] == []
    assert engine.adapters == {}
    assert folders(gateway) == []
    assert ask(gateway, "null").status_code == 404


def test_it_is_registered_if_it_is_meant_to(gateway: RunningGateway, engine: FakeEngine, tmp_path: Path) -> None:
    version = add(gateway, no_op(tmp_path), "null", allow_no_op=True)
    before = checks(gateway, engine, "ok")
    until(lambda: checks(gateway, engine, "ok") > before + 4)
    assert ask(gateway, "null").headers["x-loragate-version"] == version


def test_swapped_weights_leave_service_at_the_first_probe_and_come_back_when_they_are_right(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    version = add(gateway, write_adapter(tmp_path), "support")
    assert ask(gateway, "support").status_code == 200
    before = checks(gateway, engine, "mismatch")
    engine.set(swapped="support")
    until(lambda: checks(gateway, engine, "mismatch") > before)
    assert version not in gateway.status()["engines"][0]["versions"]
    seen = len(engine.generations)
    reply = ask(gateway, "support")
    assert reply.status_code == 503
    error = reply.json()["error"]
    assert error["code"] == "version_not_ready"
    assert "nats" not in error["message"], "an application is not told what engines say"
    assert not any(one.target == "/v1/chat/completions" for one in engine.generations[seen:])
    (on,) = shown(gateway, "support")["engines"]
    assert "nats > limit 0.01 (4 probes, alone) from this engine's record" in on["reason"]
    assert (on["ready"], on["fingerprint"]["verdict"], on["reason"]) == (False, "mismatch", on["fingerprint"]["reason"])
    until(lambda: shown(gateway, "support")["state"] == "failed")
    assert shown(gateway, "support")["reason"] == on["reason"]
    assert not is_ready(gateway, engine, version)
    assert checks(gateway, engine, "mismatch") >= 1
    assert ask(gateway, "base").status_code == 200

    engine.set(swapped="")
    until(lambda: is_ready(gateway, engine, version))
    assert ask(gateway, "support").headers["x-loragate-version"] == version
    until(lambda: shown(gateway, "support")["state"] == "ready")
    assert shown(gateway, "support")["reason"] is None


def test_an_engine_that_mixes_adapters_up_serves_its_base_alone(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    versions = [add(gateway, write_adapter(tmp_path / name, seed), name) for seed, name in enumerate(("one", "two"))]
    engine.set(mixes_adapters=True, cadence_ms=10)
    until(lambda: not any(is_ready(gateway, engine, version) for version in versions))
    before = checks(gateway, engine, "mismatch")

    def were_tried_again() -> bool:
        assert ask(gateway, "base").status_code == 200
        assert ask(gateway, "one").status_code == 503
        assert not any(is_ready(gateway, engine, version) for version in versions)
        return checks(gateway, engine, "mismatch") >= before + 2

    until(were_tried_again)  # and let in no more

    def is_told_why() -> bool:  # each check tells what it saw, and probes do not always meet
        (on,) = shown(gateway, "two")["engines"]
        told = on["reason"] or ""
        return "the base: top log-probabilities differ" in told and "LORAGATE_CPU_LORA_CURE must not be 0" in told

    until(is_told_why)
    refused(post(gateway, write_adapter(tmp_path, 9), "three"))


def test_another_base_under_the_same_name_is_told_and_stays_in_service(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    until(lambda: gateway.status()["engines"][0]["base"]["verdict"] == "ok")
    engine.set(other_base="another")
    until(lambda: gateway.status()["engines"][0]["base"]["verdict"] == "mismatch")
    assert "mismatch: the base: top log-probabilities differ" in gateway.cli("status")
    assert "ERROR" in next(line for line in gateway.log_path.read_text().splitlines() if "mismatch: the base" in line)
    assert ask(gateway, "base").status_code == 200
    engine.set(other_base="")
    until(lambda: gateway.status()["engines"][0]["base"]["verdict"] == "ok")


def test_records_hold_through_a_restart_other_numbers_are_forgiven_and_other_weights_are_not(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    right = add(gateway, write_adapter(tmp_path / "1", 1), "right")
    add(gateway, write_adapter(tmp_path / "2", 2), "wrong")
    gateway.stop()
    engine.set(system_fingerprint="vllm-0.33.0-another", shift=0.3, jitter=0.002, swapped="wrong")
    seen = len(engine.generations)
    gateway.start()
    until(lambda: is_ready(gateway, engine, right) and checks(gateway, engine, "mismatch"))
    reply = ask(gateway, "wrong")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "version_not_ready")
    (on,) = shown(gateway, "wrong")["engines"]
    assert "nats > limit 1 (4 probes, alone) from this engine's record" in on["reason"]
    assert not any(one.target == "/v1/chat/completions" for one in engine.generations[seen:])
    assert ask(gateway, "right").status_code == 200
    before = checks(gateway, engine, "ok")
    until(lambda: checks(gateway, engine, "ok") > before + 8)
    assert is_ready(gateway, engine, right)


def test_an_engine_that_refuses_log_probabilities_takes_nothing_and_says_what_to_do(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    before = set(folders(gateway))  # of a check that was under way when its adapter went
    engine.set(malformed=True)
    message = refused(post(gateway, write_adapter(tmp_path), "support"))
    assert "--max-logprobs 20" in message
    assert "adapters.fingerprints" in message
    assert set(folders(gateway)) <= before


def test_without_fingerprints_everything_is_served_unchecked(tmp_path: Path) -> None:
    settings = {**OFTEN, "LORAGATE_ADAPTERS__FINGERPRINTS": "false"}
    with (
        FakeEngine(malformed=True) as engine,
        RunningGateway(engine.url, options=NO_KEYS, environment=settings) as gateway,
    ):
        add(gateway, no_op(tmp_path), "null")
        assert "null" in {route["alias"] for route in gateway.admin("GET", "routes").json()["routes"]}
        assert engine.generations == [], "no probe was sent"
        assert ask(gateway, "null").status_code == 200


def test_a_hundred_checks_of_a_noisy_engine_raise_no_alarm(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.set(jitter=0.002)
    versions = [add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}") for seed in range(4)]
    good, bad = checks(gateway, engine, "ok"), checks(gateway, engine, "mismatch")
    until(lambda: checks(gateway, engine, "ok") >= good + 100)
    assert all(is_ready(gateway, engine, version) for version in versions)
    assert checks(gateway, engine, "mismatch") == bad


def test_of_two_engines_the_one_with_other_weights_gets_no_request_and_none_fails(tmp_path: Path) -> None:
    with FakeEngine(ttft_ms=20) as one, FakeEngine(ttft_ms=20, swapped="support") as two:
        two.kill()
        with RunningGateway(one.url, two.url, options=NO_KEYS, environment=OFTEN) as gateway:
            version = add(gateway, write_adapter(tmp_path), "support")
            with asking(gateway, "support") as replies:
                two.start()
                until(lambda: checks(gateway, two, "split_brain") >= 1)
                asked = len(replies)
                until(lambda: len(replies) > asked + 20)
            assert ask(gateway, "base").status_code == 200
            ours, other = shown(gateway, "support")["engines"]
            assert (ours["ready"], other["ready"]) == (True, False)
            assert f"from the record of {one.url}" in other["reason"]
            assert shown(gateway, "support")["state"] == "ready", "an engine serves it"
            assert is_ready(gateway, one, version)
            assert not is_ready(gateway, two, version)
            chats = [json.loads(each.body) for each in two.generations if each.target == "/v1/chat/completions"]
            assert {chat["model"] for chat in chats} <= {"base"}, "its base alone is in service there"
            assert {reply.status_code for reply in replies} == {200}
            two.set(swapped="other")
            # A new one, of which the engines disagree from the start, is taken nowhere.
            assert "from the record of http://" in refused(post(gateway, write_adapter(tmp_path, 2), "other"))


class asking:  # noqa: N801 (used like a function)
    """Ask for a model again and again, several at a time, while the block runs; yields the replies."""

    def __init__(self, gateway: RunningGateway, model: str) -> None:
        self._gateway, self._model = gateway, model
        self._over = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(ASKING)

    def __enter__(self) -> list[httpx.Response]:
        self._replies: list[httpx.Response] = []
        self._tasks = [self._pool.submit(self._ask) for _ in range(ASKING)]
        return self._replies

    def _ask(self) -> None:
        while not self._over.wait(0.01):
            self._replies.append(ask(self._gateway, self._model))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for task in self._tasks:
            task.result()
