"""Keys that expire, rotate and have limits; aliases with limits: over real sockets, with several workers."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.decide.authenticate import Role
from gateway.decide.route import EngineState
from gateway.receive.rates import Spendings
from gateway.records.routes import RouteLimits, RouteRecord
from gateway.workers.rate_sync import RateSync
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import LOOK_SECONDS, PATIENCE_SECONDS
from tests.support.raw_client import CHAT, Raw
from tests.support.worker_pools import keyed, load_on, running_pool, table_of

BODY: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
HTTP = httpx.Client(verify=False)


def chat(gateway: RunningGateway, key: str, **body: Any) -> httpx.Response:
    return HTTP.post(gateway.url + "/v1/chat/completions", json=BODY | body, headers={"authorization": f"Bearer {key}"})


def make(gateway: RunningGateway, **body: Any) -> dict[str, Any]:
    reply = gateway.admin("POST", "keys", body)
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


def test_a_key_is_refused_when_it_expires_and_nothing_else_has_to_happen(gateway: RunningGateway) -> None:
    made = make(gateway, lifetime_seconds=1)
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {made['key']}"}) as kept_alive:
        while True:
            asked_at = time.time()
            reply = kept_alive.post("/v1/chat/completions", json=BODY)
            if reply.status_code != 200:
                break
            assert asked_at < made["expires"]
            time.sleep(LOOK_SECONDS)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "expired_api_key")
    assert time.time() >= made["expires"]
    assert gateway.admin("GET", f"keys/{made['id']}").json()["state"] == "expired"
    assert gateway.admin("POST", f"keys/{made['id']}/rotate").status_code == 409


def test_a_rotated_key_goes_on_for_the_overlap_and_its_heir_has_its_limits(gateway: RunningGateway) -> None:
    old = make(gateway, role="app:pin", name="n", models=["base"], requests_per_minute=3)
    assert chat(gateway, old["key"]).status_code == 200
    new = gateway.admin("POST", f"keys/{old['id']}/rotate", {"overlap_seconds": 3600}).json()
    same = ("role", "name", "models", "requests_per_minute", "tokens_per_minute")
    assert [new[name] for name in same] == [old[name] for name in same]
    assert new["id"] != old["id"]
    assert [chat(gateway, each["key"]).status_code for each in (new, old)] == [200, 200]
    assert [chat(gateway, each["key"]).status_code for each in (new, old)] == [429, 429], "they share three requests"
    told = gateway.admin("GET", f"keys/{old['id']}").json()
    assert (told["replaced_by"], told["state"]) == (new["id"], "active")
    again = gateway.admin("POST", f"keys/{old['id']}/rotate")
    assert (again.status_code, new["id"] in again.json()["error"]["message"]) == (409, True)


def test_a_rotation_without_overlap_ends_the_old_key_at_once(gateway: RunningGateway) -> None:
    old = make(gateway)
    new = gateway.admin("POST", f"keys/{old['id']}/rotate", {"overlap_seconds": 0}).json()
    reply = chat(gateway, old["key"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "expired_api_key")
    assert chat(gateway, new["key"]).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"lifetime_seconds": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"lifetime_seconds": 10**30}],
)
def test_limits_that_make_no_sense_are_refused(gateway: RunningGateway, body: dict[str, int]) -> None:
    assert gateway.admin("POST", "keys", body).status_code == 400


def test_the_command_line_makes_and_rotates_keys(gateway: RunningGateway) -> None:
    made = gateway.cli(
        "keys", "create", "--expires", "30d", "--rpm", "60", "--tpm", "10000", "--models", "base,support", "--json"
    )
    assert made["expires"] == made["created"] + 30 * 86_400
    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (60, 10_000)
    assert made["models"] == ["base", "support"]
    new = gateway.cli("keys", "rotate", made["id"], "--overlap", "2h", "--json")
    listed = {each["id"]: each for each in gateway.cli("keys", "ls", "--json")}
    assert listed[made["id"]]["expires"] <= time.time() + 7_200
    assert listed[made["id"]]["replaced_by"] == new["id"]
    assert "60 rpm" in gateway.cli("keys", "ls")


def test_a_request_beyond_the_limit_is_refused_as_openai_does_and_its_client_understands(
    gateway: RunningGateway,
) -> None:
    made = make(gateway, requests_per_minute=2)
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=made["key"], max_retries=0)
    for left in (1, 0):
        raw = client.chat.completions.with_raw_response.create(**BODY)
        assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**BODY)
    error = caught.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 30
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    client.close()
    assert gateway.metrics()['loragate_rate_limited_total{alias="",reason="key_requests"}'] >= 1


def test_tokens_are_taken_off_after_the_reply_streamed_or_not(gateway: RunningGateway) -> None:
    made = make(gateway, tokens_per_minute=1)
    assert chat(gateway, made["key"]).status_code == 200
    refused = chat(gateway, made["key"])
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    assert int(refused.headers["retry-after"]) > 60, "more was used than a minute brings"
    streamed = make(gateway, tokens_per_minute=1)
    assert chat(gateway, streamed["key"], stream=True).status_code == 200
    assert chat(gateway, streamed["key"]).status_code == 429


def test_a_client_that_hangs_up_early_has_paid_for_what_it_got(gateway: RunningGateway, engine: FakeEngine) -> None:
    made = make(gateway, tokens_per_minute=5)
    headers = {"authorization": f"Bearer {made['key']}"}
    slow = BODY | {"stream": True, "max_tokens": 500, "fake": {"events": 500, "cadence_ms": 2}}
    with httpx.Client(base_url=gateway.url, headers=headers) as client:
        with client.stream("POST", "/v1/chat/completions", json=slow) as stream:
            lines = stream.iter_lines()
            for _ in range(60):
                next(lines)
        assert engine.wait_for(lambda engine: engine.running == 0), "the worker has seen it go"
        assert client.post("/v1/chat/completions", json=BODY).status_code == 429


class ObservedRateSync(RateSync):
    """What workers tell each other, counted."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.requests = self.under_way_now = self.times_passed_on = 0

    def record(self, number: int, spent: Spendings) -> None:
        self.requests += sum(spent.requests.values())
        self.under_way_now += sum(spent.in_flight.values())
        self.times_passed_on = 0
        super().record(number, spent)

    def deltas(self) -> list[Spendings]:
        self.times_passed_on += 1
        return super().deltas()


@contextlib.asynccontextmanager
async def two_workers(
    table: bytes, key: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Callable[..., Awaitable[None]]]]:
    """A client whose connections either worker may get, and what waits until both know of so much."""
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    client = httpx.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS)
    async with running_pool(2, table) as (pool, url), client:
        client.base_url = httpx.URL(url)
        told = pool._rate_sync = ObservedRateSync(2)

        async def both_know(*, requests: int, under_way: int = 0) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (told.requests, told.under_way_now) != (requests, under_way) or not told.times_passed_on:
                    await asyncio.sleep(LOOK_SECONDS)
            await pool.collect()  # which a worker answers after it has read what was passed on

        yield client, both_know


def test_two_workers_let_in_what_one_would_but_for_what_they_have_not_told_each_other(engine: FakeEngine) -> None:
    async def run() -> None:
        record, key = keyed(requests_per_minute=30)
        table = table_of([record], engines=[EngineState(url=engine.url)])
        async with two_workers(table, key) as (client, both_know):

            async def let_in(count: int) -> int:
                replies = [await client.post("/v1/chat/completions", json=BODY) for _ in range(count)]
                assert {each.status_code for each in replies} <= {200, 429}
                return sum(each.status_code == 200 for each in replies)

            began = time.monotonic()
            first = await let_in(20)
            await both_know(requests=20)
            second = await let_in(60)
            await both_know(requests=first + second)
            third = await let_in(20)
            gained = 2 * 30 * (time.monotonic() - began) / 60  # by both
            assert first == 20
            assert 10 <= second <= 2 * 10 + gained, "ten were left, and each of the two knew of twenty"
            assert third <= gained, "none was left, and each of the two knew of it"

    asyncio.run(run())


def test_replicas_each_let_in_their_part(engine: FakeEngine) -> None:
    async def run() -> Counter[int]:
        record, key = keyed(requests_per_minute=9)
        table = table_of([record], engines=[EngineState(url=engine.url)], replicas=3)
        async with (
            running_pool(1, table) as (_, url),
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            return Counter([(await client.post("/v1/chat/completions", json=BODY)).status_code for _ in range(9)])

    counts = asyncio.run(run())
    assert counts[200] in (3, 4)  # one more if it took 20 s


def test_an_alias_lets_in_so_many_at_once_and_workers_know_of_each_other(tmp_path: Path) -> None:
    version = "support@111111111111"
    slow = BODY | {"model": "support", "stream": True, "fake": {"events": 2_000, "cadence_ms": 5}}

    async def run(engine: FakeEngine) -> list[int]:
        record, key = keyed(Role.APP)
        limits = RouteLimits(max_in_flight=2)
        route = RouteRecord(alias="support", control=version, salt="s", limits=limits)
        table = table_of([record], [route], engines=[EngineState(url=engine.url, versions=frozenset({version}))])
        load_on(engine, version, write_adapter(tmp_path / "1", 1))
        async with two_workers(table, key) as (client, both_know):
            async with (
                client.stream("POST", "/v1/chat/completions", json=slow) as one,
                client.stream("POST", "/v1/chat/completions", json=slow) as two,
            ):
                await both_know(requests=2, under_way=2)
                refused = [await client.post("/v1/chat/completions", json=slow) for _ in range(8)]
                statuses = [one.status_code, two.status_code, *(each.status_code for each in refused)]
                assert {each.json()["error"]["code"] for each in refused} == {"overloaded"}
            await both_know(requests=2)
            async with client.stream("POST", "/v1/chat/completions", json=slow) as again:
                return [*statuses, again.status_code]

    with FakeEngine() as own:  # a gateway would take off the adapters that it does not know
        assert asyncio.run(run(own)) == [200, 200, *[503] * 8, 200]


LONG = {"messages": [{"role": "user", "content": "word " * 3000}]}  # 3,750 tokens by a byte's count
SPELLINGS: list[dict[str, Any]] = [
    {"stream": 1},
    {"stream": "yes"},
    {"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": True}},
    {"stream": True, "stream_options": {"continuous_usage_stats": "no"}},
]


def left(gateway: RunningGateway, key: str) -> int:
    return int(chat(gateway, key).headers["x-ratelimit-remaining-tokens"])


def eventually_below(gateway: RunningGateway, key: str, tokens: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if left(gateway, key) < tokens:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("spelled", SPELLINGS, ids=str)
def test_a_stream_costs_its_prompt_however_it_is_asked_for_and_its_sender_sees_no_usage(
    gateway: RunningGateway, spelled: dict[str, Any]
) -> None:
    key = make(gateway, tokens_per_minute=5000)["key"]
    reply = chat(gateway, key, **LONG, **spelled)
    assert (reply.status_code, reply.headers["content-type"][:17]) == (200, "text/event-stream")
    assert b'"usage"' not in reply.content
    assert left(gateway, key) < 1500


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_usage_costs_the_prompt(gateway: RunningGateway, engine: FakeEngine, stream: bool) -> None:
    key = make(gateway, tokens_per_minute=100_000)["key"]
    slow = {"max_tokens": 500, "fake": {"cadence_ms": 20} if stream else {"header_delay_ms": 60_000}}
    seen = len(engine.generations)
    with Raw(gateway, key=key) as client:
        client.send(client.request(CHAT, BODY | LONG | slow | {"stream": stream}))
        assert engine.wait_for(lambda engine: len(engine.generations) > seen, 20)
    assert eventually_below(gateway, key, 97_000)
    assert gateway.metrics()['loragate_estimated_tokens_total{alias="base",version="base"}'] >= 3750


def test_what_reads_no_prompt_costs_no_tokens(gateway: RunningGateway) -> None:
    key = make(gateway, tokens_per_minute=5000)["key"]
    reply = HTTP.post(
        gateway.url + "/tokenize",
        json={"model": "base", "prompt": "word " * 3000},
        headers={"authorization": f"Bearer {key}"},
    )
    assert reply.status_code == 200
    assert left(gateway, key) > 4900
