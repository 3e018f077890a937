"""Streams under pressure: slow readers hold back their own engine connection only, crowds are not mixed up."""
# ruff: noqa: E501 (messages and bodies are easier to compare on one line)

import asyncio
import json
import statistics
import time
from urllib.parse import urlsplit

import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.pace import PACE
from tests.flow.conftest import QUICK
from tests.support.gateways import RunningGateway, resident_bytes
from tests.support.patience import PATIENCE_SECONDS
from tests.support.raw_client import CHAT, Raw, chat

MEGABYTE = 1_000_000


@pytest.mark.simulation
def test_slow_readers_take_bounded_memory_and_disturb_nobody(gateway: RunningGateway, engine: FakeEngine) -> None:
    readers, events = 20, 3_000
    body = chat(stream=True, fake={"events": events, "event_bytes": 10_000})  # 30 MB, more than fits between them
    (pid,) = gateway.worker_pids()
    slow = [Raw(gateway, receive_buffer=4096) for _ in range(readers)]
    try:
        with Raw(gateway) as first:
            first.ask(CHAT, chat())
            before = resident_bytes(pid)
            for client in slow:
                client.send(client.request(CHAT, body))
            # On a busy machine this takes longer than an idle connection is kept.
            assert engine.wait_for(lambda engine: held_back(engine) == readers)
        with Raw(gateway) as other:
            gaps: list[float] = []
            for _ in range(200):
                began = time.monotonic()
                reply = other.ask(CHAT, chat())
                assert reply.status == 200, reply.body
                gaps.append(time.monotonic() - began)
            grown = resident_bytes(pid) - before
        print(
            f"\n{readers} stalled readers of 30 MB streams: {grown / readers / 1024:,.0f} KiB each; others p99 {statistics.quantiles(gaps, n=100)[98] * 1e3:.1f} ms"
        )
        assert held_back(engine) == readers
        assert grown < readers * MEGABYTE
        # One that reads on gets everything, in order.
        text = b"".join(slow[0].chunks(slow[0].head()))
        assert text.endswith(b"data: [DONE]\n\n")
        assert text.count(b"\n\n") == events + 2
    finally:
        for client in slow:
            client.close()
    assert engine.wait_for(lambda engine: engine.running == 0)


def held_back(engine: FakeEngine) -> int:
    """How many of an engine's streams wait for their readers."""
    return sum(each.paused and each.stream is not None for each in list(engine.core.connections))


@pytest.mark.parametrize("made", [1, 2, 10])
def test_events_arrive_as_they_are_made(gateway: RunningGateway, engine: FakeEngine, made: int) -> None:
    with Raw(gateway) as client:
        client.send(client.request(CHAT, chat(stream=True, fake={"events": 20, "hang_after": made})))
        chunks = client.chunks(client.head())
        came = b""
        while came.count(b"\n\n") < made:
            came += next(chunks)
        assert engine.running == 1, "the stream goes on"
    assert engine.wait_for(lambda engine: engine.running == 0)


def test_a_stream_without_end_of_events_is_passed_on_in_parts(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, chat(stream=True, fake={"events": 2, "event_bytes": 3_000_000}))
        assert reply.body.count(b"x" * 2_999_000) == 2
        assert reply.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.simulation
def test_two_thousand_streams_on_one_worker_are_neither_lost_nor_mixed_up() -> None:
    crowd = 2_000
    with FakeEngine(keep=0) as engine, RunningGateway(engine.url) as gateway:
        (pid,) = gateway.worker_pids()
        before = resident_bytes(pid)
        seen, peak = asyncio.run(_run_crowd(gateway, crowd, pid))
        print(f"\n{crowd:,} streams at once: {(peak - before) / crowd / 1024:,.1f} KiB each")
        assert seen == {f"marker-{number}-" for number in range(crowd)}
        assert engine.completed >= crowd
        assert (peak - before) / crowd < 100 * 1024


async def _run_crowd(gateway: RunningGateway, crowd: int, pid: int) -> tuple[set[str], int]:
    """Return the markers that came back whole, each on its own stream, and the worker's peak memory."""
    parts = urlsplit(gateway.url)
    peak = 0
    ready = asyncio.Semaphore(200)

    async def one(number: int) -> str:
        marker = f"marker-{number}-"
        schema = {"type": "json_schema", "json_schema": {"schema": {"const": marker * 20}}}
        body = json.dumps(chat(stream=True, response_format=schema, fake={"cadence_ms": 150})).encode()
        async with ready:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        text = ""
        pieces = 0
        async for line in reader:
            if line.startswith(b"data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content") or ""
                pieces += 1
        writer.close()
        assert line == b"\r\n", line
        assert json.loads(text) == marker * 20
        return marker

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident_bytes(pid))
            await asyncio.sleep(0.1)

    watcher = asyncio.create_task(watch())
    seen = set(await asyncio.gather(*(one(number) for number in range(crowd))))
    watcher.cancel()
    return seen, peak


def test_until_its_first_content_a_stream_has_the_time_of_a_first_byte(engine: FakeEngine) -> None:
    slow = {**QUICK, "LORAGATE_LIMITS__IDLE_SECONDS": "1", "LORAGATE_LIMITS__FIRST_BYTE_SECONDS": "60"}
    with RunningGateway(engine.url, environment=slow) as gateway, Raw(gateway) as client:
        reply = client.ask(CHAT, chat(stream=True, fake={"ttft_ms": 4000}))
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in reply.body
        reply = client.ask(CHAT, chat(stream=True, fake={"events": 9, "cadence_ms": 4000}))
        assert b"engine_timeout" in reply.body, "after it, the time between two parts counts"


def test_comments_and_the_role_are_no_tokens_in_the_times(gateway: RunningGateway) -> None:
    name = 'loragate_time_to_first_token_seconds_{}{{alias="base",version="base"}}'

    def told() -> tuple[float, float]:
        metrics = gateway.metrics()
        return metrics.get(name.format("sum"), 0.0), metrics.get(name.format("count"), 0.0)

    before = told()
    with Raw(gateway) as client:
        # The head at once, the role at 0 s, the first piece one cadence later.
        assert client.ask(CHAT, chat(stream=True, fake={"events": 2, "cadence_ms": 700})).status == 200
    deadline = time.monotonic() + PATIENCE_SECONDS
    while told()[1] == before[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told()[0] - before[0] >= 0.69 * PACE
