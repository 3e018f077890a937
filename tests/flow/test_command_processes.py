"""Commands and workers in processes of their own: what they print, how they end, and what they never import."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.artifact import read_manifest
from gateway.store.sql import open_store
from tests.support.adapter_folders import fitting_tensors, write_adapter, write_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", tensors=fitting_tensors())


def test_a_good_adapter_ends_with_0(adapter: Path, base: Path) -> None:
    command = [sys.executable, "-m", "gateway", "adapters", "verify", str(adapter), "--base", str(base)]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_manifest(adapter).digest in done.stdout
    assert done.stdout.endswith("Accepted.\n")


def test_neither_torch_nor_an_engine_nor_the_network_is_touched(adapter: Path, base: Path) -> None:
    program = f"""
import sys, socket
socket.socket.connect = None
from gateway.cli import main
try:
    main(["adapters", "verify", {str(adapter)!r}, "--base", {str(base)!r}])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"torch", "transformers", "peft", "vllm", "safetensors", "fastapi"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_key_made_without_a_gateway_says_in_which_store_it_is(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "gateway", "keys", "create", "--state", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"written to the store `{tmp_path / 'state.db'}`" in done.stderr
    assert done.stdout.startswith("sk-loragate-")


def test_workers_never_import_the_database_and_alembic_is_imported_only_to_migrate(tmp_path: Path) -> None:
    open_store(tmp_path, now=time.time).prepare()
    program = (
        "import sys; import gateway.workers.worker, gateway.app;"
        "assert not {'sqlalchemy', 'psycopg', 'alembic'} & set(sys.modules), 'in a worker';"
        "from pathlib import Path; from gateway.store.sql import open_store;"
        "open_store(Path(sys.argv[1]), now=lambda: 0.0).read_state();"
        "assert not {'psycopg', 'alembic'} & set(sys.modules), 'at the start'"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
