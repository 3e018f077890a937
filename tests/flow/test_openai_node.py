"""The official OpenAI client for Node, unchanged, against the gateway (tests/clients/node).

Needs `node` and `npm`; where they cannot be had, LORAGATE_TEST_WITHOUT_NODE=1 says so.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

NODE_FOLDER = Path(__file__).parents[1] / "clients" / "node"
CHECKS = re.findall(r"^  async (\w+)\(\)", (NODE_FOLDER / "checks.mjs").read_text(), re.MULTILINE)
IS_WITHOUT_NODE = os.environ.get("LORAGATE_TEST_WITHOUT_NODE") == "1"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(IS_WITHOUT_NODE, reason="LORAGATE_TEST_WITHOUT_NODE=1 says that there is no Node here"),
]


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder with the installed client; installed once for each lock file."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(f"`{tool}` is not installed: install Node 20 or later, or set LORAGATE_TEST_WITHOUT_NODE=1")
    lock = NODE_FOLDER / "package-lock.json"
    stamp = NODE_FOLDER / "node_modules" / ".installed-lock.json"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=NODE_FOLDER,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"`npm ci` failed:\n{done.stdout}{done.stderr}"
        shutil.copyfile(lock, stamp)
    return NODE_FOLDER


@pytest.fixture(scope="module")
def outcome(modules: Path, engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each check of the script found."""
    limits = {"LORAGATE_LIMITS__MAX_BODY_BYTES": "100000", "LORAGATE_LIMITS__FIRST_BYTE_SECONDS": "3"}
    folder = write_adapter(tmp_path_factory.mktemp("adapter") / "support")
    with RunningGateway(engine.url, environment=limits) as gateway:
        version = gateway.admin("POST", "adapters", {"path": str(folder), "name": "support"}).json()["version"]
        given = {
            "BASE_URL": gateway.url,
            "CONTROL_URL": gateway.control_url,
            "VERSION": version,
            "KEY": gateway.create_key("app"),
            "LIMITED_KEY": gateway.create_key("app", "--model", "elsewhere"),
        }
        done = subprocess.run(
            ["node", "checks.mjs"],
            cwd=modules,
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert engine.wait_for(lambda engine: engine.running == 0), "an aborted stream frees the engine"
        yield json.loads(done.stdout)


@pytest.mark.parametrize("check", CHECKS)
def test_the_node_client_finds_what_it_expects(outcome: dict[str, str], check: str) -> None:
    assert outcome[check] == "ok"


def test_every_check_has_run(outcome: dict[str, str]) -> None:
    assert sorted(outcome) == sorted(CHECKS)
    assert len(CHECKS) > 20


def test_the_lock_file_names_no_registry() -> None:
    assert "http" not in (NODE_FOLDER / "package-lock.json").read_text()
