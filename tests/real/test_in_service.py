"""`loragate up` with a real vLLM that is checked while it serves: with our cure for its fault on CPUs, and without."""

import concurrent.futures
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.serve.vllm_cpu import SWITCH
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real

PROMPT = "The capital of France is"
ROUNDS = 10
LORAS = {"LORAGATE_ENGINE__MAX_MODEL_LEN": "2048"}


@pytest.fixture(scope="module")
def checked(tiny_base_path: Path, tiny_adapters: dict[str, Path]) -> Iterator[RunningGateway]:
    """Two adapters in service, checked often."""
    settings = {**LORAS, "LORAGATE_ADAPTERS__PROBE_SECONDS": "0.3"}
    with RunningGateway(base=tiny_base_path, environment=settings) as gateway:
        for name in ("amber", "blue"):
            add(gateway, tiny_adapters[name], name)
        yield gateway


def add(gateway: RunningGateway, folder: Path, name: str) -> None:
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": name})
    assert reply.status_code == 201, reply.text


def make(gateway: RunningGateway, how: str, **order: Any) -> dict[str, Any]:
    """Fuse or scale, and return the new version."""
    reply = gateway.admin("POST", f"adapters/{how}", order)
    assert reply.status_code == 201, reply.text
    view: dict[str, Any] = reply.json()
    assert view["state"] == "ready"
    return view


def text_of(gateway: RunningGateway, model: str) -> str:
    with openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        reply = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    return reply.choices[0].text


def verdicts(gateway: RunningGateway) -> dict[str, float]:
    series = gateway.metrics().items()
    return {
        name.partition('verdict="')[2].removesuffix('"}'): count
        for name, count in series
        if name.startswith("loragate_fingerprint_checks_total")
    }


def test_without_the_cure_no_adapter_is_served_and_the_base_answers_rightly(
    tiny_base_path: Path, tiny_adapters: dict[str, Path], checked: RunningGateway
) -> None:
    # With one slot the first adapter is in the last, which is the one that stock vLLM's base takes for its own.
    settings = {**LORAS, SWITCH: "0", "LORAGATE_ENGINE__MAX_LORAS": "1"}
    with RunningGateway(base=tiny_base_path, environment=settings) as gateway:
        base = gateway.status()["base"]
        before = text_of(gateway, base)
        reply = gateway.admin("POST", "adapters", {"source": str(tiny_adapters["amber"]), "name": "amber"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "fingerprint_failed"), reply.text
        message = reply.json()["error"]["message"]
        print(message)
        assert "LORAGATE_CPU_LORA_CURE must not be 0" in message
        assert gateway.admin("GET", "adapters").json()["adapters"] == []
        assert verdicts(gateway)["mismatch"] == 1
        assert text_of(gateway, base) == before == text_of(checked, checked.status()["base"])


def test_healthy_adapters_stay_in_service_while_they_are_checked_beside_traffic(checked: RunningGateway) -> None:
    models = [checked.status()["base"], "amber", "blue"]
    expected = {model: text_of(checked, model) for model in models}
    assert len(set(expected.values())) == 3
    over = threading.Event()
    found: list[tuple[str, str]] = []

    def keep_asking(model: str) -> None:
        while not over.is_set():
            found.append((model, text_of(checked, model)))

    before = verdicts(checked)["ok"]
    deadline = time.monotonic() + 4 * PATIENCE_SECONDS
    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        tasks = [pool.submit(keep_asking, model) for model in models]
        while verdicts(checked)["ok"] < before + ROUNDS * len(models) and time.monotonic() < deadline:
            time.sleep(0.1)
        over.set()
        for task in tasks:
            task.result()
    print(f"{len(found)} requests, checks by verdict: {verdicts(checked)}")
    assert verdicts(checked).keys() == {"ok"}
    assert verdicts(checked)["ok"] >= before + ROUNDS * len(models)
    assert {state["state"] for state in checked.admin("GET", "adapters").json()["adapters"]} == {"ready"}
    assert [(model, text) for model, text in found if text != expected[model]] == []


def test_fused_and_scaled_versions_serve_through_the_official_client(checked: RunningGateway) -> None:
    base = checked.status()["base"]
    parents = [{"version": "amber", "weight": 0.7}, {"version": "blue", "weight": 0.3}]
    fused = make(checked, "fuse", name="both", method="cat", parents=parents)
    assert fused["rank"] == 16
    nothing = make(checked, "scale", name="nothing", version="amber", factor=0.0)
    half = make(checked, "scale", name="half", version="amber", factor=0.5)
    assert [parent["version"].partition("@")[0] for parent in half["parents"]] == ["amber"]
    texts = {model: text_of(checked, model) for model in (base, "amber", "both", "half", nothing["version"])}
    assert texts[nothing["version"]] == texts[base]
    assert len({texts[model] for model in (base, "amber", "both", "half")}) == 4
    with openai.OpenAI(base_url=checked.url + "/v1", api_key=checked.key) as client:
        assert {"both", "half", "nothing"} <= {model.id for model in client.models.list()}
