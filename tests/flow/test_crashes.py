"""Kill the gateway at any moment of a registration: what was registered stays, and nothing half-made is seen."""

import itertools
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.artifact import read_manifest
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.background_request import Work
from tests.support.gateways import RunningGateway
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.simulation

KINDS = ("register", "download", "fuse", "scale")
KILLS = 20
MODULES = 64
WIDTH = 256


def large_adapter(folder: Path, seed: int) -> Path:
    """Write an adapter of some megabytes, so that there is time to die while it is copied."""
    source = random.Random(seed)
    # 0x2c.. is about 0.06 as a half float; the low byte is free.
    half = bytes(value for _ in range(4 * WIDTH) for value in (source.randrange(256), 0x2C))
    tensors = {
        f"base_model.model.layers.{number}.q_proj.lora_{side}.weight": ("F16", shape, half)
        for number in range(MODULES)
        for side, shape in (("A", [4, WIDTH]), ("B", [WIDTH, 4]))
    }
    return write_adapter(folder, tensors=tensors, target_modules=["q_proj"])


def check_consistent(gateway: RunningGateway, kept: set[str]) -> None:
    listed = gateway.admin("GET", "adapters").json()["adapters"]
    versions = {each["version"] for each in listed}
    assert kept <= versions, "nothing registered is lost"
    for each in listed:
        assert each["state"] == "ready"
        assert read_manifest(Path(each["folder"])).digest == each["digest"], "a registered copy is whole"
    registry = gateway.state / "adapters"
    assert {str(path) for path in registry.iterdir()} == {each["folder"] for each in listed}, "nothing else lies about"
    for version in gateway.fingerprinted():
        assert version in versions or version.startswith("base-")
    for route in gateway.admin("GET", "routes").json()["routes"]:
        assert route["control"] in versions


def versions_of(gateway: RunningGateway) -> set[str]:
    return {each["version"] for each in gateway.admin("GET", "adapters").json()["adapters"]}


def ask(gateway: RunningGateway, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    return httpx.post(gateway.url + "/v1/completions", json=body, headers=gateway.headers)


def orders(folder: Path, store: S3Server) -> Callable[[str], tuple[str, dict[str, Any]]]:
    """Return what makes an order of some kind: a path, and a body that was not sent before."""
    numbers = itertools.count()

    def order(kind: str) -> tuple[str, dict[str, Any]]:
        number = next(numbers)
        body: dict[str, Any] = {"name": f"a{number}"}
        if kind == "fuse":
            return "adapters/fuse", body | {"parents": [{"version": "a0"}, {"version": "a1"}], "method": "linear"}
        if kind == "scale":
            return "adapters/scale", body | {"version": "a0", "factor": 0.3 + number / 100}
        source = large_adapter(folder / str(number), number)
        if kind == "register":
            return "adapters", body | {"source": str(source)}
        store.put_folder(f"a{number}", source)
        return "adapters", body | {"source": f"s3://models/a{number}"}

    return order


def test_a_gateway_that_is_killed_at_any_moment_keeps_a_consistent_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of operation is carried out once; then it is cut off at some moment of the time that it takes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    state = tmp_path / "s"
    state.mkdir()
    moments = random.Random(3)
    points: list[str] = []
    with S3Server() as store, FakeEngine(load_seconds=0.1) as engine:
        order = orders(tmp_path, store)
        settings = tmp_path / "loragate.yaml"
        settings.write_text(
            json.dumps(
                {"adapters": {"sources": ["s3://models/"], "storage_options": {"s3": {"endpoint_url": store.url}}}}
            )
        )
        with RunningGateway(engine.url, state=state, options=["-c", str(settings)]) as gateway:
            quickest: dict[str, float] = {}
            for kind in ("register", *KINDS):
                work = Work(gateway, *order(kind))
                work.end()
                assert work.reply is not None
                assert work.reply.status_code == 201, work.reply.text
                quickest[kind] = work.seconds
            kept = versions_of(gateway)
            assert len(kept) == 1 + len(KINDS)
            for number in range(KILLS):
                kind = KINDS[number % len(KINDS)]
                moment = moments.uniform(0, quickest[kind])
                work = Work(gateway, *order(kind))
                was_over = work.is_over_after(moment)
                os.kill(gateway.process.pid, signal.SIGKILL)
                gateway.process.wait()
                work.end()
                if was_over:  # it was quicker than ever
                    quickest[kind] = min(quickest[kind], work.seconds)
                points.append(f"{kind} {'after its end' if was_over else 'within'} at {moment:.2f} s")
                gateway.start()
                check_consistent(gateway, kept)
                kept = versions_of(gateway)
                assert ask(gateway, "a0").status_code == 200
            path, body = order("register")
            again = gateway.admin("POST", path, body)
            assert again.status_code == 201, again.text
    print("\n" + "\n".join(points))
    assert sum("within" in point for point in points) >= KILLS // 2, "most kills must hit something under way"
