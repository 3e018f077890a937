"""The gateway changes the value of `model` and nothing else: not a byte of a request, not a byte of a reply."""
# ruff: noqa: E501 (messages and bodies are easier to compare on one line)

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.raw_client import CHAT, Raw, Reply, chat

MESSAGES = [{"role": "user", "content": "Wie geht's? 你好 \U0001f600"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES, "seed": 1},
    "/v1/completions": {"prompt": "Once", "max_tokens": 5, "logprobs": 2},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "base64"},
    "/tokenize": {"prompt": "hello", "return_token_strs": True},
    "/detokenize": {"tokens": [104, 105]},
}
STREAMING = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages")


@pytest.fixture(scope="module")
def support(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An alias; returns the version behind it."""
    folder = adapter_folder(tmp_path_factory.mktemp("adapters") / "support", 1)
    version = str(gateway.cli("adapters", "add", str(folder), "--name", "support", "--json")["version"])
    gateway.wait_until(lambda status: all(version in engine["versions"] for engine in status["engines"]))
    return version


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[Raw]:
    with Raw(gateway) as client:
        yield client


def direct(engine: FakeEngine, path: str, body: Any) -> httpx.Response:
    """The engine's own reply."""
    return httpx.post(engine.url + path, json=body)


@pytest.mark.parametrize("prefix", ["", "/m/support"], ids=["model in the body", "model in the path"])
@pytest.mark.parametrize("path", BODIES)
def test_a_reply_is_the_engines_own(client: Raw, engine: FakeEngine, support: str, path: str, prefix: str) -> None:
    reply = client.ask(prefix + path, {**BODIES[path], **({"model": "support"} if not prefix else {})})
    own = direct(engine, path, {**BODIES[path], "model": support})
    assert (reply.status, reply.body) == (own.status_code, own.content)
    assert reply.headers["content-type"] == own.headers["content-type"]
    assert reply.headers["x-loragate-version"] == support
    assert (reply.headers["x-loragate-arm"], reply.headers["x-loragate-route-reason"]) == ("control", "split")
    assert float(reply.headers["x-loragate-overhead-ms"]) < 1000


@pytest.mark.parametrize("prefix", ["", "/m/support"], ids=["model in the body", "model in the path"])
@pytest.mark.parametrize("path", STREAMING)
@pytest.mark.parametrize(
    "options", [{}, {"stream_options": {"include_usage": True}}], ids=["no usage asked", "usage asked"]
)
def test_a_stream_is_the_engines_own(
    client: Raw, engine: FakeEngine, support: str, path: str, prefix: str, options: dict[str, Any]
) -> None:
    body = {**BODIES[path], "stream": True, **options}
    reply = client.ask(prefix + path, {**body, "model": "support"})
    own = direct(engine, path, {**body, "model": support})
    assert (reply.status, reply.body) == (200, own.content)
    assert reply.is_whole
    assert reply.headers["content-type"] == own.headers["content-type"]
    if path in STREAMING[:2]:
        assert (b'"usage":' in reply.body) is bool(options)


@pytest.mark.parametrize("target", ["/tokenizer_info", "/m/base/tokenizer_info", "/tokenizer_info?x=1"])
def test_tokenizer_info_is_the_engines_own(client: Raw, engine: FakeEngine, target: str) -> None:
    assert client.ask(target).body == httpx.get(engine.url + "/tokenizer_info").content


def test_tokenize_without_a_model_asks_the_base(client: Raw, engine: FakeEngine) -> None:
    for body in (b'{"prompt": "a"}', b'{"prompt":"a","model":null}', b'{"model":"" ,"prompt":"a"}'):
        assert client.ask("/tokenize", body).status == 200
        assert json.loads(engine.generations[-1].body)["model"] == "base"
    assert client.ask("/detokenize", b"{}").status == 400  # the engine's word: no tokens
    assert engine.generations[-1].body == b'{"model":"base"}'
    assert client.ask("/tokenize", b" { \n } ").status == 200
    assert engine.generations[-1].body == b' {"model":"base" \n } '


ODD = {
    "big integers": b'{"model":"support","messages":[],"seed":%d,"x":[-%d]}' % (10**400, 10**399),
    "floats": b'{"messages":[],"a":1.0e+10,"b":-0.0,"c":1E400,"d":0.10,"model":"support","e":1e-999}',
    "escapes": rb'{"messages":[],"a":"\u0041\ud83d\ude00\/\b","model":"support","b":"\u00e9\\u006d"}',
    "lone surrogates": rb'{"messages":[],"a":"\ud83d","b":"\udc00\ud800 \\ud800","user":"\ud83d\ude00\ud83d","model":"support"}',
    "raw characters": '{"messages":[],"ü":"你好 \U0001f600","model":"support","z":"\u2028"}'.encode(),
    "space": b' \r\n\t{ "messages" :\t[ ] ,\r\n"model"\n:\t"support" , "x" : 1 }\n ',
    "order": b'{"z":1,"model":"support","a":2,"messages":[],"m":3}',
    "unknown fields": b'{"foo":{"bar":[null,true,false]},"model":"support","messages":[],"guided_json":{}}',
    "duplicate unknown fields": b'{"x":1,"x":2,"model":"support","messages":[],"messages":[]}',
    "model in nested objects": b'{"messages":[{"model":"a"}],"x":{"model":{"model":"b"}},"model":"support","y":[{"model":"c"}]}',
    "model in a tool schema": b'{"messages":[],"tool_choice":"none","tools":[{"type":"function","function":{"name":"f",'
    b'"parameters":{"type":"object","properties":{"model":{"type":"string"}}}}}],"model":"support"}',
    "model as a value": b'{"x":"model","model":"support","messages":[],"y":["model","\\"model\\":\\"support\\""]}',
    "an escaped key": rb'{"messages":[],"m\u006fdel":"support"}',
    "an escaped key beside nested ones": rb'{"x":{"model":"a"},"messages":[],"\u006d\u006f\u0064\u0065\u006C":"support","y":{"model":"b"}}',
    "an escaped value": rb'{"model":"supp\u006frt","messages":[]}',
    "an escaped value beside others": '{"é":"ü","x":{"model":"support"},"model":"supp\\u006frt","messages":[],"y":"\U0001f600"}'.encode(),
    "a long integer in a nested object": b'{"a":{"model":%d},"model":"support","messages":[]}' % (10**4000),
    "brackets in strings": b'{"model":"support","messages":[{"content":"' + b"[{" * 5000 + b'"}]}',
    "flat and wide": b'{"model":"support","messages":[' + b'{"a":[1]},' * 5000 + b"{}]}",
    "199 deep": b'{"model":"support","messages":' + b"[" * 199 + b"]" * 199 + b"}",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_the_engine_gets_what_was_sent_with_another_model(
    client: Raw, engine: FakeEngine, support: str, body: bytes
) -> None:
    client.ask(CHAT, body)
    expected = None
    for written in (
        rb'"m\u006fdel":"support"',
        rb'\u006C":"support"',
        rb'"model":"supp\u006frt"',
        b'"model"\n:\t"support"',
        b'"model":"support"',
    ):
        if written in body.replace(b'{"model":"support"}', b""):
            old = written[written.rindex(b'"supp') :]
            at = body.rindex(written) + len(written) - len(old)
            expected = body[:at] + b'"' + support.encode() + b'"' + body[at + len(old) :]
            break
    assert engine.generations[-1].body == expected


@pytest.mark.parametrize("path", STREAMING)
def test_a_stream_without_usage_is_asked_for_it_where_it_would_not_tell(
    client: Raw, engine: FakeEngine, path: str
) -> None:
    sent = json.dumps({"model": "base", **BODIES[path], "stream": True}).encode()
    client.ask(path, sent)
    addition = b',"stream_options":{"include_usage":true}' if path in STREAMING[:2] else b""
    assert engine.generations[-1].body == sent[:-1] + addition + b"}"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("null", '{"include_usage":true}'),
        ("{}", '{"include_usage":true}'),
        ("{ }", '{"include_usage":true }'),
        ('{"include_usage":false}', '{"include_usage":true}'),
        ('{ "include_usage" : null , "x":1.0e+10}', '{ "include_usage" : true , "x":1.0e+10}'),
        ('{"x":%d}' % 10**400, '{"include_usage":true,"x":%d}' % 10**400),  # noqa: UP031
        ('{"include_usage":true,"include_usage":false}', '{"include_usage":true,"include_usage":true}'),
        ('{"é":{"include_usage":1},"include_usage":0}', '{"é":{"include_usage":1},"include_usage":true}'),
    ],
    ids=range(8),
)
def test_stream_options_keep_all_but_include_usage(client: Raw, engine: FakeEngine, sent: str, received: str) -> None:
    around = ('{"stream_options" :', ', "model":"base","messages":[],"stream":true}')
    reply = client.ask(CHAT, sent.join(around).encode())
    assert engine.generations[-1].body.decode() == received.join(around)
    assert b'"usage"' not in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_stream_options_of_the_wrong_type_are_the_engines_to_judge(client: Raw, engine: FakeEngine) -> None:
    for options in ("[]", "1", '"x"', "true"):
        sent = f'{{"model":"base","stream":true,"stream_options":{options}}}'.encode()
        assert client.ask(CHAT, sent).status == 400
        assert engine.generations[-1].body == sent


def tokens(gateway: RunningGateway) -> tuple[float, float]:
    """Prompt and generated tokens counted so far, over all versions."""
    metrics = gateway.metrics()
    sums = [
        sum(value for name, value in metrics.items() if name.startswith(f"loragate_{kind}_tokens_total"))
        for kind in ("prompt", "generation")
    ]
    return sums[0], sums[1]


@pytest.mark.parametrize("path", [*STREAMING, "/v1/embeddings"])
def test_tokens_are_counted_whether_or_not_the_client_asks(gateway: RunningGateway, client: Raw, path: str) -> None:
    variants: list[dict[str, Any]] = [{}]
    if path in STREAMING:
        variants += [{"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}]
    plain = client.ask(path, {"model": "base", **BODIES[path]}).json()["usage"]
    prompt = plain.get("prompt_tokens", plain.get("input_tokens"))
    generated = plain.get("completion_tokens", plain.get("output_tokens"))
    for variant in variants:
        before = tokens(gateway)
        client.ask(path, {"model": "base", **BODIES[path], **variant})
        after = tokens(gateway)
        assert (after[0] - before[0], after[1] - before[1]) == (prompt, generated), variant


def test_a_client_that_asks_for_usage_sees_one_usage_event(client: Raw) -> None:
    asked = client.ask(CHAT, chat(stream=True, stream_options={"include_usage": True})).body
    silent = client.ask(CHAT, chat(stream=True)).body
    events = asked.split(b"\n\n")
    (usage,) = [event for event in events if b'"usage"' in event]
    assert b"\n\n".join(event for event in events if event != usage) == silent


def test_the_path_overrides_the_bodys_model(client: Raw, engine: FakeEngine, support: str) -> None:
    for model in ('"nobody"', "null", "5", '["x"]', f'"{support}"', '""'):
        reply = client.ask("/m/support" + CHAT, f'{{"messages":[],"model":{model} ,"x":1}}'.encode())
        assert (reply.status, reply.headers["x-loragate-version"]) == (200, support)
        assert engine.generations[-1].body == f'{{"messages":[],"model":"{support}" ,"x":1}}'.encode()
    assert client.ask(f"/m/{support}" + CHAT, {"messages": []}).headers["x-loragate-route-reason"] == "pin"
    assert (
        client.ask(f"/m/{support[:-6].replace('@', '%40')}" + CHAT, {"messages": []}).headers["x-loragate-version"]
        == support
    )


def test_errors_of_the_engine_pass_through_as_they_are(client: Raw, engine: FakeEngine) -> None:
    for status in (400, 401, 404, 413, 422, 429, 500, 503):
        body = chat(fake={"status": status, "retry_after": 7})
        reply: Reply = client.ask(CHAT, body)
        own = direct(engine, CHAT, body)
        assert (reply.status, reply.body) == (status, own.content)
        assert reply.headers["retry-after"] == "7"


def test_only_harmless_headers_reach_the_engine(client: Raw, engine: FakeEngine) -> None:
    client.ask(
        CHAT,
        chat(),
        content_type="application/json; charset=utf-8",
        accept="text/event-stream",
        traceparent="00-ab-cd-01",
        tracestate="x=1",
        cookie="secret",
        x_api_key="secret",
        x_forwarded_for="1.2.3.4",
        host2="x",
        accept_encoding="gzip",
        priority="u=0",
        x_request_id="mine",
    )
    names = {name.decode(): value.decode() for name, value in engine.generations[-1].headers}
    assert names.pop("content-length")
    assert names == {
        "host": "engine",
        "content-type": "application/json; charset=utf-8",
        "accept": "text/event-stream",
        "traceparent": "00-ab-cd-01",
        "tracestate": "x=1",
        "x-request-id": "mine",
    }


def test_malformed_events_pass_through(client: Raw, engine: FakeEngine) -> None:
    body = chat(stream=True, fake={"malformed": True, "events": 5})
    assert client.ask(CHAT, body).body == direct(engine, CHAT, body).content


def test_an_engines_own_error_event_passes_through(client: Raw, engine: FakeEngine) -> None:
    body = chat(stream=True, fake={"error_after": 2})
    assert client.ask(CHAT, body).body == direct(engine, CHAT, body).content


def test_models_lists_the_base_and_the_aliases(client: Raw, support: str) -> None:
    cards = client.ask("/v1/models").json()["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in cards] == [
        ("base", "base", None),
        ("support", support, "base"),
    ]
    assert client.ask("/v1/models/support").json() == cards[1]
    assert client.ask(f"/v1/models/{support}").json()["id"] == support
    assert client.ask("/m/support/v1/models").json()["data"] == cards


def test_a_gateway_without_auth_needs_no_key(engine: FakeEngine) -> None:
    with RunningGateway(engine.url, options=("--no-auth",)) as gateway, Raw(gateway) as client:
        assert client.ask(CHAT, chat(), **{"content-type": "application/json"}).status == 200
