"""Fusing apart: in a process of its own that says what it does and never outlives whom it works for."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from adapters.artifact import read_manifest
from adapters.fusion.__main__ import NICENESS
from adapters.fusion.process import fuse_apart
from adapters.recipe import CannotFuse, Method, Parent, Recipe
from tests.support.adapter_folders import write_adapter
from tests.support.patience import PATIENCE_SECONDS, until

CAT = Recipe(method=Method.CAT, parents=(Parent(version="x", weight=0.7), Parent(version="y", weight=0.3)))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    ones = (0x3C00).to_bytes(2, "little")  # float16
    tensors: dict[str, Any] = {
        f"base_model.model.layers.0.{module}.lora_{half}.weight": ("F16", shape, ones * 32)
        for module in ("q_proj", "v_proj")
        for half, shape in (("A", [4, 8]), ("B", [8, 4]))
    }
    return {name: write_adapter(tmp_path / name, tensors=tensors) for name in ("x", "y")}


def children() -> set[int]:
    """The fusion processes that this one has started and that still run."""
    listing = subprocess.run(["ps", "-ww", "-e", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True)
    rows = [line.split(None, 3) for line in listing.stdout.splitlines()]
    return {
        int(pid)
        for pid, parent, state, *args in rows
        if int(parent) == os.getpid() and state[0] != "Z" and "adapters.fusion" in " ".join(args)
    }


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def started() -> int:
    while not (found := children()):
        await asyncio.sleep(0.02)
    (pid,) = found
    return pid


def test_it_makes_the_version_and_tells_each_step(folders: dict[str, Path], tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = asyncio.run(
        fuse_apart(CAT, folders, tmp_path / "out", max_rank=8, progress=lambda *step: steps.append(step))
    )
    assert steps == [(1, 2), (2, 2)]
    assert (report.rank, report.modules, report.dtype) == (8, 2, "float16")
    assert report.errors is not None
    assert report.errors.worst < 1e-3
    assert read_manifest(tmp_path / "out").rank == 8


def test_a_refusal_in_the_process_arrives_with_code_and_remedy(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CannotFuse, match="rank 8, and the engines take 6") as caught:
        asyncio.run(fuse_apart(CAT, folders, tmp_path / "out", max_rank=6))
    assert caught.value.code == "max_rank"
    assert "`svd` with rank 6" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_what_shows_without_tensors_is_refused_without_a_process(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))  # so that no process can be started
    for recipe, out in ((Recipe(method=Method.CAT, parents=()), tmp_path / "out"), (CAT, folders["x"])):
        with pytest.raises(CannotFuse):
            asyncio.run(fuse_apart(recipe, folders, out, max_rank=None))


def test_cancelling_ends_the_process_and_leaves_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    async def cancel() -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            task = asyncio.ensure_future(fuse_apart(CAT, folders, tmp_path / "out", max_rank=None))
            pid = await started()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return pid

    assert not is_running(asyncio.run(cancel()))
    assert not (tmp_path / "out").exists()


def test_a_process_that_dies_is_a_clear_refusal(folders: dict[str, Path], tmp_path: Path) -> None:
    async def kill() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            task = asyncio.ensure_future(fuse_apart(CAT, folders, tmp_path / "out", max_rank=None))
            os.kill(await started(), signal.SIGKILL)
            await task

    with pytest.raises(CannotFuse, match="killed by signal 9") as caught:
        asyncio.run(kill())
    assert caught.value.code == "process_died"
    assert not (tmp_path / "out").exists()


def test_it_ends_with_the_process_that_started_it(folders: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from adapters.fusion.__main__ import NICENESS
from adapters.fusion.process import fuse_apart
from adapters.recipe import Method, Parent, Recipe
recipe = Recipe(method=Method.CAT, parents=(Parent(version="x", weight=0.7), Parent(version="y", weight=0.3)))
folders = {{name: Path(path) for name, path in {json.dumps({k: str(v) for k, v in folders.items()})}.items()}}
asyncio.run(fuse_apart(recipe, folders, Path({str(tmp_path / "out")!r}), max_rank=None))
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        child = _working_child_of(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not is_running(child))
    assert not (tmp_path / "out" / "adapter_config.json").exists(), "the fusion process has done its work all the same"


def _working_child_of(pid: int) -> int:
    """Return the process that has read its job and begun to import torch, which takes it a second or two."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            niceness = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[16]
            if int(niceness) == NICENESS:
                return int(child)
        time.sleep(0.005)
    raise AssertionError("no fusion process began to work")


@pytest.mark.parametrize("job", ["", "[]", '{"recipe": 3}'])
def test_a_job_that_cannot_be_read_is_answered_in_a_line(job: str) -> None:
    done = subprocess.run([sys.executable, "-m", "adapters.fusion"], input=job, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["code"] == "bad_job"
    assert done.stderr == ""


def test_importing_it_brings_in_nothing_heavy() -> None:
    heavy = ("torch", "peft", "transformers", "safetensors", "numpy")
    code = f"import sys, adapters.fusion, adapters.fusion.process; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_machine_without_torch_or_peft_says_what_to_install(folders: dict[str, Path], tmp_path: Path) -> None:
    for method, library in (("cat", "torch"), ("linear", "peft")):
        code = f"""
import importlib.util, json, sys
from pathlib import Path
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {library!r} else found(name, *more)
from adapters.fusion import CannotFuse, fuse
from adapters.recipe import Method, Parent, Recipe
recipe = Recipe(method=Method({method!r}), parents=(Parent(version="x", weight=1.0),))
try:
    fuse(recipe, {{"x": Path({str(folders["x"])!r})}}, Path({str(tmp_path / "out")!r}), max_rank=None)
except CannotFuse as refusal:
    print(json.dumps([refusal.code, str(refusal), refusal.remedy]))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found, message, remedy = json.loads(done.stdout)
        assert found == "not_installed"
        assert f"needs {library}" in message
        assert "loragate[cpu]" in remedy
