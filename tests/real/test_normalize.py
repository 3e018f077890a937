"""What a real vLLM answers to what we ask again: the same text, counts and token ids, whole and streamed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from evaluators.normalize import observation_of, prompt_of, replay_body, skip_reason
from evaluators.observation import Observation

pytestmark = pytest.mark.real

SAID = [{"role": "user", "content": "hi there"}]
# What callers send along and we do not ask again, or not so.
REST: dict[str, Any] = {"model": "other", "temperature": 0, "user": "u", "metadata": {"expected": "x"}, "seed": 7}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID, "max_tokens": 12, "n": 2, "logprobs": True, "request_id": "r"},
    "/v1/completions": {"prompt": "one two", "max_tokens": 12, "n": 2, "prompt_logprobs": 1, "best_of": 1},
    "/v1/responses": {"input": "hello", "max_output_tokens": 12, "store": True},
    "/v1/messages": {"messages": SAID, "max_tokens": 12},
}


@pytest.fixture(scope="module")
def client(engine: Path) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine)), base_url="http://engine", timeout=120) as client:
        yield client


def ask(client: httpx.Client, endpoint: str, fields: dict[str, Any], *, stream: bool) -> Observation:
    body = json.dumps(REST | fields).encode()
    assert skip_reason(endpoint, body) is None
    assert prompt_of(endpoint, body).expected == "x"
    model = client.get("/v1/models").json()["data"][0]["id"]
    again = replay_body(endpoint, body, model=model, priority=100, stream=stream, want_token_ids=True)
    reply = client.post(endpoint, content=again, headers={"content-type": "application/json"})
    assert reply.status_code == 200, reply.text
    return observation_of(endpoint, reply.content, stream, ttft_seconds=0.1, duration_seconds=1.2)


@pytest.mark.parametrize("endpoint", BODIES)
def test_real_replies_are_read_whole_and_streamed(client: httpx.Client, endpoint: str) -> None:
    whole, streamed = (ask(client, endpoint, BODIES[endpoint], stream=stream) for stream in (False, True))
    for field in ("text", "finish_reason", "prompt_tokens", "completion_tokens", "prompt_ids", "token_ids"):
        assert getattr(whole, field) == getattr(streamed, field), field
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 12)
    assert streamed.itl_seconds == pytest.approx(0.1)
    if endpoint == "/v1/messages":
        assert whole.token_ids is None
        return
    assert whole.token_ids is not None
    assert whole.prompt_ids is not None
    assert (len(whole.prompt_ids), len(whole.token_ids)) == (whole.prompt_tokens, 12)
    told = client.post("/detokenize", json={"tokens": whole.token_ids}).json()["prompt"]
    assert told == whole.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_constraint_is_kept_when_it_is_asked_again(client: httpx.Client, stream: bool) -> None:
    asked = {"messages": SAID, "max_tokens": 60, "structured_outputs": {"choice": ["certainly"]}}
    seen = ask(client, "/v1/chat/completions", asked, stream=stream)
    assert (seen.text, seen.finish_reason) == ("certainly", "stop")
