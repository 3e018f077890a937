"""Nobody's words appear where they may not: planted markers go through a shadow evaluation and are looked for."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateway.store.pairs import Pairs
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

ALIAS = "discreet"
MARKER = "xyzzy-planted"
# One for each place where people write; each is looked for by its common beginning.
CHAT = {
    "model": ALIAS,
    "user": f"{MARKER}-user",
    "metadata": {"expected": f"{MARKER}-expected"},
    "max_tokens": 4,
    "messages": [
        {"role": "system", "content": f"{MARKER}-system"},
        {"role": "user", "content": [{"type": "text", "text": f"{MARKER}-content"}]},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": f'{{"at": "{MARKER}-call"}}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": f"{MARKER}-tool"},
    ],
}
COMPLETION = {"model": ALIAS, "prompt": f"{MARKER}-prompt", "suffix": f"{MARKER}-suffix", "max_tokens": 4}
MESSAGES = {
    "model": ALIAS,
    "max_tokens": 4,
    "system": f"{MARKER}-system",
    "messages": [{"role": "user", "content": f"{MARKER}-message"}],
}
RESPONSES = {"model": ALIAS, "input": f"{MARKER}-input", "instructions": f"{MARKER}-instructions"}
REQUESTS = (
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", COMPLETION),
    ("/v1/messages", MESSAGES),
    ("/v1/responses", RESPONSES),
)


def wait_for(holds: Callable[[], bool], gateway: RunningGateway) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, gateway.log_path.read_text()[-3000:]
        time.sleep(0.1)


def mirror(gateway: RunningGateway, control: str, policy: dict[str, object]) -> None:
    body = {"routes": [{"alias": ALIAS, "control": control, "mirror": policy}], "reason": "test"}
    reply = gateway.admin("PUT", "routes", body)
    assert reply.status_code == 200, reply.text


def on_disk(gateway: RunningGateway, *, logs: bool) -> list[str]:
    """Files of the state folder that hold a marker; logs, or everything else."""
    files = [each for each in gateway.state.rglob("*") if each.is_file() and (each.suffix == ".log") == logs]
    assert files
    return [each.name for each in files if MARKER.encode() in each.read_bytes()]


def pages(gateway: RunningGateway, control: str) -> dict[str, str]:
    """What the control plane tells, by its path; pages and the journal included."""
    found = {"metrics": httpx.get(f"{gateway.control_url}/metrics").text}
    for path in ("status", "journal?limit=1000", "routes", f"shadow/{ALIAS}", "shadow", f"adapters/{control}"):
        reply = gateway.admin("GET", path)
        assert reply.status_code == 200, (path, reply.text)
        found[path] = reply.text
    return found


@pytest.mark.parametrize("capture", ["full", "metrics_only"])
def test_no_word_of_anybody_is_told_or_kept_where_it_may_not_be(
    engine: FakeEngine, tmp_path: Path, capture: str
) -> None:
    with RunningGateway(engine.url, environment={"LORAGATE_LOG_LEVEL": "debug"}) as gateway:
        source = str(adapter_folder(tmp_path / "a", 9))
        added = gateway.admin("POST", "adapters", {"source": source, "name": ALIAS, "activate": True})
        control = str(added.json()["version"])
        mirror(gateway, control, {"share": "100%", "capture": capture, "noise_share": 0, "retention": "1h"})
        ids = []
        for path, body in REQUESTS:
            reply = httpx.post(gateway.url + path, json=body, headers=gateway.headers)
            assert reply.status_code == 200, reply.text
            ids.append(reply.headers["x-request-id"])
        garbled = httpx.post(
            f"{gateway.url}/v1/chat/completions",
            content=f'{{"model": "{ALIAS}", "messages": "{MARKER}'.encode(),
            headers=gateway.headers,
        )
        assert garbled.status_code == 400
        note = {"request_id": ids[0], "thumb": "down", "comment": f"{MARKER}-comment"}
        assert httpx.post(f"{gateway.url}/v1/feedback", json=note, headers=gateway.headers).status_code == 202
        store = open_store(gateway.state, now=time.time)
        try:
            wait_for(lambda: len(Pairs(store).since(0, alias=ALIAS)) == len(REQUESTS), gateway)
        finally:
            store.close()
        told = pages(gateway, control)
        assert [path for path, text in told.items() if MARKER in text] == []
        assert ALIAS in told[f"shadow/{ALIAS}"]  # it is the right page
        assert on_disk(gateway, logs=True) == []
        assert (on_disk(gateway, logs=False) != []) == (
            capture == "full"
        )  # kept where it may be, or the search is blind
