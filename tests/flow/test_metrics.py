"""What Prometheus is told: parsed by its own parser, added up over workers, bounded."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.engine import FakeEngine
from tests.fakes.pace import PACE
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.raw_client import CHAT, Raw

MESSAGES = [{"role": "user", "content": "hi"}]
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway of three workers with one adapter."""
    folder = write_adapter(tmp_path_factory.mktemp("adapter") / "support")
    with RunningGateway(engine.url, options=["--workers", "3"]) as gateway:
        gateway.admin("POST", "adapters", {"path": str(folder), "name": "support"})
        yield gateway


def scrape(gateway: RunningGateway) -> Series:
    text = httpx.get(gateway.control_url + "/metrics", verify=False).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (each, found), value in series.items() if each == name and wanted <= set(found))


def grown(gateway: RunningGateway, before: Series, name: str, **labels: str) -> float:
    return total(scrape(gateway), name, **labels) - total(before, name, **labels)


def chat(
    gateway: RunningGateway, model: str = "base", path: str = "/v1/chat/completions", **more: Any
) -> httpx.Response:
    # A connection for each request, so that all workers get some.
    body = {"model": model, "messages": MESSAGES, **more}
    return httpx.post(gateway.url + path, json=body, headers=gateway.headers, timeout=PATIENCE_SECONDS, verify=False)


def test_requests_add_up_exactly_over_all_workers(gateway: RunningGateway) -> None:
    before = scrape(gateway)
    with ThreadPoolExecutor(16) as threads:
        plain = [threads.submit(chat, gateway, "support") for _ in range(60)]
        streams = [threads.submit(chat, gateway, stream=True) for _ in range(60)]
        wrong = [threads.submit(chat, gateway, "nobody") for _ in range(30)]
    assert {each.result().status_code for each in plain + streams} == {200}
    assert {each.result().status_code for each in wrong} == {404}
    now = scrape(gateway)
    count = "loragate_requests_total"

    def more(name: str, **labels: str) -> float:
        return total(now, name, **labels) - total(before, name, **labels)

    assert more(count, alias="support", code="200") == 60
    assert more(count, alias="base", code="200") == 60
    assert more(count, code="404") == 30
    assert more(count) == 150
    assert more("loragate_errors_total", code="model_not_found") == 30
    assert more("loragate_request_duration_seconds_count") == 150
    assert more("loragate_time_to_first_token_seconds_count") == 60
    assert more("loragate_overhead_seconds_count") == 120
    assert more("loragate_generation_tokens_total", alias="support") == 60 * 16
    assert more("loragate_generation_tokens_total", alias="base") == 60 * 16
    assert total(now, "loragate_requests_in_flight") == 0


def test_a_version_is_a_label(gateway: RunningGateway) -> None:
    version = chat(gateway, "support").headers["x-loragate-version"]
    series = scrape(gateway)
    assert total(series, "loragate_requests_total", alias="support", version=version, code="200") >= 1
    assert total(series, "loragate_adapter_ready", alias="support", version=version) == 1


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 50}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_and_the_client_sees_nothing_of_it(
    gateway: RunningGateway, engine: FakeEngine, path: str, more: dict[str, Any], stream: bool
) -> None:
    before = scrape(gateway)
    through = chat(gateway, path=path, stream=stream, seed=1, **more)
    body = {"model": "base", "messages": MESSAGES, "stream": stream, "seed": 1, **more}
    direct = httpx.post(engine.url + path, json=body, verify=False)
    assert through.content == direct.content
    assert grown(gateway, before, "loragate_generation_tokens_total", alias="base") == 16
    assert grown(gateway, before, "loragate_prompt_tokens_total", alias="base") >= 1


def test_time_to_first_token_and_between_tokens_are_the_streams_own(gateway: RunningGateway) -> None:
    before = scrape(gateway)
    began = time.monotonic()
    chat(gateway, stream=True, fake={"events": 10, "ttft_ms": 150, "cadence_ms": 30})
    took = time.monotonic() - began
    assert grown(gateway, before, "loragate_time_to_first_token_seconds_count") == 1
    first = grown(gateway, before, "loragate_time_to_first_token_seconds_sum")
    between = grown(gateway, before, "loragate_inter_token_latency_seconds_sum")
    whole = grown(gateway, before, "loragate_request_duration_seconds_sum")
    # The engine waits for so long at least; beyond that each is a part of the next, and all of what the client saw.
    assert first > PACE * 0.14
    assert grown(gateway, before, "loragate_inter_token_latency_seconds_count") >= 8
    assert between > PACE * 0.2
    assert first + between <= whole + 0.001
    assert whole <= took + 0.001
    assert grown(gateway, before, "loragate_time_to_first_token_seconds_bucket", le="0.001") == 0
    assert grown(gateway, before, "loragate_time_to_first_token_seconds_bucket", le="+Inf") == 1


def test_a_whole_reply_has_no_time_to_first_token(gateway: RunningGateway) -> None:
    before = scrape(gateway)
    chat(gateway)
    assert grown(gateway, before, "loragate_time_to_first_token_seconds_count") == 0
    assert grown(gateway, before, "loragate_request_duration_seconds_count") == 1


def test_requests_in_flight_are_shown_while_they_are(gateway: RunningGateway, engine: FakeEngine) -> None:
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(chat, gateway, stream=True, fake={"held": True}) for _ in range(5)]
        assert engine.wait_for(lambda engine: engine.held >= 5)
        try:
            assert total(scrape(gateway), "loragate_requests_in_flight", alias="base") == 5
        finally:
            engine.release()
        assert all(each.result().status_code == 200 for each in asked)
    assert total(scrape(gateway), "loragate_requests_in_flight") == 0


@pytest.mark.parametrize(
    ("fake", "status", "code"),
    [
        ({"status": 429}, "429", "engine_status"),
        ({"status": 500}, "500", "engine_status"),
        ({"cut_after": 1}, "200", "engine_failed"),
    ],
)
def test_errors_are_counted_by_code(gateway: RunningGateway, fake: dict[str, Any], status: str, code: str) -> None:
    before = scrape(gateway)
    chat(gateway, stream="cut_after" in fake, fake=fake)
    assert grown(gateway, before, "loragate_requests_total", alias="base", code=status) == 1
    assert grown(gateway, before, "loragate_errors_total", alias="base", code=code) == 1


def test_a_request_that_its_engine_does_not_answer_in_time_is_counted(hasty: RunningGateway) -> None:
    before = scrape(hasty)
    assert chat(hasty, fake={"hang": True}).status_code == 504
    assert grown(hasty, before, "loragate_requests_total", alias="base", code="504") == 1
    assert grown(hasty, before, "loragate_errors_total", alias="base", code="engine_timeout") == 1


def test_a_client_that_leaves_is_counted(gateway: RunningGateway, engine: FakeEngine) -> None:
    before = scrape(gateway)
    running = engine.running
    with Raw(gateway) as client:
        client.send(client.request(CHAT, {"model": "base", "messages": MESSAGES, "fake": {"hang": True}}))
        assert engine.wait_for(lambda engine: engine.running > running)
    until(lambda: grown(gateway, before, "loragate_requests_total", code="499") == 1)
    assert grown(gateway, before, "loragate_errors_total", code="client_gone") == 1


def test_what_clients_make_up_does_not_become_a_label(gateway: RunningGateway) -> None:
    chat(gateway, "nobody")
    httpx.post(gateway.url + "/v1/none", headers=gateway.headers, verify=False)
    chat(gateway, "support@ffffffffffff")
    before = set(scrape(gateway))
    with ThreadPoolExecutor(8) as threads:
        for number in range(40):
            threads.submit(chat, gateway, f"made-up-{number}", user=f"user-{number}")
            threads.submit(chat, gateway, f"support@{number:012x}")
            threads.submit(httpx.get, f"{gateway.url}/v1/{number}", headers=gateway.headers, verify=False)
            threads.submit(httpx.get, f"{gateway.url}/v1/models", headers={"authorization": f"{number}"}, verify=False)
    new = {series for series in set(scrape(gateway)) - before if ("code", "401") not in series[1]}
    assert {series for series in new if "invalid_api_key" not in dict(series[1]).values()} == set()


def test_the_engine_and_the_workers_are_shown(gateway: RunningGateway, engine: FakeEngine) -> None:
    series = scrape(gateway)
    assert total(series, "loragate_engine_up", engine=engine.url) == 1
    assert total(series, "loragate_workers") == total(series, "loragate_workers_ready") == 3
    assert total(series, "loragate_route_table_version") >= 1


def test_every_series_is_ours_and_documented(gateway: RunningGateway) -> None:
    reply = httpx.get(gateway.control_url + "/metrics", verify=False)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    for family in text_string_to_metric_families(reply.text):
        assert family.name.startswith("loragate_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert set(sample.labels) <= {
                "alias",
                "version",
                "code",
                "engine",
                "outcome",
                "verdict",
                "arm",
                "reason",
                "le",
                "kind",
                "state",
            }


def test_counters_survive_a_killed_worker(gateway: RunningGateway) -> None:
    for _ in range(20):
        chat(gateway)
    before = scrape(gateway)
    restarts = gateway.status()["workers"]["restarts"]
    killed = gateway.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    lowest = before
    until(lambda: gateway.status()["workers"]["restarts"] > restarts)
    until(lambda: gateway.status()["workers"]["running"] == 3)
    assert killed not in gateway.worker_pids()
    now = scrape(gateway)
    counters = [series for series in lowest if series[0].endswith(("_total", "_count", "_sum", "_bucket"))]
    assert {
        series: now.get(series, 0.0) - lowest[series] for series in counters if now.get(series, 0.0) < lowest[series]
    } == {}
    assert total(now, "loragate_worker_restarts_total") >= 1
    for _ in range(20):
        assert chat(gateway).status_code == 200
    assert grown(gateway, now, "loragate_requests_total") == 20


def test_an_engine_that_is_gone_shows_as_down(tmp_path: Path) -> None:
    with FakeEngine() as engine, RunningGateway(engine.url) as gateway:
        engine.kill()
        gateway.wait_for_engine(up=False)
        assert total(scrape(gateway), "loragate_engine_up", engine=engine.url) == 0
        engine.start()
        gateway.wait_for_engine()
        assert total(scrape(gateway), "loragate_engine_up", engine=engine.url) == 1
