"""Kill the gateway at any moment of a registration: what was registered stays, and nothing half-made is seen."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.artifact import read_manifest
from tests.adapter_folders import write_adapter
from tests.fakes.engine import FakeEngine
from tests.gateways import RunningGateway
from tests.s3_server import S3Server

pytestmark = pytest.mark.simulation

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


def in_background(gateway: RunningGateway, path: str, body: dict[str, Any]) -> threading.Thread:
    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):  # the gateway is killed meanwhile
            gateway.admin("POST", path, body)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


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


def ask(gateway: RunningGateway, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    return httpx.post(gateway.url + "/v1/completions", json=body, headers=gateway.headers, timeout=30)


def test_a_gateway_that_is_killed_at_any_moment_keeps_a_consistent_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    state = tmp_path / "s"
    state.mkdir()
    moments = random.Random(3)
    points: list[str] = []
    with S3Server() as store, FakeEngine(load_seconds=0.1) as engine:
        settings = tmp_path / "loragate.yaml"
        settings.write_text(
            json.dumps(
                {"adapters": {"sources": ["s3://models/"], "storage_options": {"s3": {"endpoint_url": store.url}}}}
            )
        )
        gateway = RunningGateway(engine.url, state=state, options=["-c", str(settings)])
        with gateway:
            add = {"source": str(large_adapter(tmp_path / "first", 0)), "name": "first"}
            kept = {gateway.admin("POST", "adapters", add).json()["version"]}
            add = {"source": str(large_adapter(tmp_path / "second", 1)), "name": "second"}
            kept.add(gateway.admin("POST", "adapters", add).json()["version"])
            for number in range(KILLS):
                kind = ("register", "download", "fuse", "scale")[number % 4]
                body: dict[str, Any] = {"name": f"a{number}"}
                path = "adapters"
                if kind == "register":
                    body["source"] = str(large_adapter(tmp_path / str(number), number + 2))
                elif kind == "download":
                    store.put_folder(f"a{number}", large_adapter(tmp_path / str(number), number + 2))
                    body["source"] = f"s3://models/a{number}"
                elif kind == "fuse":
                    path = "adapters/fuse"
                    body |= {"parents": [{"version": "first"}, {"version": "second"}], "method": "linear"}
                else:
                    path = "adapters/scale"
                    body |= {"version": "first", "factor": 0.3 + number / 100}
                longest = {"register": 0.6, "download": 1.5, "fuse": 6.0, "scale": 6.0}[kind]
                began = time.monotonic()
                thread = in_background(gateway, path, body)
                thread.join(moments.uniform(0, longest))
                was_over = not thread.is_alive()
                os.kill(gateway.process.pid, signal.SIGKILL)
                gateway.process.wait()
                points.append(f"{kind} {'after its end' if was_over else 'within'} at {time.monotonic() - began:.2f} s")
                thread.join()
                gateway.start()
                check_consistent(gateway, kept)
                kept = {each["version"] for each in gateway.admin("GET", "adapters").json()["adapters"]}
                assert ask(gateway, "first").status_code == 200
            again = gateway.admin("POST", "adapters", body if path == "adapters" else add)
            assert again.status_code == 201, again.text
    print("\n" + "\n".join(points))
    assert sum("within" in point for point in points) >= KILLS // 2, "most kills must hit something under way"
