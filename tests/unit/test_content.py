"""What counts as a token: content, and nothing else of a stream."""

from pathlib import Path

import msgspec
import pytest

from gateway.openai.body import read
from gateway.openai.prompt_size import TOKENS_PER_MEDIUM, prompt_tokens
from gateway.serve.content import has_content, is_keep_alive
from gateway.serve.sse import CONTENT, STRUCTURE, EventStream
from gateway.serve.vllm_process import VllmCommand
from gateway.serve.whole_reply import MAX_READ_REPLY_BYTES, WholeReply
from tests.fakes import streams
from tests.fakes.generate import answer

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "n": 1}
ROLE = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'


def delta(inner: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{%b},"finish_reason":null}]}\n\n' % inner.encode()


@pytest.mark.parametrize(
    "event",
    [
        delta('"content":"a"'),
        delta('"content": " "'),
        delta('"content":"\\""'),
        delta('"reasoning_content":"hm"'),
        delta('"refusal":"no"'),
        delta('"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]'),
        delta('"function_call":{"name":"f"}'),
        delta('"content":[{"type":"text","text":"a"}]'),
        b'data: {"choices":[{"text":"a","index":0}]}\n\n',
        b'data: {"choices":[{"text":"","logprobs":{"tokens":["a"]},"index":0}]}\n\n',
        b'data: {"choices":[{"delta":{"content":""},"logprobs":{"content":[{"token":"a"}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":""},"token_ids":[5]}]}\n\n',
        b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":"a"},"type":"x"}\n\n',
        b'event: content_block_delta\r\ndata: {"delta":{"type":"thinking_delta","thinking":"a"}}\r\n\r\n',
        b'event: content_block_start\ndata: {"content_block":{"type":"tool_use","name":"f","input":{}}}\n\n',
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b'event: response.function_call_arguments.delta\ndata: {"delta":"{"}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b": keep-alive\n\n" + delta('"content":"a"'),
    ],
)
def test_what_a_model_has_made_is_content(event: bytes) -> None:
    assert has_content(event)
    assert has_content(b"%x\r\n%b\r\n" % (len(event), event))


@pytest.mark.parametrize(
    "event",
    [
        b": keep-alive\n\n",
        b':"content":"a"\n\n',
        b"data: %b\n\n" % ROLE,
        delta('"tool_calls":[]'),
        delta('"content":null'),
        b'data: {"choices":[{"delta":{},"logprobs":{"content":[]},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}],"prompt_token_ids":[1,2]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n',
        b"data: [DONE]\n\n",
        b'data: {"error":{"message":"no"}}\n\n',
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'event: message_start\ndata: {"message":{"content":[],"usage":{"input_tokens":3}}}\n\n',
        b'event: content_block_start\ndata: {"content_block":{"type":"text","text":""}}\n\n',
        b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"}}\n\n',
        b'event: response.created\ndata: {"response":{"instructions":"a","tools":[{"text":"a"}]}}\n\n',
        b'event: response.in_progress\ndata: {"response":{"content":"a"}}\n\n',
        b'data: {"type":"response.created","response":{"content":"a"}}\n\n',
        b'event: response.completed\ndata: {"response":{"text":"a"}}\n\n',
    ],
)
def test_comments_and_structure_are_no_content(event: bytes) -> None:
    assert not has_content(event)
    assert not has_content(b"%x\r\n%b\r\n" % (len(event), event))


def test_each_stream_of_the_fake_engine_has_as_many_contents_as_pieces() -> None:
    for make in (streams.chat, streams.completion, streams.responses, streams.messages):
        made = answer("m", BODY, 0, None)
        paced, tail = make("m", BODY, [made])
        assert sum(map(has_content, [*paced, *tail])) == len(made.pieces), make.__name__


def test_a_chunk_passes_as_structure_or_as_content_and_a_comment_is_read() -> None:
    stream = EventStream()
    for event, kind in ((b": wait\n\n", 0), (b"data: %b\n\n" % ROLE, STRUCTURE), (delta('"content":"a"'), CONTENT)):
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        assert stream.passes(chunk) == kind
    assert stream.passes(chunk.replace(b'"a"', b'"b"')) == CONTENT


def test_an_event_without_text_is_no_content_among_others_that_are_like_it() -> None:
    stream = EventStream()
    for text, kind in (("a", CONTENT), ("", STRUCTURE), ("b", CONTENT), ("long " * 60, CONTENT), ("", STRUCTURE)):
        event = delta(f'"content":"{text}"')
        assert stream.passes(b"%x\r\n%b\r\n" % (len(event), event)) == kind, text


@pytest.mark.parametrize(
    "sent",
    [
        b": keep-alive\n\n",
        b":\r\n\r\n",
        b": data: x\n\n",
        b": a\n\n: b\n\n",
        b"\n\n",
        b"retry: 3000\n\n",
        b"data:\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event:ping\r\ndata:{"type":"ping"}\r\n\r\n',
    ],
)
def test_comments_and_pings_only_keep_a_connection_unless_an_event_comes_with_them(sent: bytes) -> None:
    assert is_keep_alive(sent)
    for event in (b"data: {}\n\n", b"data: %b\n\n" % ROLE, b"event: response.created\ndata: {}\n\n"):
        assert not is_keep_alive(sent + event)
        assert not is_keep_alive(event + sent)
    assert EventStream().passes(b"%x\r\n%b\r\n" % (len(sent), sent)) != CONTENT


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [
        ({}, 0),
        ({"prompt": "x" * 398}, 100),
        ({"messages": [{"role": "user", "content": "x" * 4000}]}, 1008),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[11, 12], [13]]}, 3),
        ({"input": ["x" * 396]}, 100),
        ({"model": "m" * 100, "temperature": 0.7, "prompt": "x" * 398}, 100),
    ],
)
def test_a_prompt_has_a_token_for_four_bytes_or_one_for_each_id(sent: object, tokens: int) -> None:
    body = msgspec.json.encode(sent)
    assert prompt_tokens(read(body), len(body)) == tokens


@pytest.mark.parametrize("where", ["system", "instructions", "tools", "documents", "suffix", "chat_template_kwargs"])
@pytest.mark.parametrize("pad", [0, 100_000, 1_200_000])
def test_what_a_model_reads_beside_the_messages_counts_as_prompt(where: str, pad: int) -> None:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": "x" * pad}], where: "y" * 4000})
    assert 900 < prompt_tokens(read(body), len(body)) - min(pad // 4, 131_072 - 1000) <= 1024


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": "A" * 1_000_000}},
    ],
)
def test_a_picture_counts_as_a_picture_and_not_by_its_bytes(part: object) -> None:
    sent = msgspec.json.encode({"messages": [{"role": "user", "content": [part]}]})
    assert TOKENS_PER_MEDIUM < prompt_tokens(read(sent), len(sent)) < TOKENS_PER_MEDIUM + 50


USAGE = {"prompt_tokens": 7, "total_tokens": 16, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}


@pytest.mark.parametrize("cut", [1, 1000, 65_536])
@pytest.mark.parametrize("behind", [0, 100_000])
def test_the_usage_of_a_reply_too_large_to_be_kept_is_found(cut: int, behind: int) -> None:
    data = [{"embedding": "x" * 1000}] * (MAX_READ_REPLY_BYTES // 1000 + 1)
    body = msgspec.json.encode({"data": data, "usage": USAGE, "prompt_logprobs": ["y" * behind]})
    reply = WholeReply()
    reply.take(body[:-200_000])
    for at in range(len(body) - 200_000, len(body), cut):
        reply.take(body[at : at + cut])
    assert reply.usage() == (7, 9)
    assert reply.size == len(body)


def test_a_large_reply_without_usage_has_none() -> None:
    reply = WholeReply()
    for _ in range(80):
        reply.take(b"x" * 65_536)
    reply.take(b'"usage":null')
    assert reply.usage() is None
    assert WholeReply().usage() is None


def test_up_has_vllm_send_comments_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = VllmCommand(base=tmp_path, served_name="b", socket=tmp_path / "s", log_file=tmp_path / "l")
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "--sse-keep-alive-interval" not in command.arguments()
    module = package / "entrypoints" / "serve" / "utils" / "sse_keep_alive.py"
    module.parent.mkdir(parents=True)
    module.touch()
    at = command.arguments().index("--sse-keep-alive-interval")
    assert command.arguments()[at + 1] == "15"
