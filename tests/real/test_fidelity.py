"""What real vLLM says is what the client gets, byte for byte, on every endpoint."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.support.gateways import RunningGateway

pytestmark = pytest.mark.real

CHAT = {"messages": [{"role": "user", "content": "hi there"}], "max_tokens": 8, "temperature": 0, "seed": 7}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"]}
CHOSEN = {"type": "function", "function": {"name": "weather"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat n=2 with logprobs": (
        "/v1/chat/completions",
        {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 3, "temperature": 0.7},
    ),
    "chat with a tool": (
        "/v1/chat/completions",
        {**CHAT, "max_tokens": 40, "tools": [TOOL], "tool_choice": CHOSEN},
    ),
    "chat with a schema": (
        "/v1/chat/completions",
        {**CHAT, "max_tokens": 40, "response_format": FORMAT},
    ),
    "completion of token ids": ("/v1/completions", {"prompt": [1, 4, 5, 6], "max_tokens": 6, "temperature": 0}),
    "completion with echo and logprobs": (
        "/v1/completions",
        {"prompt": "one two", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2},
    ),
    "completions of several prompts": (
        "/v1/completions",
        {"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 4, "seed": 3, "n": 2},
    ),
    "best_of": ("/v1/completions", {"prompt": "a", "max_tokens": 4, "n": 1, "best_of": 2, "seed": 1}),
    "prompt_logprobs": (
        "/v1/completions",
        {"prompt": "a b c", "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0},
    ),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": 8, "temperature": 0}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}),
    "embeddings, which this engine has not": ("/v1/embeddings", {"input": "hello"}),
    "tokenize": ("/tokenize", {"prompt": "hello there"}),
    "tokenize messages": ("/tokenize", {"messages": [{"role": "user", "content": "hi"}]}),
    "detokenize": ("/detokenize", {"tokens": [1, 5, 9]}),
    "a value out of range": ("/v1/chat/completions", {**CHAT, "temperature": -1}),
    "a wrong type": ("/v1/chat/completions", {"messages": "no list"}),
    "too long": ("/v1/completions", {"prompt": "a", "max_tokens": 100_000}),
}
# On a busy machine two runs of vLLM itself differ: it joins tokens into one event when its output loop lags, and the
# choices of one request may run in one batch or in two, which moves the last digits of their log-probabilities.
TRIES = 10
STREAMS = ("chat", "chat n=2 with logprobs", "chat with a tool", "completion of token ids", "responses", "messages")


def version_of(up: RunningGateway, alias: str) -> str:
    return str(up.cli("adapters", "show", alias, "--json")["version"])


def direct(up: RunningGateway) -> httpx.Client:
    """A client that talks to the engine itself, past the gateway."""
    transport = httpx.HTTPTransport(uds=str(up.state / "run" / "engine.sock"))
    return httpx.Client(transport=transport, base_url="http://engine", timeout=120)


def settled(body: bytes) -> str:
    """A reply without ids and times."""
    text = re.sub(r'"(id|request_id|item_id|response_id|call_id|tool_call_id)": ?"[^"]*"', r'"\1":"…"', body.decode())
    text = re.sub(r'"(created|created_at|completed_at)": ?[0-9.]+', r'"\1":0', text)
    return re.sub(r"(chatcmpl|cmpl|resp|msg|tokn|embd|chatcmpl-tool)[-_][0-9a-zA-Z-]+", "…", text)


@pytest.mark.parametrize("alias", ["base", "amber"])
@pytest.mark.parametrize("case", CASES)
def test_the_body_is_the_engines_own(up: RunningGateway, case: str, alias: str) -> None:
    path, fields = CASES[case]
    name = up.status()["base"] if alias == "base" else alias
    engine_name = name if alias == "base" else version_of(up, alias)
    for _ in range(TRIES):
        through = httpx.post(up.url + path, json={"model": name, **fields}, headers=up.headers, timeout=120)
        with direct(up) as engine:
            expected = engine.post(path, json={"model": engine_name, **fields})
        if settled(through.content) == settled(expected.content):
            break
    assert through.status_code == expected.status_code
    assert settled(through.content) == settled(expected.content)


@pytest.mark.parametrize("usage", [None, {"include_usage": True}, {"include_usage": False}])
@pytest.mark.parametrize("case", STREAMS)
def test_the_event_stream_is_the_engines_own(up: RunningGateway, case: str, usage: dict[str, bool] | None) -> None:
    path, fields = CASES[case]
    asked: dict[str, Any] = {"stream_options": usage} if usage is not None and path.endswith("completions") else {}
    body = {**fields, "stream": True, **asked}
    for _ in range(TRIES):
        through = httpx.post(up.url + path, json={"model": "amber", **body}, headers=up.headers, timeout=120)
        with direct(up) as engine:
            expected = engine.post(path, json={"model": version_of(up, "amber"), **body})
        if settled(through.content) == settled(expected.content):
            break
    assert through.headers["content-type"] == expected.headers["content-type"]
    assert settled(through.content) == settled(expected.content)
    assert through.content.count(b"data:") > 1


def test_tokenizer_info_is_served_without_a_model_name_and_below_a_models_path(up: RunningGateway) -> None:
    with direct(up) as engine:
        expected = engine.get("/tokenizer_info")
    for path in ("/tokenizer_info", "/m/amber/tokenizer_info"):
        through = httpx.get(up.url + path, headers=up.headers)
        assert (through.status_code, through.content) == (expected.status_code, expected.content)


def test_a_model_in_the_path_serves_a_body_without_one(up: RunningGateway) -> None:
    body = {"prompt": [[1, 5, 9], [7, 7]], "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    named = httpx.post(up.url + "/v1/completions", json={**body, "model": "blue"}, headers=up.headers, timeout=120)
    in_path = httpx.post(up.url + "/m/blue/v1/completions", json=body, headers=up.headers, timeout=120)
    assert settled(in_path.content) == settled(named.content)
    assert json.loads(in_path.content)["model"] == version_of(up, "blue")


def test_adapters_answer_otherwise_than_the_base(up: RunningGateway) -> None:
    texts = set()
    for model in (up.status()["base"], "amber", "blue"):
        reply = httpx.post(
            up.url + "/v1/chat/completions", json={"model": model, **CHAT}, headers=up.headers, timeout=120
        )
        texts.add(reply.json()["choices"][0]["message"]["content"])
    assert len(texts) == 3


def test_deeply_nested_json_never_makes_the_engine_answer_500(up: RunningGateway) -> None:
    for depth in (150, 199, 250, 1000):
        nested = "[" * depth + "]" * depth
        body = f'{{"model":"amber","messages":[{{"role":"user","content":"x"}}],"max_tokens":1,"metadata":{nested}}}'
        reply = httpx.post(
            up.url + "/v1/chat/completions",
            content=body,
            headers={**up.headers, "content-type": "application/json"},
            timeout=120,
        )
        assert reply.status_code in (200, 400), (depth, reply.text[:200])
