"""What identifies people is taken out of copies before anything is stored, and nothing else is changed."""
# ruff: noqa: E501 (texts are easier to compare on one line)

import base64
import json
from typing import Any

import pytest
from msgspec import structs

from gateway.mirror import redactors as module
from gateway.mirror.redact import redact
from gateway.mirror.redactors import BUILTIN, InvalidRedactor, NotRedacted, check_name, redact_text
from gateway.mirror.reply_texts import texts_of
from gateway.records.sample import Sample

ALL = tuple(BUILTIN)


@pytest.mark.parametrize(
    ("name", "text", "clean"),
    [
        ("email", "to ann.b+c@mail.example.org, please", "to [email], please"),
        ("email", "at @home or a@b", "at @home or a@b"),
        ("phone", "call +49 (30) 1234-5678 now", "call [phone] now"),
        ("phone", "call 030 123 456 789 now", "call [phone] now"),
        ("phone", "call 0151/12345678 on 01/31/2024 12:00", "call [phone] on 01/31/2024 12:00"),
        ("phone", "on 2024-01-31 12:00, 12345 times, v1.2.3", "on 2024-01-31 12:00, 12345 times, v1.2.3"),
        ("card", "4111 1111 1111 1111 and 4111-1111-1111-1112", "[card] and 4111-1111-1111-1112"),
        ("card", "378282246310005", "[card]"),
        (
            "card",
            "4111.1111.1111.1111, 4111_1111_1111_1111, 4111  1111  1111  1111 and 4111\t1111\n1111\t1111",
            "[card], [card], [card] and [card]",
        ),
        ("card", "4111.1111.1111.1112 and 3.14159265358979", "4111.1111.1111.1112 and 3.14159265358979"),
        ("url_credentials", f"https://ann:{'t' * 2000}@host/x", "https://[credentials]@host/x"),
        (
            "ipv4",
            "from 192.168.0.1:80, not 1.2.3 nor 999.1.1.1 nor 1.2.3.4.5",
            "from [ip]:80, not 1.2.3 nor 999.1.1.1 nor 1.2.3.4.5",
        ),
        (
            "ipv6",
            "2001:db8::1 at 12:30, fe80::1, a::b::c and std::vector",
            "[ip] at 12:30, [ip], a::b::c and std::vector",
        ),
        (
            "url_credentials",
            "https://ann:pw@host/x and https://host/a@b",
            "https://[credentials]@host/x and https://host/a@b",
        ),
        ("regex:CASE-[0-9]+", "see CASE-17.", "see [redacted]."),
    ],
)
def test_a_redactor_takes_out_what_it_is_named_for(name: str, text: str, clean: str) -> None:
    assert redact_text(text, [name]) == clean


@pytest.mark.parametrize("name", ["", "regex:", "regex:(", "regex:" + "x" * 1001, "Email", "a b", "regex"])
def test_a_name_that_no_redactor_can_have_is_refused_or_found_missing(name: str) -> None:
    with pytest.raises(NotRedacted) as caught:
        redact_text("x", [name])
    assert caught.value.reason == "redactor_failed"
    if name != "regex":  # could be a package's
        with pytest.raises(InvalidRedactor):
            check_name(name)


def sample(body: dict[str, Any], reply: Any = None, **fields: Any) -> Sample:
    values: dict[str, Any] = {
        "id": "0" * 32,
        "request_id": "r",
        "alias": "a",
        "kind": "base",
        "control": "base",
        "other": "a@1",
        "served": "candidate",
        "capture": "full",
        "endpoint": "/v1/chat/completions",
        "body": json.dumps(body).encode(),
        "reply": json.dumps(reply or {}).encode(),
        **fields,
    }
    return Sample(**values)


def raw(**fields: Any) -> Sample:
    return structs.replace(sample({"prompt": "x"}), **fields)


MAIL = "ann@mail.example"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": f"I am {MAIL}"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": f"I am {MAIL}"}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": f"found {MAIL}"}]},
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "find", "arguments": json.dumps({"who": MAIL})},
                        }
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "c1", "name": "find", "input": {"id": MAIL, "data": [MAIL]}}
                    ],
                }
            ]
        },
        {"prompt": f"I am {MAIL}"},
        {"prompt": ["one", MAIL]},
        {"input": f"I am {MAIL}"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": MAIL}]}]},
        {"system": f"You serve {MAIL}"},
        {"system": [{"type": "text", "text": MAIL}]},
        {"instructions": MAIL},
        {"user": MAIL},
        {"metadata": {"expected": MAIL}},
    ],
)
def test_every_text_of_a_request_is_looked_into_and_then_its_reply_goes(fields: dict[str, Any]) -> None:
    clean = redact(sample({"model": MAIL, **fields}, {"choices": []}), ["email"])
    assert (clean.redacted, clean.reply) == (True, b"")
    body = json.loads(clean.body)
    assert body.pop("model") == MAIL
    assert MAIL not in json.dumps(body)
    assert json.dumps(fields).replace(MAIL, "[email]") == json.dumps(body)


IMAGE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_a_request_without_anything_to_be_redacted_stays_as_it_is() -> None:
    body = {
        "model": MAIL,
        "seed": 4111111111111111,
        "stop": ["END"],
        "max_tokens": 4111111111111111,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 4111111111111111}}}],
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]},
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "/+MYxAAEaAIEeUAQ", "format": "mp3"}}],
            },
            {"role": "tool", "tool_call_id": "call_550e8400-e29b-41d4-a716-446655440000", "content": "ok"},
        ],
    }
    reply = {
        "id": "chatcmpl-8f14e45fceea167a5a36dedd4bea2543",
        "created": 1732950000,
        "model": MAIL.replace("@", "-"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "no"},
                "logprobs": {"content": [{"token": "no", "logprob": -12.345678901234, "bytes": [110, 111]}]},
            }
        ],
        "usage": {"prompt_tokens": 4111111111111111},
    }
    given = sample(body, reply)
    assert redact(given, ALL) is given


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": [MAIL]},
        {"stop_sequences": [MAIL]},
        {"chat_template": MAIL},
        {"function_call": {"name": MAIL}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [MAIL]}}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {MAIL: {}}}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": MAIL}}}},
        {"text": {"format": {"type": "json_schema", "schema": {"const": MAIL}}}},
        {"messages": [{"role": MAIL, "content": "x"}]},
        {"messages": [{"role": "tool", "tool_call_id": MAIL, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "detail": MAIL}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": MAIL}]}]},
        {"messages": [{"role": "user", MAIL: "x"}]},
        {"metadata": {MAIL: "v"}},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"arguments": json.dumps({MAIL: 1})}}]}
            ]
        },
        {MAIL: 1},
        {
            "messages": [
                {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,////"}}]}
            ]
        },
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [4111111111111111]}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"default": 4111111111111111}}}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "file", "file": {"file_data": "DATA:text/plain;BASE64,////"}}]}
            ]
        },
        {"prompt": [1.0, 2.0]},
        {"prompt": ["x", [1, 2]]},
        {"input": [1, 2, 3]},
        {"prompt": {"prompt_token_ids": [1]}},
        {"messages": [], "prompt_embeds": "AAAA"},
    ],
)
def test_what_cannot_be_replaced_or_looked_into_costs_the_copy(fields: dict[str, Any]) -> None:
    with pytest.raises(NotRedacted) as caught:
        redact(sample({"model": "a", **fields}), ALL)
    assert caught.value.reason == "not_redactable"
    assert MAIL not in str(caught.value)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


DOCUMENT = {"type": "text", "media_type": "text/plain", "data": f"I am {MAIL}"}


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": [{"id": MAIL, "data": MAIL, "title": MAIL}]},
        {"chat_template_kwargs": {"id": MAIL}},
        {"vllm_xargs": {"a": MAIL}},
        {"text": MAIL},
        {"metadata": {"id": MAIL, "type": MAIL}},
        {"user": 4111111111111111},
        {"messages": [{"role": "user", "content": 4111111111111111}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": DOCUMENT}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": b64(MAIL)}}]}
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:text/plain,{MAIL}"}}]}
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:;base64,{b64(MAIL)}"}}]}
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x/?u=ann%40mail.example"}}],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {"filename": f"{MAIL}.pdf", "file_data": f"data:text/plain;base64,{b64(MAIL)}"},
                        }
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": "ann\uff20mail.example, ann@\u200bmail.example, ann&#64;mail.example, ann\\u0040mail.example",
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": '\u0430\u043d\u043d\u0430@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444 "ann x"@mail.example',
                }
            ]
        },
        {"tools": [{"type": "function", "function": {"name": "f", "description": f"as {MAIL} asks"}}]},
        *(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
            for url in (
                f"DATA:text/plain;base64,{b64(MAIL)}",
                f"data:text/plain;BASE64,{b64(MAIL)}",
                f" data:;base64,{b64(MAIL)}",
                f"data:text/plain;x={'a' * 300};base64,{b64(MAIL)}",
                f"data:text/plain;by={MAIL};base64,{b64('x')}",
            )
        ),
        {"messages": [{"role": "user", "content": [{"type": "image", "b64_json": b64(f"from {MAIL}")}]}]},
        {"customer": 4111111111111111},
        {"customer": 4111111111111111.0},
        {"messages": [{"role": "user", "content": 4111111111111111.0}]},
        {
            "messages": [
                {"role": "user", "content": "see http://x/?u=ann%2540mail.example or ann&amp;commat;mail.example"}
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": "ann\\\\u0040mail.example, ann\\x40mail.example, ann\\u{40}mail.example, ann&#x0000040;mail.example",
                }
            ]
        },
        {"messages": [{"role": "user", "content": "4111\u20131111\u20131111\u20131111"}]},
    ],
)
def test_words_are_replaced_whatever_their_field_is_called_and_however_they_are_spelled(fields: dict[str, Any]) -> None:
    clean = redact(sample({"model": "a", **fields}), ALL)
    assert (clean.redacted, clean.reply) == (True, b"")
    said = json.dumps(json.loads(clean.body), ensure_ascii=False)
    for left in (MAIL, "ann", b64(MAIL), "4111", "\u0430\u043d"):
        assert left not in said, said


def test_what_people_write_after_a_word_like_data_is_looked_into() -> None:
    clean = redact(sample({"messages": [{"role": "user", "content": f"data: {MAIL}"}]}), ALL)
    assert MAIL.encode() not in clean.body


def test_a_number_in_a_tools_arguments_is_a_text_like_any_other() -> None:
    arguments = json.dumps({"card": 4111111111111111, "n": 2, "yes": True})
    call = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": arguments}}
    clean = redact(sample({"messages": [{"role": "assistant", "tool_calls": [call]}]}), ["card"])
    changed = json.loads(clean.body)["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(changed) == {"card": "[card]", "n": 2, "yes": True}


def test_arguments_that_are_no_json_are_looked_into_as_text() -> None:
    call = {"function": {"name": "find", "arguments": '{"who": "' + MAIL}}
    clean = redact(sample({"messages": [{"role": "assistant", "tool_calls": [call]}]}), ["email"])
    assert MAIL.encode() not in clean.body


def stream(*deltas: str) -> bytes:
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"content": each}}]} for each in deltas]
    return b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks) + b"data: [DONE]\n\n"


def events(*each: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in each)


PARTIAL_ARGUMENTS = events(
    *(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}}]}
        for part in ('{"to":"an', "n\\u00", "40mail.ex", 'ample"}')
    )
)
PARTIAL_JSON = events(
    *(
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": part}}
        for part in ('{"to":"an', "n@mail.ex", 'ample"}')
    )
)
OTHER_PLACE = events(
    {"choices": [{"index": 0, "delta": {"content": "ann@mail.ex"}}]},
    {"choices": [{"index": 1, "delta": {"content": "z"}}, {"index": 0, "delta": {"content": "ample"}}]},
)
MESSAGES_STREAM = b"".join(
    b'event: x\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"%b"}}\n\n' % part
    for part in (b"ann@mail", b".example")
)


@pytest.mark.parametrize(
    ("reply", "is_stream"),
    [
        (json.dumps({"choices": [{"message": {"content": f"write to {MAIL}"}}]}).encode(), False),
        (stream("write to an", "n@mail", ".exam", "ple"), True),
        (MESSAGES_STREAM, True),
        (
            b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{\\"to\\":\\"ann\\\\u0040mail.example\\"}"}}]}}]}',
            False,
        ),
        (b'{"choices":[{"message":{"reasoning_content":"ann@mail.example"}}]}', False),
        (b'{"choices":[{"message":{"refusal":"ann@mail.example"}}]}', False),
        (b'{"choices":[{"message":{"content":4111111111111111}}]}', False),
        (b'{"choices":[{"message":{"content":4111111111111111.0}}]}', False),
        (b'{"choices":[{"message":{"ann@mail.example":1}}]}', False),
        (b'{"id":"ann@mail.example"}', False),
        (b'{"output":[{"type":"message","content":[{"type":"output_text","text":"ann@mail.example"}]}]}', False),
        (b'{"content":[{"type":"thinking","thinking":"ann@mail.example"}]}', False),
        (b'{"choices":[{"logprobs":{"content":[{"token":"ann","bytes":[97]},{"token":"@mail.example"}]}}]}', False),
        (b'{"choices":[{"logprobs":{"tokens":["ann","@mail",".example"]}}]}', False),
        (b'{"prompt_logprobs":[{"7":{"decoded_token":"ann@"}},{"8":{"decoded_token":"mail.example"}}]}', False),
        (b": ann@mail.example\n\ndata: {}\n\n", True),
        (b"event: ann@mail.example\ndata: {}\n\n", True),
        (b"id: ann@mail.example\ndata: {}\n\n", True),
        (b'data: {"x":\ndata: "ann@mail.example"}\n\n', True),
        (b'data: {"delta":"ann@mail"}\r\rdata: {"delta":".example"}\r\r', True),
        (PARTIAL_ARGUMENTS, True),
        (PARTIAL_JSON, True),
        (OTHER_PLACE, True),
    ],
)
def test_a_reply_with_something_to_be_redacted_goes_and_the_request_stays(reply: bytes, is_stream: bool) -> None:
    given = raw(body=b'{"messages": [{"role": "user", "content": "whom?"}]}', reply=reply, is_stream=is_stream)
    clean = redact(given, ["email", "card"])
    assert (clean.redacted, clean.reply, clean.body) == (True, b"", given.body)


def test_a_stream_of_two_choices_is_put_together_by_choice() -> None:
    events = [
        {"choices": [{"index": index, "delta": {"content": text}}]}
        for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y"))
    ]
    data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)
    assert {"ab", "xy"} <= set(texts_of(data, is_stream=True))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (sample({"prompt": [1, 2, 3]}), "not_redactable"),
        (sample({"prompt": "x"}, {"choices": [{"token_ids": [1, 2]}]}), "not_redactable"),
        (sample({"prompt": [[1, 2], [3]]}), "not_redactable"),
        (raw(body=b'{"n":' + b"1" * 5000 + b"}"), "not_redactable"),
        (raw(reply=b"broken"), "not_redactable"),
        (raw(reply=b'{"content":"%b","content":"x"}' % MAIL.encode()), "not_redactable"),
        (raw(body=b'{"prompt":"%b","prompt":"x"}' % MAIL.encode()), "not_redactable"),
    ],
)
def test_what_cannot_be_looked_into_is_not_kept(given: Sample, reason: str) -> None:
    with pytest.raises(NotRedacted) as caught:
        redact(given, ["email"])
    assert caught.value.reason == reason


class Point:
    """An installed package's entry point."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def load(self) -> Any:
        if self._function is None:
            raise ImportError("words of somebody")
        return self._function


def fails(_text: str) -> str:
    raise ValueError("words of somebody")


@pytest.mark.parametrize("function", [None, fails, lambda _: None], ids=["not loaded", "raises", "no text"])
def test_a_packages_redactor_that_fails_keeps_nothing_and_quotes_nothing(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_entry_points", lambda: {"broken": Point(function)})
    module.redactor_of.cache_clear()
    with pytest.raises(NotRedacted) as caught:
        redact(sample({"prompt": "x"}), ["broken"])
    assert caught.value.reason == "redactor_failed"
    assert "words" not in str(caught.value)
    module.redactor_of.cache_clear()


def test_a_packages_redactor_is_used_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_entry_points", lambda: {"shout": Point(str.upper)})
    module.redactor_of.cache_clear()
    assert json.loads(redact(sample({"prompt": "quiet"}), ["shout"]).body) == {"prompt": "QUIET"}
    assert "shout" in module.redactor_names()
    module.redactor_of.cache_clear()


def test_without_redactors_a_sample_stays_as_it_is_whatever_it_holds() -> None:
    given = sample({"prompt": [1, 2, 3]})
    assert redact(given, []) is given


def test_a_task_or_a_request_id_that_names_somebody_is_left_out() -> None:
    clean = redact(sample({"prompt": "x"}, task="4111111111111111", request_id=MAIL), ALL)
    assert (clean.task, clean.request_id) == ("", "")


def test_a_card_is_found_whole_though_its_first_digits_look_like_a_telephone() -> None:
    assert redact_text("4111 1111 1111 1111", ["phone", "card"]) == "[card]"
