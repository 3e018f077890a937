"""The plugin for vLLM on the CPU: which engines it has forked."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.serve import vllm_cpu


class Platform:
    """As much of vLLM's CPU platform as the plugin changes."""

    @classmethod
    def check_and_update_config(cls, _config: Any) -> None:
        os.environ[vllm_cpu.START_METHOD] = "spawn"


@pytest.mark.parametrize(("executor", "method"), [("uni", "fork"), ("mp", "spawn")])
def test_an_engine_is_forked_unless_its_workers_bind_threads(
    executor: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vllm_cpu.START_METHOD, "")

    class Forked(Platform):
        """The plugin changes the class: not the one of other tests."""

    vllm_cpu._fork_the_engine(Forked)
    Forked.check_and_update_config(
        SimpleNamespace(parallel_config=SimpleNamespace(distributed_executor_backend=executor))
    )
    assert os.environ[vllm_cpu.START_METHOD] == method


def test_without_either_switch_vllm_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm_cpu.SWITCH, "0")
    monkeypatch.delenv(vllm_cpu.FORK, raising=False)
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would raise
    vllm_cpu.register()
