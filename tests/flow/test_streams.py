"""Streams under pressure: slow readers hold back their own engine connection only, crowds are not mixed up."""
# ruff: noqa: E501 (messages and bodies are easier to compare on one line)

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fakes.engine import FakeEngine
from tests.flow.conftest import QUICK
from tests.flow.raw import CHAT, Raw, chat
from tests.gateways import RunningGateway, resident_bytes

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def patient(engine: FakeEngine) -> Iterator[RunningGateway]:
    """A gateway that gives readers a minute."""
    with RunningGateway(engine.url, environment={**QUICK, "LORAGATE_LIMITS__STALLED_READER_SECONDS": "60"}) as gateway:
        yield gateway


@pytest.mark.simulation
def test_slow_readers_take_bounded_memory_and_disturb_nobody(patient: RunningGateway, engine: FakeEngine) -> None:
    readers = 20
    body = chat(stream=True, fake={"events": 300, "cadence_ms": 10, "event_bytes": 10_000})  # 1 MB/s
    (pid,) = patient.worker_pids()
    slow = [Raw(patient, receive_buffer=4096) for _ in range(readers)]
    try:
        with Raw(patient) as other:
            other.ask(CHAT, chat())
            before = resident_bytes(pid)
            for client in slow:
                client.send(client.request(CHAT, body))
            gaps: list[float] = []
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline:
                began = time.monotonic()
                assert other.ask(CHAT, chat()).status == 200
                gaps.append(time.monotonic() - began)
            grown = resident_bytes(pid) - before
        print(
            f"\n{readers} stalled readers of 1 MB/s streams: {grown / readers / 1024:,.0f} KiB each; others p99 {statistics.quantiles(gaps, n=100)[98] * 1e3:.1f} ms"
        )
        assert engine.running >= readers
        assert grown < readers * MEGABYTE
        # One that reads on gets everything, in order.
        text = b"".join(slow[0].chunks(slow[0].head()))
        assert text.endswith(b"data: [DONE]\n\n")
        assert text.count(b"\n\n") == 302
    finally:
        for client in slow:
            client.close()
    assert engine.wait_for(lambda engine: engine.running == 0, 2)


def test_events_arrive_as_they_are_made(patient: RunningGateway) -> None:
    with Raw(patient) as client:
        client.send(client.request(CHAT, chat(stream=True, fake={"events": 20, "cadence_ms": 50})))
        arrivals = [time.monotonic() for _ in client.chunks(client.head())]
    assert len(arrivals) >= 20
    assert arrivals[-1] - arrivals[0] > 0.8


def test_a_stream_without_end_of_events_is_passed_on_in_parts(patient: RunningGateway) -> None:
    with Raw(patient) as client:
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
        head = f"POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {gateway.key}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
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
