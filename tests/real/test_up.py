"""`loragate up` with a real vLLM: engines that die, clients that leave, adapters that come and go."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateways import VLLM_SECONDS, RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.tiny_adapters import random_adapter

pytestmark = pytest.mark.real

STREAMS = 20
TOKENS = 1500


def engine_metric(up: RunningGateway, name: str) -> float:
    transport = httpx.HTTPTransport(uds=str(up.state / "run" / "engine.sock"))
    with httpx.Client(transport=transport, base_url="http://engine") as engine:
        lines = engine.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def engine_load(up: RunningGateway) -> int:
    """How many requests the engine says it runs: what shadow requests wait for (`gateway/evaluate/idle.py`)."""
    transport = httpx.HTTPTransport(uds=str(up.state / "run" / "engine.sock"))
    with httpx.Client(transport=transport, base_url="http://engine") as engine:
        return int(engine.get("/load").json()["server_load"])


def engine_pids(up: RunningGateway) -> list[int]:
    listing = subprocess.run(["ps", "-ww", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, ppid, *_ in rows if int(ppid) == up.process.pid and "api_server" in _[0]]


def client(up: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=up.url + "/v1", api_key=up.key, max_retries=0, timeout=120)


def test_the_official_client_works_unchanged(up: RunningGateway) -> None:
    models = {model.id for model in client(up).models.list()}
    assert {"amber", "blue"} <= models
    question: Any = [{"role": "user", "content": "hi"}]
    whole = client(up).chat.completions.create(model="amber", messages=question, max_tokens=6, temperature=0)
    pieces = client(up).chat.completions.create(
        model="amber", messages=question, max_tokens=6, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client(up).chat.completions.create(model="amber2", messages=question)
    with pytest.raises(openai.BadRequestError):
        client(up).chat.completions.create(model="amber", messages=question, temperature=-3)


def test_a_client_that_leaves_frees_the_engine_long_before_the_reply_would_be_whole(up: RunningGateway) -> None:
    body = {"model": "amber", "prompt": "a", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    waits = []
    before = engine_metric(up, "vllm:generation_tokens_total")
    for is_streamed in (True, False):
        try:
            with (
                httpx.Client(timeout=2) as http,
                http.stream(
                    "POST", up.url + "/v1/completions", json={**body, "stream": is_streamed}, headers=up.headers
                ) as reply,
            ):
                lines = reply.iter_lines()  # kept: one that is dropped closes the reply
                next(lines)
                until(lambda: engine_load(up) == 1, "the engine runs it, and no probe beside it")
        except httpx.ReadTimeout:
            assert not is_streamed
        left = time.monotonic()
        until(lambda: engine_metric(up, "vllm:num_requests_running") == 0, "the engine stops")
        waits.append(time.monotonic() - left)
        until(lambda: engine_load(up) == 0, "callers that leave are not counted for ever")
    print(f"engine free after {waits[0]:.2f} s (streamed), {waits[1]:.2f} s (whole)")
    made = engine_metric(up, "vllm:generation_tokens_total") - before
    assert 0 < made < TOKENS, "of the two replies not even one came to its end"


@pytest.mark.parametrize("cycles", [20, pytest.param(50, marks=pytest.mark.story)])
def test_adapters_come_and_go_under_load_without_a_failed_request(
    up: RunningGateway, tiny_base_path: Path, tmp_path: Path, cycles: int
) -> None:
    folders = [random_adapter(tiny_base_path, tmp_path / f"v{seed}", seed=100 + seed) for seed in (0, 1)]
    up.cli("adapters", "add", str(folders[0]), "--name", "moving")
    sent, failures = asyncio.run(_load_while_cycling(up, folders, cycles))
    up.cli("adapters", "rm", "moving")
    print(f"{cycles} cycles of adding and removing, {sent} requests meanwhile, {len(failures)} failed")
    assert sent > cycles
    assert failures == []


async def _load_while_cycling(up: RunningGateway, folders: list[Path], cycles: int) -> tuple[int, list[str]]:
    """Send requests to a stable, to a moving and to the base model while versions are added and removed."""
    failures: list[str] = []
    sent = 0
    is_over = asyncio.Event()
    base = up.status()["base"]
    limits = httpx.Limits(max_connections=20)

    async def ask(http: httpx.AsyncClient, model: str, *, stream: bool) -> None:
        nonlocal sent
        while not is_over.is_set():
            reply = await http.post(
                "/v1/completions", json={"model": model, "prompt": "a", "max_tokens": 4, "stream": stream}
            )
            sent += 1
            if reply.status_code != 200 or b'"error"' in reply.content:
                failures.append(f"{model}: {reply.status_code} {reply.text[:200]}")

    async def cycle(control: httpx.AsyncClient) -> None:
        for number in range(cycles):
            path = str(folders[(number + 1) % 2])
            added = await control.post("/admin/v1/adapters", json={"path": path, "name": "moving"})
            assert added.status_code == 201, added.text
            versions = [
                each["version"]
                for each in (await control.get("/admin/v1/adapters")).json()["adapters"]
                if each["name"] == "moving"
            ]
            for version in versions:
                if version != added.json()["version"]:
                    gone = await control.delete(f"/admin/v1/adapters/{version}")
                    assert gone.status_code == 200, gone.text
        is_over.set()

    control_transport = httpx.AsyncHTTPTransport(uds=str(up.state / "control.sock"))
    async with (
        httpx.AsyncClient(base_url=up.url, headers=up.headers, timeout=120, limits=limits) as http,
        httpx.AsyncClient(transport=control_transport, base_url="http://control", timeout=600) as control,
        asyncio.TaskGroup() as tasks,
    ):
        for model in ("moving", "moving", "amber", base):
            tasks.create_task(ask(http, model, stream=False))
            tasks.create_task(ask(http, model, stream=True))
        tasks.create_task(cycle(control))
    return sent, failures


def test_an_engine_killed_in_the_middle_of_streams_comes_back_with_its_adapters(up: RunningGateway) -> None:
    ends = asyncio.run(_kill_in_the_middle(up))
    assert len(ends) == STREAMS
    for error, last in ends:
        assert error is not None, "a stream ended without saying that it broke off"
        assert last == "data: [DONE]"
    body = {"model": "amber", "prompt": "a", "max_tokens": 2}
    meanwhile = httpx.post(up.url + "/v1/completions", json=body, headers=up.headers)
    assert meanwhile.status_code == 503
    assert int(meanwhile.headers["retry-after"]) >= 1
    worker = up.worker_pids()
    began = time.monotonic()
    up.wait_for_engine(seconds=VLLM_SECONDS)
    print(f"engine back after {time.monotonic() - began:.0f} s")
    after = httpx.post(up.url + "/v1/completions", json=body, headers=up.headers, timeout=60)
    assert after.status_code == 200, after.text
    assert up.worker_pids() == worker


async def _kill_in_the_middle(up: RunningGateway) -> list[tuple[dict[str, Any] | None, str]]:
    (pid,) = engine_pids(up)
    begun = 0
    all_begun = asyncio.Event()

    async def read(http: httpx.AsyncClient) -> tuple[dict[str, Any] | None, str]:
        nonlocal begun
        body = {"model": "amber", "prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        error, last = None, ""
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if not last:
                    begun += 1
                    if begun >= 16:  # as many as the engine has in one batch
                        all_begun.set()
                last = line or last
                if line.startswith('data: {"error"'):
                    error = json.loads(line[6:])["error"]
        return error, last

    async with httpx.AsyncClient(base_url=up.url, headers=up.headers, timeout=120) as http:
        readers = [asyncio.create_task(read(http)) for _ in range(STREAMS)]
        await asyncio.wait_for(all_begun.wait(), PATIENCE_SECONDS)
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        return list(await asyncio.gather(*readers))
