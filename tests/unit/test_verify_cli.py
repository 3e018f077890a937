"""loragate adapters verify, sign and keygen as a person runs them: exit codes and words."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapters.artifact import read_manifest
from gateway.cli import main
from tests.support.adapter_folders import fitting_tensors, write_adapter, write_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", tensors=fitting_tensors())


def run_here(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in this process: for the many that are alike."""
    done = CliRunner().invoke(main, ["adapters", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return subprocess.CompletedProcess([], done.exit_code, done.stdout, done.stderr)


def test_a_warning_is_printed_and_ends_with_0(adapter: Path) -> None:
    done = run_here("verify", adapter)
    assert done.returncode == 0
    assert "warning base_not_checked" in done.stdout
    assert "--base for `adapters verify`" in done.stdout
    assert done.stdout.endswith("Accepted, 1 warning.\n")


def test_a_refused_one_ends_with_1_and_every_reason(adapter: Path, base: Path) -> None:
    write_adapter(adapter, tensors=fitting_tensors(rank=16), r=16, use_dora=True, bias="all")
    done = run_here("verify", adapter, "--base", base, "--max-lora-rank", 8)
    assert done.returncode == 1
    for words in ("error dora", "error bias", "error rank_over_limit", "value:   16", "limit:   8", "remedy:"):
        assert words in done.stdout
    assert done.stdout.endswith("Refused: 3 errors.\n")
    assert run_here("verify", adapter, "--base", base, "--max-lora-rank", 16).stdout.endswith("Refused: 2 errors.\n")


def test_json_has_everything(adapter: Path, base: Path) -> None:
    answer = json.loads(run_here("verify", adapter, "--base", base, "--json").stdout)
    assert (answer["accepted"], answer["problems"]) == (True, [])
    assert answer["digest"] == answer["manifest"]["digest"] == read_manifest(adapter).digest
    assert answer["manifest"]["scaling"] == 2
    (adapter / "adapter_model.safetensors").write_bytes(b"1234")
    done = run_here("verify", adapter, "--base", base, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert (answer["accepted"], answer["digest"], answer["manifest"]) == (False, None, None)
    (problem,) = answer["problems"]
    assert problem.keys() == {"code", "severity", "message", "value", "limit", "remedy", "where"}
    assert (problem["code"], problem["severity"], problem["value"]) == ("truncated", "error", 4)


def test_mistakes_of_use_end_with_2(adapter: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "key").write_text("nothing")
    for arguments in (
        (tmp_path / "nowhere",),
        (adapter, "--base", tmp_path / "nowhere"),
        (adapter, "--base", tmp_path / "empty"),
        (adapter, "--max-lora-rank", 0),
        (adapter, "--trusted-key", tmp_path / "key"),
        (adapter, "--require-signed"),
        (),
    ):
        done = run_here("verify", *arguments)
        assert done.returncode == 2, done
        assert "rror" in done.stderr


def test_a_person_makes_a_key_signs_and_requires_it(adapter: Path, base: Path, tmp_path: Path) -> None:
    made = run_here("keygen", tmp_path / "key")
    assert made.returncode == 0
    (tmp_path / "key.pub").write_text(made.stdout)
    again = run_here("keygen", tmp_path / "key")
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
    required = ("verify", adapter, "--base", base, "--trusted-key", tmp_path / "key.pub", "--require-signed")
    done = run_here(*required)
    assert done.returncode == 1
    assert "signature_missing" in done.stdout
    assert run_here("sign", adapter, "--key", tmp_path / "key").returncode == 0
    done = run_here(*required)
    assert done.returncode == 0
    assert "Signed by " in done.stdout
    assert run_here("sign", adapter, "--key", tmp_path / "key.pub").returncode == 2
