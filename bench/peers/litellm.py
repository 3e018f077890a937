"""LiteLLM proxy (PyPI `litellm[proxy]`): the Python gateway that teams know; checks a key, maps a model."""

from __future__ import annotations

import json

from bench.peers.peer import CACHE, Launch, Peer, Place, venv_python

_KEY = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"  # it refuses short master keys


def install() -> None:
    """Into a venv of its own."""
    venv_python("litellm", "litellm[proxy]==1.106.2")


def launch(place: Place) -> Launch:
    """One worker, its master key, one model in its list, no database, no callbacks, errors logged only."""
    engine = {"model": "hosted_vllm/base", "api_base": f"{place.engine_url}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "base", "litellm_params": engine}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"set_verbose": False},
    }
    path = place.folder / "litellm.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    program = CACHE / "venv-litellm" / "bin" / "litellm"
    options = {"--config": path, "--host": "127.0.0.1", "--port": place.port, "--num_workers": 1, "--telemetry": False}
    command = [str(program), *(str(part) for pair in options.items() for part in pair)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    env |= {
        "AIOHTTP_CONNECTOR_LIMIT": "4096",
        "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "4096",
    }  # 500 would stop the 1,000 streams
    return Launch(command=command, env=env, key=_KEY)


PEER = Peer(name="LiteLLM proxy", install=install, launch=launch, ready_seconds=120.0)
