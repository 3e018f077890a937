"""Gateways are replaced one by one behind a balancer that polls each second: no request is lost."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.raw_client import CHAT, Raw, chat

POLL_SECONDS = 1.0
CLIENTS = 8
LONG_SECONDS = 60.0


class Backend:
    """One gateway as a balancer sees it: whether its last poll was good, and kept connections."""

    def __init__(self, url: str, control_url: str) -> None:
        self.address = (urlsplit(url).hostname, urlsplit(url).port)
        self.control = (urlsplit(control_url).hostname, urlsplit(control_url).port)
        self.is_ready = False
        self.kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def _connect(self, where: tuple[str | None, int | None]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*where)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def poll(self) -> None:
        try:
            reader, writer = await self._connect(self.control)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            self.is_ready = (await reader.readline()).split()[1:2] == [b"200"]
            writer.close()
        except OSError:
            self.is_ready = False

    async def pass_on(self, request: bytes) -> tuple[int, bytes]:
        """Send a request once, on a kept connection if there is one; returns the reply's status and body."""
        while self.kept:
            reader, writer = self.kept.pop()
            if not reader.at_eof():
                break
            writer.close()
        else:
            reader, writer = await self._connect(self.address)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            body = b""
            while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if b"\r\nconnection: close" in head:
            writer.close()
        else:
            self.kept.append((reader, writer))
        return int(head.split()[1]), body


class Balancer:
    """Sends requests to backends whose last poll was good, in turns; tries nothing twice."""

    def __init__(self, gateways: list[RunningGateway]) -> None:
        self.backends = [Backend(each.url, each.control_url) for each in gateways]
        self._keys = [each.key for each in gateways]
        self._turn = 0
        self.asked = 0
        self.lost: list[str] = []

    async def poll_for_ever(self) -> None:
        while True:
            await asyncio.gather(*(each.poll() for each in self.backends))
            await asyncio.sleep(POLL_SECONDS)

    async def ask_for_ever(self, *, stream: bool) -> None:
        while True:
            self._turn += 1
            ready = [number for number, each in enumerate(self.backends) if each.is_ready]
            chosen = ready[self._turn % len(ready)]
            try:
                status, body = await self.backends[chosen].pass_on(request_of(self._keys[chosen], stream=stream))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.lost.append(repr(error))
            else:
                self.asked += 1
                if status != 200 or b'"error"' in body or (stream and b"data: [DONE]" not in body):
                    self.lost.append(f"{status} {body[-200:]!r}")


def request_of(key: str, *, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": "base",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": stream,
            "fake": {"events": 10, "cadence_ms": 50},
        }
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_SECONDS):
        while not holds():
            await asyncio.sleep(0.05)


def test_a_rolling_update_behind_a_balancer_that_polls_each_second_loses_nothing(engine: FakeEngine) -> None:
    async def stop(gateway: RunningGateway, backend: Backend) -> None:
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.wait, LONG_SECONDS) == 0
        assert not backend.is_ready

    async def start(gateway: RunningGateway, backend: Backend) -> None:
        gateway._options = ("--port", str(backend.address[1]), "--control-port", str(backend.control[1]))
        await asyncio.to_thread(gateway.start)
        await until(lambda: backend.is_ready)

    async def main(gateways: list[RunningGateway]) -> Balancer:
        balancer = Balancer(gateways)
        tasks = [asyncio.create_task(balancer.poll_for_ever())]
        await until(lambda: all(each.is_ready for each in balancer.backends))
        tasks += [asyncio.create_task(balancer.ask_for_ever(stream=number % 2 == 0)) for number in range(CLIENTS)]
        (first, second), (front, back) = gateways, balancer.backends
        await stop(first, front)
        await start(first, front)
        await stop(second, back)
        asked = balancer.asked
        await until(lambda: balancer.asked > asked + CLIENTS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for backend in balancer.backends:
            await backend.close()
        return balancer

    with RunningGateway(engine.url) as first, RunningGateway(engine.url) as second:
        balancer = asyncio.run(main([first, second]))
    assert balancer.lost == []
    assert balancer.asked > CLIENTS


def test_a_gateway_that_was_told_to_stop_serves_on_says_so_and_keeps_no_connection(engine: FakeEngine) -> None:
    with RunningGateway(engine.url, environment={"LORAGATE_LAME_DUCK_SECONDS": "600"}) as gateway:
        with Raw(gateway) as kept, Raw(gateway) as streaming, Raw(gateway) as idle:
            assert kept.ask("/v1/models").headers.get("connection") != "close"
            streaming.send(streaming.request(CHAT, chat(stream=True, fake={"events": 60, "cadence_ms": 20})))
            assert streaming.head().status == 200
            gateway.process.send_signal(signal.SIGTERM)
            wait(lambda: httpx.get(gateway.control_url + "/readyz").status_code == 503)
            assert httpx.get(gateway.control_url + "/readyz").json()["gateway"] == "stopping"
            assert httpx.get(gateway.control_url + "/healthz").status_code == 200
            wait(lambda: httpx.get(gateway.url + "/healthz").status_code == 503)
            last = kept.ask("/v1/models")
            assert (last.status, last.headers["connection"]) == (200, "close")
            assert kept.is_closed_by_gateway()
            assert b"".join(streaming.chunks()).endswith(b"data: [DONE]\n\n")
            # Its head said that it is kept, so a request may be on its way: it is served.
            assert streaming.ask("/v1/models").headers["connection"] == "close"
            with Raw(gateway) as new:
                new.send(new.request(CHAT, chat(stream=True, fake={"events": 3})))
                assert new.head().headers["connection"] == "close"
                assert b"".join(new.chunks()).endswith(b"data: [DONE]\n\n")
            gateway.process.send_signal(signal.SIGTERM)  # no more time for balancers
            assert idle.is_closed_by_gateway()
        assert gateway.process.wait(LONG_SECONDS) == 0


def test_ctrl_c_leaves_load_balancers_no_time_and_one_more_breaks_off_what_runs(engine: FakeEngine) -> None:
    with (
        RunningGateway(
            engine.url, environment={"LORAGATE_LAME_DUCK_SECONDS": "600", "LORAGATE_DRAIN_SECONDS": "600"}
        ) as gateway,
        Raw(gateway) as client,
        Raw(gateway) as idle,
    ):
        client.send(client.request(CHAT, chat(stream=True, fake={"events": 100_000, "cadence_ms": 20})))
        client.head()
        gateway.process.send_signal(signal.SIGINT)
        assert idle.is_closed_by_gateway()  # it drains
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(LONG_SECONDS) == 0


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
