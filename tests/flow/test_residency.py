"""More adapters than an engine holds: loaded when they are asked for, and no request fails for it."""

import concurrent.futures
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.artifact import read_manifest, take_copy
from adapters.catalog import Entry
from adapters.lifecycle import State
from adapters.reference import AdapterRef
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

MESSAGES = [{"role": "user", "content": "hi"}]
TWO_SLOTS = {"LORAGATE_ENGINE__MAX_CPU_LORAS": "2", "LORAGATE_LIMITS__LOAD_SECONDS": "60"}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def gateway(engine: FakeEngine) -> Iterator[RunningGateway]:
    with RunningGateway(engine.url, environment=TWO_SLOTS) as gateway:
        yield gateway


def add(gateway: RunningGateway, folder: Path, name: str, **more: object) -> str:
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": name, **more})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["version"])


def ask(gateway: RunningGateway, model: str) -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 2}
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=PATIENCE_SECONDS, verify=False) as client:
        return client.post("/v1/chat/completions", json=body)


def test_an_evicted_version_is_loaded_when_it_is_asked_for(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    versions = [add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}") for seed in range(4)]
    assert len(engine.adapters) == 2
    for _ in range(2):
        for number, version in enumerate(versions):
            reply = ask(gateway, f"a{number}")
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-loragate-version"] == reply.json()["model"] == version
            assert len(engine.adapters) <= 2
    metrics = gateway.metrics()
    assert metrics[f'loragate_adapter_evictions_total{{engine="{engine.url}"}}'] >= 6
    assert metrics[f'loragate_adapters_resident{{engine="{engine.url}"}}'] == 2
    assert metrics[f'loragate_adapter_slots{{engine="{engine.url}"}}'] == 2
    waits = sum(value for series, value in metrics.items() if series.startswith("loragate_adapter_wait_seconds_count"))
    assert waits >= 6


def test_a_pinned_old_version_is_loaded_and_what_is_served_stays_warm(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    old = [add(gateway, write_adapter(tmp_path / str(seed), seed), "support") for seed in range(3)]
    control = add(gateway, write_adapter(tmp_path / "new", 9), "support")
    for version in old:
        assert ask(gateway, version).headers["x-loragate-version"] == version
        assert control in engine.adapters, "the control is kept while rollback versions take turns"
    assert ask(gateway, "support").headers["x-loragate-version"] == control


def test_many_requests_for_one_cold_version_cause_one_load(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    names = [f"a{seed}" for seed in range(3)]
    versions = [add(gateway, write_adapter(tmp_path / name, seed), name) for seed, name in enumerate(names)]
    cold = next(name for name, version in zip(names, versions, strict=True) if version not in engine.adapters)
    before = gateway.metrics()[f'loragate_adapter_loads_total{{engine="{engine.url}",outcome="ok"}}']
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: ask(gateway, cold), range(16)))
    assert {reply.status_code for reply in replies} == {200}
    after = gateway.metrics()[f'loragate_adapter_loads_total{{engine="{engine.url}",outcome="ok"}}']
    assert after - before == 1


def test_a_version_that_the_engine_forgot_a_moment_ago_is_brought_back_without_a_failed_request(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    version = add(gateway, write_adapter(tmp_path / "1"), "support")
    for _ in range(5):
        engine.core.adapters.clear()
        reply = ask(gateway, "support")
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == version


def test_a_404_that_is_the_engines_own_answer_reaches_the_client(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    add(gateway, write_adapter(tmp_path / "1"), "support")
    body = {"model": "support", "messages": MESSAGES, "fake": {"status": 404}}
    reply = httpx.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers)
    assert reply.status_code == 404
    assert "loragate" not in reply.text.lower()


def test_a_version_that_cannot_be_loaded_any_more_says_why(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    versions = [add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}") for seed in range(3)]
    number = next(number for number, version in enumerate(versions) if version not in engine.adapters)
    copy = Path(gateway.admin("GET", f"adapters/a{number}").json()["folder"])
    for file in copy.iterdir():
        file.unlink()
    copy.rmdir()
    reply = ask(gateway, f"a{number}")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "version_not_ready"
    assert versions[number] in reply.json()["error"]["message"]
    assert "retry-after" in reply.headers
    assert ask(gateway, f"a{(number + 1) % 3}").status_code == 200


def test_a_client_that_leaves_while_it_waits_disturbs_nobody(
    gateway: RunningGateway, engine: FakeEngine, tmp_path: Path
) -> None:
    for seed in range(3):
        add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}")
    for seed in (0, 1, 2, 0, 1, 2):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(
                gateway.url + "/v1/chat/completions",
                headers=gateway.headers,
                timeout=0.002,
                json={"model": f"a{seed}", "messages": MESSAGES, "fake": {"hang": True}},
            )
    assert [ask(gateway, f"a{seed}").status_code for seed in range(3)] == [200] * 3
    gateway.wait_until(
        lambda _: (
            sum(
                value for series, value in gateway.metrics().items() if series.startswith("loragate_requests_in_flight")
            )
            == 0
        )
    )


# The promise, at size


ADAPTERS = 1_000
SLOTS = 8
RATE = 200.0
SECONDS = 20.0
EXPONENT = 1.2  # of the Zipf law; the 8 most popular of 1,000 get about half of the requests


def _registered(state: Path, folder: Path) -> list[str]:
    """Write a state with 1,000 registered adapters, each behind an alias of its own."""
    entries, routes = [], []
    for number in range(ADAPTERS):
        source = write_adapter(folder / str(number), number)
        manifest = read_manifest(source)
        copy = take_copy(source, state / "adapters", manifest)
        ref = AdapterRef(f"a{number}", manifest.digest)
        entries.append(
            Entry(ref=ref, manifest=manifest, folder=str(copy), source=str(source), created=1, state=State.READY)
        )
        routes.append(RouteRecord(alias=ref.name, control=ref.version, salt=str(number), created=1))
    store = open_store(state, now=time.time)
    store.write_state(Desired(adapters=tuple(entries), routes=tuple(routes)), expected=0)
    store.close()
    return [entry.ref.version for entry in entries]


@pytest.mark.simulation
def test_a_thousand_adapters_share_eight_slots_and_no_request_fails(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    versions = _registered(state, tmp_path / "sources")
    arguments = [sys.executable, "-m", "tests.fakes.engine", "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as engine:
        try:
            assert engine.stdout is not None
            url = json.loads(engine.stdout.readline())["url"]
            began = time.monotonic()
            environment = {"LORAGATE_ENGINE__MAX_CPU_LORAS": str(SLOTS), "LORAGATE_ADAPTERS__PROBE_SECONDS": "5"}
            with RunningGateway(url, state=state, environment=environment) as gateway:
                started = time.monotonic() - began
                slots = f'loragate_adapters_resident{{engine="{url}"}}'
                gateway.wait_until(lambda _: gateway.metrics()[slots] == SLOTS)
                _meet(gateway)
                before = gateway.metrics()
                waits, failed, wrong = _drive(gateway, versions)
                metrics = gateway.metrics()
        finally:
            engine.terminate()

    def grown(series: str) -> float:
        return sum(value - before.get(name, 0.0) for name, value in metrics.items() if name.startswith(series))

    cold = grown("loragate_adapter_wait_seconds_count")
    loads = grown(f'loragate_adapter_loads_total{{engine="{url}",outcome="ok"}}')
    waits.sort()
    p50, p99 = (_quantile(before, metrics, "loragate_adapter_wait_seconds", share) * 1000 for share in (0.5, 0.99))
    print(
        f"\n{len(waits)} requests at {RATE:g}/s over {ADAPTERS} adapters, {SLOTS} slots: {len(failed)} failed, "
        f"hit rate {1 - cold / len(waits):.0%}, {loads:.0f} loads; p50 {statistics.median(waits) * 1000:.1f} ms, "
        f"p99 {waits[int(len(waits) * 0.99)] * 1000:.0f} ms; those who waited for a load waited at most {p50:.0f} ms "
        f"in the median, {p99:.0f} ms at p99; the gateway started in {started:.2f} s"
    )
    assert failed == []
    assert wrong == []
    assert len(waits) > 0.9 * RATE * SECONDS
    assert cold > 100, "requests had to wait for loads, or this test shows nothing"
    assert metrics[slots] == SLOTS


def _quantile(before: dict[str, float], after: dict[str, float], name: str, share: float) -> float:
    """Return the upper bound of the bucket that holds a quantile, summed over versions."""
    buckets: dict[float, float] = {}
    for series, value in after.items():
        found = re.fullmatch(name + r'_bucket{.*le="([^"]+)".*}', series)
        if found:
            bound = float(found[1])
            buckets[bound] = buckets.get(bound, 0.0) + value - before.get(series, 0.0)
    return min(bound for bound, count in buckets.items() if count >= share * max(buckets.values()))


def _meet(gateway: RunningGateway) -> None:
    """Have each adapter loaded once, as registering it would have: its fingerprint is on record from then on."""

    def one(number: int) -> int:
        body = {"model": f"a{number}", "messages": MESSAGES, "max_tokens": 1}
        return client.post("/v1/chat/completions", json=body).status_code

    with (
        httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=PATIENCE_SECONDS, verify=False) as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        assert set(pool.map(one, range(ADAPTERS))) == {200}


def _drive(gateway: RunningGateway, versions: list[str]) -> tuple[list[float], list[str], list[str]]:
    """Send requests on a fixed schedule, whatever the replies do; return seconds, failures, wrong versions."""
    source = random.Random(7)
    weights = [1 / (rank + 1) ** EXPONENT for rank in range(ADAPTERS)]
    names = source.choices(range(ADAPTERS), weights, k=int(RATE * SECONDS))
    seconds: list[float] = []
    failed: list[str] = []
    wrong: list[str] = []

    def one(client: httpx.Client, number: int, at: float) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        begun = time.monotonic()
        reply = client.post("/v1/chat/completions", json={"model": f"a{number}", "messages": MESSAGES})
        seconds.append(time.monotonic() - begun)
        if reply.status_code != 200:
            failed.append(f"a{number}: {reply.status_code} {reply.text[:200]}")
        elif reply.json()["model"] != versions[number]:
            wrong.append(f"a{number}: {reply.json()['model']}")

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=400)
    with (
        httpx.Client(
            base_url=gateway.url, headers=gateway.headers, timeout=PATIENCE_SECONDS, verify=False, limits=limits
        ) as client,
        concurrent.futures.ThreadPoolExecutor(100) as pool,
    ):
        start = time.monotonic() + 0.5
        for index, number in enumerate(names):
            pool.submit(one, client, number, start + index / RATE)
    return seconds, failed, wrong
