"""The official OpenAI and Anthropic clients for Python, unchanged, against the gateway."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageFunctionToolCall

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "size": {"type": "integer"}}}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def alias(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_adapter(tmp_path_factory.mktemp("adapter") / "support")
    gateway.cli("adapters", "add", str(folder), "--name", "support")
    return "support"


def client_of(gateway: RunningGateway, key: str | None = None, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=key or gateway.key, max_retries=0, **more)


def knobs(**fake: Any) -> Any:
    return {"fake": fake}


# What works


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="base", messages=HELLO, seed=1)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16
    assert reply._request_id


def test_an_alias_is_served_by_its_version(client: openai.OpenAI, alias: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=alias, messages=HELLO)
    assert raw.headers["x-loragate-version"].startswith("support@")
    assert raw.headers["x-loragate-arm"] == "control"
    assert raw.headers["x-loragate-route-reason"] == "split"
    assert float(raw.headers["x-loragate-overhead-ms"]) > 0
    assert raw.parse().choices[0].message.content


def test_a_completion_of_token_ids_echoes_and_scores_them(client: openai.OpenAI) -> None:
    prompt = list(b"to be scored")
    reply = client.completions.create(
        model="base", prompt=prompt, echo=True, logprobs=2, max_tokens=1, n=2, extra_body={"priority": 0}
    )
    assert len(reply.choices) == 2
    scored = reply.choices[0].logprobs
    assert scored is not None
    assert scored.tokens is not None
    assert scored.token_logprobs is not None
    assert "".join(scored.tokens[: len(prompt)]) == "to be scored"
    assert scored.top_logprobs is not None
    assert len(scored.top_logprobs[3]) == 2
    assert reply.choices[0].text.startswith("to be scored")


def test_several_prompts_are_answered(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="base", prompt=["one", "two"], max_tokens=2)
    assert reply.choices[0].text


def test_a_stream_joins_up_to_the_whole_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="base", messages=HELLO, seed=3)
    chunks = list(client.chat.completions.create(model="base", messages=HELLO, seed=3, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert all(chunk.choices and chunk.usage is None for chunk in chunks), "usage was not asked for"


def test_a_stream_tells_its_usage_when_asked(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="base", messages=HELLO, stream=True, stream_options=options))
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_a_stream_of_two_choices_has_both(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="base", messages=HELLO, stream=True, n=2))
    texts = [text_of(chunks, index) for index in (0, 1)]
    whole = client.chat.completions.create(model="base", messages=HELLO, n=2)
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]


def test_a_text_completion_streams(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="base", prompt="once", stream=True))
    whole = client.completions.create(model="base", prompt="once")
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_arrive(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "base", "messages": HELLO, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        tokens = [each for chunk in chunks if (lp := chunk.choices[0].logprobs) for each in lp.content or ()]
    else:
        scored = client.chat.completions.create(**asked).choices[0].logprobs
        assert scored is not None
        tokens = list(scored.content or ())
    assert len(tokens) == 16
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 3 for each in tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "base", "messages": HELLO, "tools": [TOOL]}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        name = next(call.function.name for call in parts if call.function and call.function.name)
        arguments = "".join(call.function.arguments or "" for call in parts if call.function)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.finish_reason == "tool_calls"
        (called,) = choice.message.tool_calls or []
        assert isinstance(called, ChatCompletionMessageFunctionToolCall)
        name, arguments = called.function.name, called.function.arguments
    assert name == "weather"
    assert json.loads(arguments) == {"city": "fake", "size": 1}


def test_a_reply_keeps_to_a_schema(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    reply = client.chat.completions.create(model="base", messages=HELLO, response_format=wanted)
    assert json.loads(reply.choices[0].message.content or "") == {"city": "fake", "size": 1}


def test_the_models_are_listed_and_shown(client: openai.OpenAI, alias: str) -> None:
    assert [model.id for model in client.models.list()] == ["base", alias]
    card = client.models.retrieve(alias)
    assert card.id == alias
    assert card.to_dict()["parent"] == "base"
    assert str(card.to_dict()["root"]).startswith("support@")
    assert client.models.retrieve("base").id == "base"


@pytest.mark.parametrize("stream", [False, True])
def test_the_responses_api_answers(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        events = list(client.responses.create(model="base", input="hello", stream=True))
        last = events[-1]
        assert last.type == "response.completed"
        text, reply = (
            "".join(event.delta for event in events if event.type == "response.output_text.delta"),
            last.response,
        )
        assert text == reply.output_text
    else:
        reply = client.responses.create(model="base", input="hello")
        assert reply.output_text
    assert reply.usage is not None
    assert reply.usage.output_tokens > 0


def test_embeddings_arrive(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="base", input=["one", "two"])
    assert len(reply.data) == 2
    assert reply.data[0].embedding != reply.data[1].embedding


def test_a_stream_that_is_closed_frees_the_engine_within_a_second(client: openai.OpenAI, engine: FakeEngine) -> None:
    before = engine.aborted
    with client.chat.completions.create(
        model="base", messages=HELLO, stream=True, extra_body=knobs(events=1000, cadence_ms=10)
    ) as stream:
        next(iter(stream))
    assert engine.wait_for(lambda engine: engine.aborted == before + 1, timeout=1)


def test_the_async_client_streams_many_at_once(gateway: RunningGateway) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0) as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(
                    model="base", messages=HELLO, seed=number % 4, stream=True
                )
                return text_of([chunk async for chunk in stream])

            return await asyncio.gather(*(one(number) for number in range(40)))

    texts = asyncio.run(run())
    assert all(texts)
    assert texts[:4] * 10 == texts


def test_a_reply_can_be_parsed_into_a_class(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        city: str
        size: int

    reply = client.chat.completions.parse(model="base", messages=HELLO, response_format=City)
    assert reply.choices[0].message.parsed == City(city="fake", size=1)


# What goes wrong, in the client's own classes


def test_a_wrong_key_is_an_authentication_error(gateway: RunningGateway) -> None:
    with client_of(gateway, "sk-loragate-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    check(caught.value, 401, "invalid_api_key", "invalid_request_error")


def test_a_key_for_other_models_finds_none(gateway: RunningGateway) -> None:
    key = gateway.create_key("app", "--model", "elsewhere")
    with client_of(gateway, key) as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="base", messages=HELLO)
    check(caught.value, 404, "model_not_found", "invalid_request_error", "model")


def test_a_plain_key_may_not_pin_a_version(gateway: RunningGateway, alias: str) -> None:
    key = gateway.create_key("app")
    version = gateway.cli("adapters", "show", alias, "--json")["version"]
    with client_of(gateway, key) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model=version, messages=HELLO)
    check(caught.value, 403, "pin_not_allowed", "permission_error", "model")
    with client_of(gateway) as client:
        assert client.chat.completions.create(model=version, messages=HELLO).model == version


def test_an_unknown_model_is_not_found(client: openai.OpenAI, alias: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=HELLO)
    check(caught.value, 404, "model_not_found", "invalid_request_error", "model")
    assert f"base, {alias}" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_an_unknown_path_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.list()
    check(caught.value, 404, "unknown_path", "invalid_request_error")


def test_a_missing_model_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=openai.omit, messages=HELLO)  # type: ignore[call-overload]
    check(caught.value, 400, "missing_required_parameter", "invalid_request_error", "model")


def test_the_engines_own_refusal_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="base", messages=openai.omit)  # type: ignore[call-overload]
    assert caught.value.status_code == 400
    assert "Field required" in caught.value.message


def test_a_body_that_is_too_large_is_a_413(engine: FakeEngine) -> None:
    with (
        RunningGateway(engine.url, environment={"LORAGATE_LIMITS__MAX_BODY_BYTES": "50000"}) as small,
        client_of(small) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x" * 60_000}])
    check(caught.value, 413, "request_too_large", "invalid_request_error")


def test_the_engines_rate_limit_passes_through(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="base", messages=HELLO, extra_body=knobs(status=429, retry_after=7))
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.type == "TooManyRequests"
    assert caught.value.request_id


@pytest.mark.parametrize("status", [500, 503])
def test_the_engines_failure_is_an_internal_server_error(client: openai.OpenAI, status: int) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="base", messages=HELLO, extra_body=knobs(status=status))
    assert caught.value.status_code == status
    assert caught.value.request_id


def test_an_engine_that_breaks_off_is_an_internal_server_error(hasty: RunningGateway) -> None:
    with client_of(hasty) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="base", messages=HELLO, extra_body=knobs(hang=True))
    check(caught.value, 504, "engine_timeout", "timeout_error")


def test_an_error_inside_a_stream_is_an_api_error(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="base", messages=HELLO, stream=True, extra_body=knobs(cut_after=3, cut="reset")
    )
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(iter(stream))
    assert not isinstance(caught.value, openai.APIStatusError | openai.APIConnectionError)
    assert caught.value.code == "engine_failed"
    assert caught.value.type == "server_error"


def test_the_engines_own_error_inside_a_stream_is_an_api_error(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="base", messages=HELLO, stream=True, extra_body=knobs(error_after=3))
    with pytest.raises(openai.APIError, match="told to fail mid-stream"):
        list(stream)


def test_no_gateway_is_a_connection_error(gateway: RunningGateway) -> None:
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_a_slow_engine_is_a_timeout_of_the_client(gateway: RunningGateway, engine: FakeEngine) -> None:
    began = time.monotonic()
    with client_of(gateway) as client:
        client.chat.completions.create(model="base", messages=HELLO)
    enough = max(0.3, 10 * (time.monotonic() - began))  # for the request to reach the engine
    before = engine.aborted
    with client_of(gateway, timeout=enough) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="base", messages=HELLO, extra_body=knobs(hang=True))
    assert engine.wait_for(lambda engine: engine.aborted == before + 1)


def test_a_request_id_of_the_clients_own_comes_back(client: openai.OpenAI) -> None:
    headers = {"x-request-id": "mine-42"}
    assert client.chat.completions.create(model="base", messages=HELLO, extra_headers=headers)._request_id == "mine-42"


def test_a_restarting_engine_is_worth_a_retry(engine: FakeEngine, gateway: RunningGateway) -> None:
    engine.kill()
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        with client_of(gateway) as client:
            while True:
                with pytest.raises(openai.InternalServerError) as caught:
                    client.chat.completions.create(model="base", messages=HELLO)
                if caught.value.code == "engine_unavailable" or time.monotonic() > deadline:
                    break
        check(caught.value, 503, "engine_unavailable", "server_error")
        assert caught.value.response.headers["retry-after"]
    finally:
        engine.start()
    gateway.wait_for_engine()


# Anthropic


@pytest.fixture(scope="module")
def messages(gateway: RunningGateway) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
        yield client.messages


def test_the_anthropic_client_is_answered(messages: Any, engine: FakeEngine) -> None:
    reply = messages.create(model="base", max_tokens=50, messages=HELLO)
    assert reply.content[0].text
    assert reply.usage.output_tokens == 16
    assert engine.generations[-1].header("x-api-key") is None, "a client's key never reaches an engine"


def test_the_anthropic_client_counts_tokens_of_an_adapters_prompt(
    messages: Any, engine: FakeEngine, gateway: RunningGateway, alias: str
) -> None:
    assert messages.count_tokens(model="base", messages=HELLO).input_tokens > 0
    version = gateway.cli("adapters", "show", alias, "--json")["version"]
    assert messages.count_tokens(model=alias, messages=HELLO).input_tokens > 0
    assert engine.generations[-1].target == "/v1/messages/count_tokens"
    assert json.loads(engine.generations[-1].body)["model"] == version


def test_the_anthropic_client_streams(messages: Any) -> None:
    with messages.stream(model="base", max_tokens=50, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == last.content[0].text
    assert last.usage.output_tokens == 16


def test_the_anthropic_client_meets_its_own_errors(messages: Any, gateway: RunningGateway) -> None:
    with pytest.raises(anthropic.NotFoundError):
        messages.create(model="nobody", max_tokens=5, messages=HELLO)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="base", max_tokens=5, messages=HELLO)


def test_an_anthropic_stream_that_breaks_off_is_an_api_error(messages: Any) -> None:
    with (
        pytest.raises(anthropic.APIError, match=r"broke|closed"),
        messages.stream(model="base", max_tokens=50, messages=HELLO, extra_body=knobs(cut_after=4)) as stream,
    ):
        list(stream.text_stream)


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


def check(error: openai.APIStatusError, status: int, code: str, kind: str, param: str | None = None) -> None:
    assert (error.status_code, error.code, error.type, error.param) == (status, code, kind, param)
    assert error.request_id
    assert error.response.headers["x-request-id"] == error.request_id
