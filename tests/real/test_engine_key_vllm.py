"""A real vLLM with an API key and two names: what the fake engine says of both is true."""

from pathlib import Path

import httpx
import pytest

from tests.support.gateways import RunningGateway
from tests.support.tiny_adapters import random_adapter
from tests.support.vllm_engines import running_vllm

pytestmark = pytest.mark.real

FLAGS = ("--api-key=sk-real-engine", "--served-model-name", "tiny", "gpt-4o-mini")


def test_vllm_with_a_key_and_two_names_is_served_with_an_adapter_and_not_without_its_key(
    tiny_base_path: Path, tmp_path: Path
) -> None:
    environment = {"LORAGATE_ENGINE_KEY_ENV": "ENGINE_KEY", "ENGINE_KEY": "sk-real-engine"}
    adapter = random_adapter(tiny_base_path, tmp_path / "adapter", seed=7)
    with running_vllm(tiny_base_path, flags=FLAGS) as uds:
        url = f"unix://{uds}"
        with RunningGateway(url) as keyless:
            keyless.wait_until(lambda status: status["engines"][0]["problem"] == "unauthorized", seconds=60)
        with RunningGateway(url, environment=environment) as gateway:
            gateway.wait_for_engine(seconds=60)
            status = gateway.status()
            assert (status["base"], status["base_names"]) == ("tiny", ["tiny", "gpt-4o-mini"])
            gateway.cli("adapters", "add", str(adapter), "--name", "support")
            for model in ("tiny", "gpt-4o-mini", "support"):
                reply = httpx.post(
                    gateway.url + "/v1/completions",
                    json={"model": model, "prompt": "a", "max_tokens": 2},
                    headers=gateway.headers,
                    timeout=60,
                )
                assert reply.status_code == 200, reply.text
            version = gateway.status()["route_table_version"]
            assert version < 20  # vLLM tells another `created` each second, which is no change
