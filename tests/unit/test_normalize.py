"""Requests and replies of all four endpoints become prompts and observations, whatever the bytes are."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.normalize import NotComparable, observation_of, prompt_of, replay_body, skip_reason
from evaluators.observation import Ended, Observation, ToolCall
from tests.fakes import replies, streams
from tests.fakes.generate import Answer, answer, tokens_of
from tests.support.examples import examples

CHAT, COMPLETIONS, RESPONSES, MESSAGES = ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
WHOLE = dict(
    zip(ENDPOINTS, (replies.chat, replies.completion, replies.responses, replies.messages), strict=True),
)
STREAMED = dict(
    zip(ENDPOINTS, (streams.chat, streams.completion, streams.responses, streams.messages), strict=True),
)
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Mapping[str, Any] = {
    CHAT: {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    RESPONSES: {"type": "function", "name": "weather", "parameters": WEATHER},
    MESSAGES: {"name": "weather", "input_schema": WEATHER},
}
BODIES: Mapping[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"prompt": "Hi"},
    RESPONSES: {"input": "Hi"},
    MESSAGES: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}


def encoded(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal_of(ask: Callable[[], object]) -> str:
    """Why this cannot be compared, empty if it can; anything else that is raised goes on."""
    try:
        ask()
    except NotComparable as problem:
        return problem.reason
    return ""


def sse(*events: Mapping[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def choice(delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]}


def replied(endpoint: str, body: dict[str, Any], *, is_stream: bool, choices: int = 1) -> tuple[bytes, list[Answer]]:
    """What the fake engine answers, in vLLM's shapes."""
    answers = [answer("support", body, index, None) for index in range(choices)]
    if is_stream:
        paced, tail = STREAMED[endpoint]("support", body, answers)
        return b"".join([*paced, *tail]), answers
    return WHOLE[endpoint]("support", body, answers), answers


def reason_of(endpoint: str, reply: bytes, *, is_stream: bool = False, ended: Ended = Ended.COMPLETE) -> str:
    with pytest.raises(NotComparable) as caught:
        observation_of(endpoint, reply, is_stream, ended=ended)
    return caught.value.reason


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_whole_reply_and_its_stream_say_the_same(endpoint: str) -> None:
    body = BODIES[endpoint] | {"stream_options": {"include_usage": True}, "return_token_ids": True}
    whole, (said,) = replied(endpoint, body, is_stream=False)
    streamed, _ = replied(endpoint, body, is_stream=True)
    one = observation_of(endpoint, whole, False)
    assert one == observation_of(endpoint, streamed, True)
    assert (one.text, one.finish_reason, one.tool_calls) == (said.text, said.finish_reason, ())
    assert one.prompt_tokens is not None
    if endpoint in (CHAT, COMPLETIONS):
        assert one.token_ids == tuple(tokens_of(said.text))
        assert one.prompt_ids == tuple(replies.prompt_ids(body))
        assert one.completion_tokens == len(one.token_ids)
    else:
        assert (one.token_ids, one.prompt_ids) == (None, None)
        assert one.completion_tokens


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, MESSAGES])
def test_tool_calls_say_the_same_whole_and_streamed(endpoint: str) -> None:
    body = BODIES[endpoint] | {"tools": [TOOLS[endpoint]]}
    for is_stream in (False, True):
        reply, _ = replied(endpoint, body, is_stream=is_stream)
        seen = observation_of(endpoint, reply, is_stream)
        assert [(call.name, json.loads(call.arguments)) for call in seen.tool_calls] == [("weather", {"city": "fake"})]
        assert (seen.text, seen.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_lines_may_end_in_any_way_and_comments_say_nothing(endpoint: str, ending: bytes) -> None:
    reply, (said,) = replied(endpoint, BODIES[endpoint], is_stream=True)
    changed = b"\xef\xbb\xbf: hello\n\n" + reply
    assert observation_of(endpoint, changed.replace(b"\n", ending), True).text == said.text


def test_an_event_may_stand_on_several_data_lines() -> None:
    reply = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n'
    assert observation_of(CHAT, reply, True).text == "Hi"


@pytest.mark.parametrize("is_stream", [False, True])
def test_of_several_choices_the_first_counts_and_its_length_is_not_the_sum(is_stream: bool) -> None:
    body = BODIES[CHAT] | {"n": 3, "stream_options": {"include_usage": True}}
    reply, answers = replied(CHAT, body, is_stream=is_stream, choices=3)
    seen = observation_of(CHAT, reply, is_stream)
    assert seen.text == answers[0].text != answers[1].text
    assert seen.completion_tokens is None
    reply, _ = replied(CHAT, body | {"return_token_ids": True}, is_stream=is_stream, choices=3)
    assert observation_of(CHAT, reply, is_stream).completion_tokens == len(tokens_of(answers[0].text))


def test_deltas_of_several_tool_calls_are_put_together_by_their_index() -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return choice({"tool_calls": [{"index": index, "function": function}]})

    reply = sse(
        part(1, name="b", arguments=""),
        part(0, name="a", arguments='{"x"'),
        part(1, arguments="{}"),
        part(0, arguments=": 1}"),
        part(1, name="ignored: it has one"),
        choice({}, "tool_calls"),
    )
    seen = observation_of(CHAT, reply, True)
    assert seen.tool_calls == (ToolCall(name="a", arguments='{"x": 1}'), ToolCall(name="b", arguments="{}"))


def test_older_forms_of_a_message_are_read() -> None:
    def of(**message: Any) -> Observation:
        return observation_of(CHAT, encoded(choices=[{"message": message, "finish_reason": "stop"}]), False)

    assert of(function_call={"name": "f", "arguments": {"x": 1}}).tool_calls == (
        ToolCall(name="f", arguments='{"x": 1}'),
    )
    assert of(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]).text == "ab"
    assert of(content=None, refusal="No.").text == "No."
    assert of(content="Yes", reasoning="because").text == "Yes"


def test_times_belong_to_streams_alone() -> None:
    reply, _ = replied(CHAT, BODIES[CHAT] | {"stream_options": {"include_usage": True}}, is_stream=True)
    seen = observation_of(CHAT, reply, True, ttft_seconds=1.0, duration_seconds=4.0)
    assert (seen.ttft_seconds, seen.duration_seconds, seen.completion_tokens) == (1.0, 4.0, 16)  # of the fake engine
    assert seen.itl_seconds == pytest.approx(3.0 / 15)
    whole, _ = replied(CHAT, BODIES[CHAT], is_stream=False)
    seen = observation_of(CHAT, whole, False, ttft_seconds=1.0, duration_seconds=4.0)
    assert (seen.ttft_seconds, seen.itl_seconds, seen.duration_seconds) == (None, None, 4.0)
    assert observation_of(CHAT, reply, True, ttft_seconds=2.0, duration_seconds=1.0).itl_seconds is None


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_error_of_the_engine_is_told_by_its_name(endpoint: str) -> None:
    error = replies.error(500, "Something broke")
    assert reason_of(endpoint, error) == "engine_error"
    reply, _ = replied(endpoint, BODIES[endpoint], is_stream=True)
    cut = reply[: reply.index(b"\n\n") + 2]
    assert reason_of(endpoint, cut + b"data: " + error + b"\n\ndata: [DONE]\n\n", is_stream=True) == "engine_error"
    named = b'event: error\ndata: {"type": "error", "error": {"type": "internal_error", "message": "x"}}\n\n'
    assert reason_of(endpoint, cut + named, is_stream=True) == "engine_error"


def test_a_response_that_failed_or_still_runs_is_no_answer() -> None:
    assert reason_of(RESPONSES, encoded(status="failed", output=[])) == "engine_error"
    assert reason_of(RESPONSES, encoded(status="cancelled", output=[])) == "engine_error"
    assert reason_of(RESPONSES, encoded(status="queued", output=[])) == "unfinished"
    failed = sse({"type": "response.failed", "response": {"status": "failed", "output": []}})
    assert reason_of(RESPONSES, failed, is_stream=True) == "engine_error"


def test_a_response_tells_why_it_is_incomplete() -> None:
    def finish(**reply: Any) -> str | None:
        return observation_of(RESPONSES, encoded(output=[], **reply), False).finish_reason

    assert finish(status="incomplete", incomplete_details={"reason": "max_output_tokens"}) == "length"
    assert finish(status="incomplete", incomplete_details={"reason": "content_filter"}) == "content_filter"
    assert finish(status="incomplete") == "length"
    assert finish(status="completed") == "stop"


def test_raw_messages_of_a_response_carry_token_ids() -> None:
    raw = [{"type": "raw_message_tokens", "message": "Hi", "tokens": [1, 2]}]
    body = {"status": "completed", "output": [], "input_messages": raw, "output_messages": raw}
    seen = observation_of(RESPONSES, encoded(**body), False)
    assert (seen.prompt_ids, seen.token_ids) == ((1, 2), (1, 2))
    assert (seen.prompt_tokens, seen.completion_tokens) == (2, 2)
    several = observation_of(RESPONSES, encoded(**(body | {"output_messages": raw + raw})), False)
    assert several.token_ids is None  # turns with tools between them are not one sequence


def test_what_a_response_stream_tells_in_pieces_is_put_together_where_its_end_does_not_repeat_it() -> None:
    reply = sse(
        {"type": "response.created", "response": {"status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "f"}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
    )
    expected = ("Hi", (ToolCall(name="f", arguments="{}"),))
    end = sse({"type": "response.completed", "response": {"status": "completed", "output": []}})
    seen = observation_of(RESPONSES, reply + end, True)
    assert (seen.text, seen.tool_calls) == expected
    seen = observation_of(RESPONSES, reply, True, ended=Ended.TRUNCATED)
    assert (seen.text, seen.tool_calls) == expected
    assert reason_of(RESPONSES, reply, is_stream=True) == "unfinished"


def test_a_refusal_and_a_custom_tool_in_a_response_are_read() -> None:
    items = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "refusal", "refusal": "No."}, {"type": "other", "text": "x"}]},
        {"type": "custom_tool_call", "name": "sh", "input": "ls"},
    ]
    seen = observation_of(RESPONSES, encoded(status="completed", output=items), False)
    assert (seen.text, seen.tool_calls) == ("No.", (ToolCall(name="sh", arguments="ls"),))


def test_anthropic_counts_what_came_from_a_cache_as_prompt() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 16, "output_tokens": 5}
    body = {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}], "usage": usage}
    deltas = [{"type": "content_block_delta", "delta": {"type": kind}} for kind in ("thinking_delta", "text_delta")]
    stream = sse({"type": "message_start", "message": {}}, *deltas, {"type": "message_delta", "usage": usage})
    assert observation_of(MESSAGES, stream, True, ended=Ended.TRUNCATED).prompt_tokens == 19
    assert observation_of(MESSAGES, stream, True, ended=Ended.TRUNCATED).text == ""
    seen = observation_of(MESSAGES, encoded(**body, stop_reason="stop_sequence"), False)
    assert (seen.text, seen.prompt_tokens, seen.completion_tokens, seen.finish_reason) == ("Hi", 19, 5, "stop")
    assert observation_of(MESSAGES, encoded(**body, stop_reason="new"), False).finish_reason == "new"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_stream_that_was_cut_off_by_us_is_read_as_far_as_it_goes(endpoint: str) -> None:
    reply, (said,) = replied(endpoint, BODIES[endpoint], is_stream=True)
    cut = reply[: len(reply) // 2]
    seen = observation_of(endpoint, cut, True, ended=Ended.TRUNCATED)
    assert seen.ended is Ended.TRUNCATED
    assert said.text.startswith(seen.text)
    assert 0 < len(seen.text) < len(said.text)
    assert reason_of(endpoint, cut, is_stream=True) == "unfinished"


def test_half_of_a_whole_reply_cannot_be_read() -> None:
    reply, _ = replied(CHAT, BODIES[CHAT], is_stream=False)
    assert reason_of(CHAT, reply[:99], ended=Ended.TRUNCATED) == "truncated"
    assert reason_of(CHAT, reply[:99]) == "not_json"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_reply_without_an_answer_has_no_choices(endpoint: str, is_stream: bool) -> None:
    assert reason_of(endpoint, b"{}", is_stream=is_stream) == "no_choices"
    assert reason_of(endpoint, b"", is_stream=is_stream) == ("no_choices" if is_stream else "not_json")


def test_garbage_between_events_is_no_answer() -> None:
    assert reason_of(CHAT, b'data: {"choices\n\n' + sse(choice({"content": "a"}, "stop")), is_stream=True) == "not_json"


def test_a_failed_answer_is_told_whatever_came_of_it() -> None:
    assert observation_of(CHAT, b"Bad Gateway", False, ended=Ended.FAILED) == Observation(
        ended=Ended.FAILED, error="failed"
    )
    half = observation_of(CHAT, sse(choice({"content": "Hi"})), True, ended=Ended.FAILED)
    assert (half.ended, half.text) == (Ended.FAILED, "Hi")


def test_other_endpoints_are_unknown() -> None:
    assert reason_of("/v1/embeddings", b"{}") == "unknown_endpoint"
    with pytest.raises(NotComparable, match="unknown_endpoint"):
        prompt_of("/v1/embeddings", b"{}")
    assert skip_reason("/v1/embeddings", b"{}") == "unknown_endpoint"


# Bytes of any making: random ones, random JSON, and real replies with a piece replaced.
WORDS = (
    "choices message delta content text index tool_calls function name arguments finish_reason usage error "
    "type prompt_tokens completion_tokens token_ids prompt_token_ids output input status response item "
    "output_index messages role content_block stop_reason model prompt tools response_format json_schema "
    "schema metadata expected system format structured_outputs json temperature n echo best_of prompt_embeds "
    "instructions input_messages output_messages tokens"
)
KEYS = st.sampled_from(WORDS.split()) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
BYTES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(KEYS, JSON, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.lists(st.dictionaries(KEYS, JSON, max_size=6), max_size=4).map(lambda events: sse(*events)),
)


@settings(max_examples=examples(60))
@given(
    endpoint=st.sampled_from([*ENDPOINTS, "/tokenize"]), data=BYTES, ended=st.sampled_from(Ended), stream=st.booleans()
)
def test_no_bytes_raise_anything_else(endpoint: str, data: bytes, ended: Ended, stream: bool) -> None:
    for ask in (
        lambda: prompt_of(endpoint, data),
        lambda: observation_of(endpoint, data, stream, ended=ended),
        lambda: replay_body(endpoint, data, model="m", priority=1, stream=stream, want_token_ids=True),
    ):
        assert refusal_of(ask).replace("_", "a").isalpha() or not refusal_of(ask)
    assert skip_reason(endpoint, data) is None or replay_fails(endpoint, data)


def replay_fails(endpoint: str, data: bytes) -> bool:
    with pytest.raises(NotComparable):
        replay_body(endpoint, data, model="m", priority=None, stream=False, want_token_ids=False)
    return True


@given(endpoint=st.sampled_from(ENDPOINTS), stream=st.booleans(), at=st.integers(0, 2000), piece=st.binary(max_size=4))
def test_no_damage_to_a_real_reply_raises_anything_else(endpoint: str, stream: bool, at: int, piece: bytes) -> None:
    reply, _ = replied(endpoint, BODIES[endpoint], is_stream=stream)
    at %= len(reply)
    damaged = reply[:at] + piece + reply[at + 2 :]
    reasons = ("", "not_json", "no_choices", "unfinished", "engine_error")
    assert refusal_of(lambda: observation_of(endpoint, damaged, stream)) in reasons


@pytest.mark.parametrize("depth", [400, 900, 100_000])
def test_no_depth_of_nesting_raises_anything_else(depth: int) -> None:
    inner = '{"type":"tool_result","content":[' * depth + "]}" * depth
    body = f'{{"messages":[{{"role":"user","content":[{inner}]}}]}}'.encode()
    reply = f'{{"choices":[{{"message":{{"function_call":{{"name":"f","arguments":{inner}}}}}}}]}}'.encode()
    assert refusal_of(lambda: prompt_of(MESSAGES, body)) in ("", "not_json")
    assert refusal_of(lambda: observation_of(CHAT, reply, False)) in ("", "not_json")


def test_a_conversation_is_read_with_what_is_no_text_marked() -> None:
    asked = prompt_of(
        CHAT,
        encoded(
            messages=[
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": "http://x"}},
                        "really",
                        {},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "look", "arguments": '{"at": 1}'}}],
                },
                {"role": "tool", "content": "a cat"},
                "not a message",
            ],
            temperature=0.7,
            tools=[TOOLS[CHAT], {"type": "function"}],
        ),
    )
    assert asked.messages == (
        ("system", "Be kind."),
        ("user", "What is this?\n[image_url]\nreally"),
        ("assistant", '[calls look({"at": 1})]'),
        ("tool", "a cat"),
    )
    assert (asked.endpoint, asked.temperature, asked.tools, asked.text) == (CHAT, 0.7, ("weather",), None)


def test_a_request_for_a_response_is_read() -> None:
    assert prompt_of(RESPONSES, encoded(input="Hi", instructions="Be kind.")).messages == (
        ("system", "Be kind."),
        ("user", "Hi"),
    )
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "content": []},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "name": "sh", "input": "ls"},
        {"type": "function_call_output", "output": "done"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    assert prompt_of(RESPONSES, encoded(input=items)).messages == (
        ("user", "Hi"),
        ("assistant", "[calls f({})]"),
        ("assistant", "[calls sh(ls)]"),
        ("tool", "done"),
        ("assistant", "No."),
    )


def test_a_request_for_a_message_is_read() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "tool_use", "name": "f", "input": {"x": 1}},
        {"type": "tool_result", "content": [{"type": "text", "text": "done"}]},
        {"type": "tool_use", "name": "g"},
    ]
    asked = prompt_of(
        MESSAGES,
        encoded(
            system=[{"type": "text", "text": "Be kind."}],
            messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}],
            tools=[TOOLS[MESSAGES]],
        ),
    )
    assert asked.messages == (
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", '[calls f({"x": 1})]\ndone\n[calls g()]'),
    )
    assert asked.tools == ("weather",)


@pytest.mark.parametrize(
    ("prompt", "text"), [("Hi", "Hi"), (["Hi"], "Hi"), ([1, 2], None), ([[1, 2]], None), (None, None), ([], None)]
)
def test_a_completion_has_one_prompt(prompt: Any, text: str | None) -> None:
    asked = prompt_of(COMPLETIONS, encoded(prompt=prompt))
    assert (asked.text, asked.messages) == (text, ())
    assert skip_reason(COMPLETIONS, encoded(prompt=prompt)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"prompt_embeds": ["x", "y"]},
        {"prompt": "a", "prompt_embeds": "x"},
    ],
)
def test_a_completion_of_several_prompts_is_not_compared(fields: dict[str, Any]) -> None:
    with pytest.raises(NotComparable, match="several_prompts"):
        prompt_of(COMPLETIONS, encoded(**fields))
    assert skip_reason(COMPLETIONS, encoded(**fields)) == "several_prompts"


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "schema", "wants_json"),
    [
        ({}, None, False),
        ({"response_format": {"type": "text"}}, None, False),
        ({"response_format": {"type": "json_object"}}, None, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, SCHEMA, True),
        ({"response_format": {"type": "json_schema"}}, None, True),
        ({"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, SCHEMA, True),
        ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, SCHEMA, True),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA, True),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, SCHEMA, True),
        ({"structured_outputs": {"json": "no schema"}}, None, True),
        ({"structured_outputs": {"json_object": True}}, None, True),
        ({"structured_outputs": {"regex": "a+"}}, None, False),
        ({"guided_json": SCHEMA}, SCHEMA, True),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"json": SCHEMA}}, None, True),
    ],
)
def test_the_form_that_is_asked_for_is_known(fields: dict[str, Any], schema: Any, wants_json: bool) -> None:
    asked = prompt_of(CHAT, encoded(**fields))
    assert (asked.schema, asked.wants_json) == (schema, wants_json)


@pytest.mark.parametrize(
    ("told", "expected"),
    [("Paris", "Paris"), (" ", None), (4, "4"), (0.5, "0.5"), (True, None), (["a"], None), (None, None)],
)
def test_what_the_caller_expects_is_known(told: Any, expected: str | None) -> None:
    assert prompt_of(CHAT, encoded(metadata={"expected": told})).expected == expected


def test_half_an_emoji_can_be_stored() -> None:
    asked = prompt_of(COMPLETIONS, rb'{"prompt": "a\ud83d b\\ud83d \ud83d\ude00"}')
    assert asked.text == "a\ufffd b\\ud83d 😀"
    assert asked.text.encode()


@pytest.mark.parametrize(
    ("endpoint", "fields", "reason"),
    [
        (CHAT, {}, None),
        (CHAT, {"n": 4, "tools": [TOOLS[CHAT]], "max_completion_tokens": None, "max_tokens": 5}, None),
        (CHAT, {"echo": True}, "echo"),
        (COMPLETIONS, {"echo": True}, "echo"),
        (COMPLETIONS, {"best_of": 2}, "best_of"),
        (COMPLETIONS, {"best_of": 1}, None),
        (CHAT, {"use_beam_search": True, "n": 2}, "beam_search"),
        (COMPLETIONS, {"max_tokens": 0}, "nothing_generated"),
        (COMPLETIONS, {"kv_transfer_params": {"do_remote_decode": True}}, "disaggregated"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "stored_state"),
        (RESPONSES, {"background": True}, "stored_state"),
        (RESPONSES, {"background": False, "previous_response_id": None}, None),
        (RESPONSES, {"tools": [TOOLS[RESPONSES], {"type": "custom", "name": "sh"}]}, None),
        (RESPONSES, {"tools": [{"type": "mcp", "server_url": "http://x"}]}, "server_tools"),
        (RESPONSES, {"tools": [{"type": ["odd"]}]}, "server_tools"),
        (MESSAGES, {}, None),
    ],
)
def test_what_cannot_be_asked_again_is_known_from_the_body(endpoint: str, fields: Any, reason: str | None) -> None:
    assert skip_reason(endpoint, encoded(**(BODIES[endpoint] | fields))) == reason


def test_what_is_no_json_object_cannot_be_asked_again() -> None:
    assert [skip_reason(CHAT, body) for body in (b"", b"[]", b"{", b'{"a": "\xff"}')] == ["not_json"] * 4


def asked_again(endpoint: str, body: bytes, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": "support@2", "priority": None, "stream": False, "want_token_ids": False} | more
    found: dict[str, Any] = json.loads(replay_body(endpoint, body, **asked))
    return found


def test_the_same_is_asked_of_another_version() -> None:
    kept = BODIES[CHAT] | {"seed": 7, "temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "stop": ["\n"]}
    kept |= {"tools": [TOOLS[CHAT]], "cache_salt": "s", "logit_bias": {"1": 2}, "unknown": [1]}
    dropped = {"user": "u", "metadata": {"expected": "x"}, "store": True, "safety_identifier": "s", "request_id": "r"}
    dropped |= {"n": 3, "logprobs": True, "top_logprobs": 5, "prompt_logprobs": 1, "priority": -100}
    dropped |= {"stream_options": {"include_usage": False}, "return_token_ids": True}
    body = encoded(model="support", stream=True, **kept, **dropped)
    assert asked_again(CHAT, body) == kept | {"model": "support@2", "stream": False}


def test_what_is_kept_is_kept_to_the_byte() -> None:
    body = rb'{"model":"a","seed":12345678901234567890123,"temperature":1e0,"prompt":"\u00e9","top_p":0.10}'
    again = replay_body(COMPLETIONS, body, model="b", priority=None, stream=False, want_token_ids=False)
    for piece in (rb'"seed":12345678901234567890123', rb'"temperature":1e0', rb'"\u00e9"', rb'"top_p":0.10'):
        assert piece in again


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_an_endpoint_does_not_take_is_not_sent(endpoint: str) -> None:
    body = encoded(model="support", **BODIES[endpoint])
    again = asked_again(endpoint, body, priority=100, stream=True, want_token_ids=True)
    is_completion = endpoint in (CHAT, COMPLETIONS)
    assert again["stream"] is True
    assert again.get("stream_options") == ({"include_usage": True} if is_completion else None)
    assert again.get("priority") == (None if endpoint == MESSAGES else 100)
    assert again.get("return_token_ids") == (True if is_completion else None)
    assert again.get("enable_response_messages") == (True if endpoint == RESPONSES else None)
    assert again.get("store") == (False if endpoint == RESPONSES else None)


@pytest.mark.parametrize("figure", [-1, 2**31 + 1, 2**64, 1.5, True, "7", None, [1], {"a": 1}])
def test_a_figure_of_an_engine_that_is_no_count_is_none(figure: Any) -> None:
    usage = {"prompt_tokens": figure, "completion_tokens": figure, "input_tokens": figure, "output_tokens": figure}
    for endpoint in ENDPOINTS:
        whole, _ = replied(endpoint, BODIES[endpoint], is_stream=False)
        reply = {**json.loads(whole), "usage": usage}
        seen = observation_of(endpoint, json.dumps(reply).encode(), False)
        assert not seen.prompt_tokens
        assert not seen.completion_tokens
