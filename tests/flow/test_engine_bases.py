"""Engines are what they say: who serves another base is not used, and why an engine is not used is always told."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.raw_server import raw_server


def ask(gateway: RunningGateway, model: str, times: int = 1) -> Counter[int]:
    body = {"model": model, "max_tokens": 1}
    with httpx.Client(base_url=gateway.url, headers=gateway.headers) as client:
        replies = [client.post("/v1/completions", json={**body, "prompt": f"{number}"}) for number in range(times)]
    return Counter(reply.status_code for reply in replies)


def engine_of(gateway: RunningGateway, url: str) -> dict[str, Any]:
    return next(engine for engine in gateway.status()["engines"] if engine["url"] == url)


def test_an_engine_with_another_base_is_not_used_and_said(tmp_path: Path) -> None:
    with FakeEngine("base") as right, FakeEngine("other") as wrong, RunningGateway(right.url, wrong.url) as gateway:
        gateway.wait_until(lambda status: status["engines"][1]["problem"] == "other_base")
        added = gateway.admin("POST", "adapters", {"source": str(write_adapter(tmp_path / "1", 1)), "name": "support"})
        assert added.status_code == 201, added.text
        assert ask(gateway, "base", 20) == ask(gateway, "support", 20) == {200: 20}
        assert ask(gateway, "other") == {404: 1}
        assert wrong.generations == []
        assert wrong.adapters == {}
        told = engine_of(gateway, wrong.url)
        assert not told["up"]
        assert "`other`" in told["reason"]
        assert "`base`" in told["reason"]
        assert told["reason"] in gateway.cli("status")
        assert gateway.metrics()[f'loragate_engine_problem{{engine="{wrong.url}",reason="other_base"}}'] == 1
        assert "1 serves another base" in httpx.get(gateway.control_url + "/readyz").text
        log = gateway.log_path.read_text()
        assert log.count("is not used: it serves `other`") == 1

        right.kill()  # an engine with another base does not stand in for it
        gateway.wait_until(lambda status: not status["ready"])
        assert httpx.get(gateway.control_url + "/readyz").status_code == 503
        assert ask(gateway, "base") == {503: 1}
        assert gateway.status()["base"] == "base"
        right.start()
        gateway.wait_until(lambda status: status["ready"])
        assert ask(gateway, "base", 3) == {200: 3}


def test_when_all_engines_have_been_renamed_the_base_is_renamed_and_a_restart_keeps_it(tmp_path: Path) -> None:
    with FakeEngine("base") as one, FakeEngine("base") as two:
        with RunningGateway(one.url, two.url, state=tmp_path) as gateway:
            one.rename("new", root="base")
            gateway.wait_until(lambda status: status["engines"][0]["problem"] == "other_base")
            assert ask(gateway, "base", 5) == {200: 5}
            two.rename("new", root="base")
            gateway.wait_until(lambda status: status["base"] == "new" and all(each["up"] for each in status["engines"]))
            assert ask(gateway, "new", 5) == {200: 5}
        one.rename("base")
        with RunningGateway(one.url, two.url, state=tmp_path) as gateway:
            gateway.wait_until(lambda status: status["engines"][0]["problem"] == "other_base")
            assert gateway.status()["base"] == "new"
    with (
        FakeEngine("a") as one,
        FakeEngine("b") as two,
        RunningGateway(one.url, two.url, options=["--base-name", "b"]) as gateway,
    ):
        gateway.wait_until(lambda status: status["engines"][0]["problem"] == "other_base")
        assert ask(gateway, "b") == {200: 1}


def test_all_names_that_an_engine_serves_its_base_under_are_the_base_for_callers() -> None:
    with (
        FakeEngine(more_names=["gpt-4o-mini"]) as both,
        FakeEngine() as one,
        RunningGateway(both.url, one.url) as gateway,
    ):
        gateway.wait_for_engine()
        listed = httpx.get(gateway.url + "/v1/models", headers=gateway.headers).json()["data"]
        assert [card["id"] for card in listed] == ["base", "gpt-4o-mini"]
        for name in ("base", "gpt-4o-mini"):
            assert ask(gateway, name, 10) == {200: 10}
        assert one.generations  # which knows the first name alone, and is sent no other
        conflict = gateway.admin("POST", "adapters", {"source": "/nowhere", "name": "gpt-4o-mini"})
        assert conflict.status_code == 409, conflict.text


@contextmanager
def odd_engine(replies: dict[bytes, bytes]) -> Iterator[str]:
    """An engine that answers paths with these bytes, again and again where they end in `…`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            reply = replies.get(path, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            endless = reply.endswith(b"...")
            writer.write(reply.removesuffix(b"..."))
            while endless:
                writer.write(b"x" * 65536)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    with raw_server(serve) as port:
        yield f"http://127.0.0.1:{port}"


def whole(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def test_whatever_an_engine_says_of_itself_is_told_in_a_line_without_a_traceback() -> None:
    kinds = {
        "unauthorized": {b"/v1/models": whole(b"401 Unauthorized", b'{"error":"Unauthorized"}')},
        "unhealthy": {b"/health": whole(b"503 Service Unavailable", b"")},
        "unreachable": {b"/health": b"HTTP/1.1 200 OK\r\n\r\n..."},
        "no_models": {b"/v1/models": whole(b"200 OK", b"[" * 200_000)},
    }
    odd = {kind: odd_engine(replies) for kind, replies in kinds.items()}
    with (
        odd["unauthorized"] as a,
        odd["unhealthy"] as b,
        odd["unreachable"] as c,
        odd["no_models"] as d,
        FakeEngine() as good,
        RunningGateway(a, b, c, d, good.url) as gateway,
    ):
        urls = dict(zip(kinds, (a, b, c, d), strict=True))
        gateway.wait_until(lambda status: [each["problem"] for each in status["engines"]] == [*kinds, None], seconds=60)
        assert ask(gateway, "base", 5) == {200: 5}
        log = gateway.log_path.read_text()
        for kind, url in urls.items():
            told = engine_of(gateway, url)
            assert told["problem"] == kind
            assert log.count(f"engine {url} is down: {told['reason']}") == 1, log
            assert told["reason"] in gateway.cli("status")
        assert "Traceback" not in log


@contextmanager
def balancer(*ports: int) -> Iterator[str]:
    """One address for several engines: each connection goes to the next."""
    turn = itertools.cycle(ports)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(turn))
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    with raw_server(serve) as port:
        yield f"http://127.0.0.1:{port}"


def test_an_address_of_several_engines_is_said_and_no_adapter_is_blamed_or_left_on_one_of_them(tmp_path: Path) -> None:
    with FakeEngine() as one, FakeEngine() as two, balancer(one.port, two.port) as url, RunningGateway(url) as gateway:
        gateway.wait_for_engine()
        refused = gateway.admin(
            "POST", "adapters", {"source": str(write_adapter(tmp_path / "1", 1)), "name": "support"}
        )
        assert refused.status_code == 503, refused.text
        assert "several engines" in refused.text
        assert "name each engine" in refused.text
        assert (one.adapters, two.adapters) == ({}, {})
        assert ask(gateway, "base", 10) == {200: 10}
        told = engine_of(gateway, url)
        assert (told["up"], told["problem"]) == (True, "several_engines")
        assert "several engines" in gateway.cli("status")
        assert gateway.log_path.read_text().count("WARNING loragate.engines: engine") >= 1
