"""Paths, bodies, errors and ids: the pure parts of the app port."""

import json
import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from pydantic import TypeAdapter, ValidationError

from gateway import errors
from gateway.errors import BadRequest, LoragateError, MethodNotAllowed, PathNotFound
from gateway.openai import endpoints
from gateway.openai.body import Fields, read, rewrite_model
from gateway.openai.endpoints import ENDPOINTS, Dialect, EndpointKind, find_endpoint
from gateway.openai.lax import is_refused, is_true, number_of
from gateway.receive.deps import RequestIds
from gateway.receive.engine_request import asks_for_usage
from gateway.receive.failures import body_of, connection_header, event_of, reply_of, status_line
from gateway.receive.request import Request
from gateway.serve import sse
from gateway.serve.sse import EventStream, usage_of


def every_error() -> list[type[LoragateError]]:
    """Every error class, the families included."""
    found, queue = [], [LoragateError]
    while queue:
        one = queue.pop()
        found.append(one)
        queue += one.__subclasses__()
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_knows_its_own_answer(kind: type[LoragateError]) -> None:
    error = kind("What happened.", param="field", code="special")
    assert 400 <= error.status < 600
    assert (error.param, error.code) == ("field", "special")
    plain = kind("What happened.")
    body = json.loads(body_of(plain))
    assert body == {
        "error": {"message": "What happened.", "type": plain.type, "param": plain.param, "code": plain.code}
    }
    types = {"invalid_request_error", "permission_error", "timeout_error", "server_error"}
    assert plain.type in types | {"requests", "tokens"}  # the last two are what OpenAI says of rate limits
    assert plain.code == plain.code.lower()
    head, _, sent = reply_of(plain, b"id", keep_alive=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % plain.status)
    assert b"content-length: %d" % len(sent) in head
    assert (b"retry-after" in head) is (plain.retry_after_seconds is not None)
    assert (b"www-authenticate: Bearer" in head) is (plain.status == 401)
    assert b"connection" not in head
    assert reply_of(plain, b"", keep_alive=False, with_body=False).endswith(b"connection: close\r\n\r\n")


def test_the_list_of_errors_is_complete() -> None:
    assert errors.__doc__ is not None
    for kind in every_error():
        assert kind.__name__ in errors.__doc__
        leaf = not kind.__subclasses__()
        if leaf:
            (line,) = [line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in line + " "]
            assert str(kind.status) in line
            assert kind.code in line


@pytest.mark.parametrize("dialect", list(Dialect))
def test_an_error_event_is_one_that_its_clients_understand(dialect: Dialect) -> None:
    event = event_of(errors.EngineFailed("It broke."), dialect)
    assert event.endswith(b"\n\n")
    data = json.loads(event.split(b"data: ")[1].split(b"\n")[0])
    if dialect is Dialect.MESSAGES:
        assert data == {"type": "error", "error": {"type": "api_error", "message": "It broke."}}
    elif dialect is Dialect.RESPONSES:
        assert data == {"type": "error", "code": "engine_failed", "message": "It broke.", "param": None}
    else:
        assert data["error"]["code"] == "engine_failed"
        assert event.endswith(b"data: [DONE]\n\n")
    assert event.startswith(b"event: error\n") is (dialect in (Dialect.MESSAGES, Dialect.RESPONSES))


def test_status_lines_and_connection_headers() -> None:
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    assert status_line(799) == b"HTTP/1.1 799 Unknown\r\n"
    said = {
        (keep, old): connection_header(keep_alive=keep, is_http10=old)
        for keep in (True, False)
        for old in (True, False)
    }
    assert said[True, False] == b""
    assert said[True, True] == b"connection: keep-alive\r\n"
    assert said[False, True] == said[False, False] == b"connection: close\r\n"


# Paths


def test_every_endpoint_is_found_below_its_model_too() -> None:
    for endpoint in ENDPOINTS.values():
        assert find_endpoint(endpoint.method, endpoint.path + b"?x=1").endpoint is endpoint
        if endpoint.kind is not EndpointKind.HEALTH:
            address = find_endpoint(endpoint.method, b"/m/a%40b%20c" + endpoint.path)
            assert (address.endpoint, address.model) == (endpoint, "a@b c")


def test_one_model_is_named_by_its_path() -> None:
    assert find_endpoint(b"GET", b"/v1/models/org/name").model == "org/name"


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/m/", b"/m/x", b"/m/x/", b"/m//v1/models", b"/m/x/healthz", b"/invocations", b"/v1/chat"]
)
def test_what_is_not_listed_is_not_served(path: bytes) -> None:
    with pytest.raises(PathNotFound):
        find_endpoint(b"POST", path)


def test_long_paths_are_shortened_in_messages() -> None:
    with pytest.raises(PathNotFound) as caught:
        find_endpoint(b"GET", b"/" + b"\xff" * 10_000)
    assert len(caught.value.message) < 300


def test_the_method_and_the_encoding_of_a_path_are_checked() -> None:
    with pytest.raises(MethodNotAllowed, match="use POST"):
        find_endpoint(b"GET", b"/v1/completions")
    with pytest.raises(BadRequest, match="UTF-8"):
        find_endpoint(b"GET", b"/v1/models/%ff")


def test_no_path_of_an_engine_slips_through_the_list() -> None:
    proxied = {endpoint.path for endpoint in ENDPOINTS.values() if endpoint.kind is EndpointKind.PROXIED}
    assert proxied == {
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/responses",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
        b"/v1/embeddings",
        b"/tokenize",
        b"/detokenize",
        b"/tokenizer_info",
    }
    assert endpoints.ONE_MODEL.kind is EndpointKind.MODEL


# Request ids


def test_a_harmless_id_is_kept_and_any_other_replaced() -> None:
    ids = RequestIds()
    assert ids.of(b"mine-1.2:3_x") == b"mine-1.2:3_x"
    made = [ids.of(given) for given in (None, b"", b"a b", b"\xff", b"x" * 129)]
    assert all(re.fullmatch(rb"req-[0-9a-f]{32}", each) for each in made)
    assert len(set(made)) == 5


@pytest.mark.parametrize("given", [b"req-1", b"REQ-1", b"req-", b"req-" + b"0" * 32])
def test_a_clients_id_that_looks_like_one_of_ours_is_replaced(given: bytes) -> None:
    assert re.fullmatch(rb"req-[0-9a-f]{32}", made := RequestIds().of(given))
    assert made != given


def test_no_request_id_can_be_told_from_those_before_it() -> None:
    """Ids share no part that stands still or counts: of all positions each hex digit is seen, in every worker's ids."""
    ids = RequestIds()
    made = [ids.of(None) for _ in range(2_000)]
    other = RequestIds()
    assert len(set(made) | {other.of(None) for _ in range(2_000)}) == 4_000
    for at in range(4, 36):
        assert {each[at] for each in made} == set(b"0123456789abcdef")
    numbers = [int(each[4:], 16) for each in made]
    assert len({later - earlier for earlier, later in pairwise(numbers)}) == len(numbers) - 1  # no step comes twice


# Bodies


def asks(endpoint: bytes = b"/v1/chat/completions", **fields: Any) -> bool:
    request = SimpleNamespace(endpoint=ENDPOINTS[endpoint], fields=Fields(**fields))
    return asks_for_usage(cast(Request, request))


TRUE: tuple[object, ...] = (True, 1, 1.0, "1", "true", "TRUE", "t", "T", "yes", "y", "on", "On")
FALSE: tuple[object, ...] = (None, False, 0, 0.0, "0", "false", "f", "no", "N", "off")


def test_a_stream_is_what_an_engine_takes_for_one() -> None:
    for value in TRUE:
        assert asks(stream=value), value
        assert asks(stream=value, stream_options={"include_usage": False, "continuous_usage_stats": True})
    for value in FALSE:
        assert not asks(stream=value), value
    assert not asks(b"/v1/responses", stream=True)  # which tells its usage by itself


def test_usage_is_asked_for_unless_its_sender_will_see_it() -> None:
    for value in TRUE:
        assert not asks(stream=True, stream_options={"include_usage": value})
    for value in FALSE:
        assert asks(stream=True, stream_options={"include_usage": value})
    settings: tuple[object, ...] = ({}, None, [], {"continuous_usage_stats": "no"}, {"continuous_usage_stats": True})
    for value in settings:
        assert asks(stream=True, stream_options=value)
    assert not asks(stream=True, stream_options={"include_usage": "perhaps"})  # the engine's error says so


def test_what_an_engine_reads_as_true_or_as_a_number_is_what_pydantic_reads() -> None:
    odd: tuple[object, ...] = ("", " on", "on ", "1.0", "2", "é", "enable", 2, -1, 0.5, [], {}, [1])
    for value in (*TRUE, *FALSE, *odd):
        try:
            wanted = TypeAdapter(bool | None).validate_python(value)
        except ValidationError:
            assert is_refused(value), value
        else:
            assert not is_refused(value)
            assert is_true(value) is (wanted is True)
    for value in (
        "128",
        "1_000",
        " 12 ",
        "+5",
        "12.0",
        "1e3",
        "0x10",
        "x",
        "9.00",
        "+17.000",
        "1__0",
        "_1",
        "1_0.0",
        "-3",
        "\u00a017",
        "\u300017\u2003",
        "\x8517",
        "\u200b17",
        "\u0669",
        "",
        " ",
        128.0,
        1.5,
        True,
        7,
        [],
        None,
        "9" * 30,
    ):
        try:
            number = TypeAdapter(int).validate_python(value)
        except ValidationError:
            number = None
        assert number_of(value) == (None if value == "9" * 30 else number), value


@pytest.mark.parametrize(
    "body", [b"", b" ", b"[]", b"{", b'{"x":\xff}', b"{" * 300, b'{"x":' * 1000 + b"1" + b"}" * 1000]
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body)


def test_brackets_in_strings_are_no_nesting() -> None:
    assert read(b'{"model":"m","x":"' + b"[" * 1000 + b'\\"]"}').model == "m"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"M"}'),
        (b'{"model" : "a" }', b'{"model" : "M" }'),
        (b"{}", b'{"model":"M"}'),
        (b'{ "x":1}', b'{"model":"M", "x":1}'),
        (b'{"model":5,"x":1}', b'{"model":"M","x":1}'),
        (b'{"model":"a\\"","x":1}', b'{"model":"M","x":1}'),
        (b'{"x":{"model":"a"},"model":null}', b'{"x":{"model":"a"},"model":"M"}'),
        (b'{"m\\u006fdel":"a"}', b'{"m\\u006fdel":"M"}'),
        ('{"é":"ü","model":["ö"],"z":"model"}'.encode(), '{"é":"ü","model":"M","z":"model"}'.encode()),
    ],
)
def test_only_the_models_value_is_replaced(body: bytes, expected: bytes) -> None:
    assert rewrite_model(body, read(body), b'"M"') == expected


@pytest.mark.parametrize("body", [b'{"model":"a","model":"a"}', b'{"model":"a","m\\u006fdel":"b"}'])
def test_two_models_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="more than one"):
        rewrite_model(body, read(body), b'"M"')


@pytest.mark.parametrize("body", [b'{"model"', b'{"model":"a","model"', b"{", b'{"a":1,', b'{"model":1 "model":2}x'])
def test_a_body_that_was_never_read_rightly_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        rewrite_model(body, Fields(model="a"), b'"M"')


def test_a_body_nested_beyond_the_stack_is_refused() -> None:
    with pytest.raises(BadRequest, match="nested"):
        rewrite_model(b'{"x":' * 100_000, Fields(model="a"), b'"M"')


def test_a_stream_is_asked_for_its_usage() -> None:
    fields = Fields(model="a", stream=True)
    assert (
        rewrite_model(b'{"model":"a" } ', fields, b'"M"', ask_usage=True)
        == b'{"model":"M" ,"stream_options":{"include_usage":true}} '
    )
    odd = b'{"model":"a","stream_options":[]}'
    assert rewrite_model(odd, read(odd), b'"M"', ask_usage=True) == odd.replace(b'"a"', b'"M"')


@pytest.mark.parametrize(
    ("options", "asking"),
    [
        ("null", '{"include_usage":true}'),
        ("{}", '{"include_usage":true}'),
        ('{"x":1e5}', '{"include_usage":true,"x":1e5}'),
        ('{"é":{"include_usage":1},"include_usage": false }', '{"é":{"include_usage":1},"include_usage": true }'),
        (
            '{"include_usage":0, "continuous_usage_stats": "yes" }',
            '{"include_usage":true, "continuous_usage_stats": false }',
        ),
        ('{"continuous_usage_stats":0}', '{"include_usage":true,"continuous_usage_stats":0}'),
    ],
)
def test_stream_options_keep_all_but_include_usage(options: str, asking: str) -> None:
    body = f'{{"model":"a","stream_options":{options}}}'.encode()
    wanted = f'{{"model":"M","stream_options":{asking}}}'.encode()
    assert rewrite_model(body, read(body), b'"M"', ask_usage=True) == wanted


@pytest.mark.parametrize("body", [rb'{"x":"\ud800","model":"m"}', rb'{"x":"\ud83d\ude00\udc00 \\ud800","model":"m"}'])
def test_half_a_surrogate_pair_is_taken_as_it_is(body: bytes) -> None:
    fields = read(body)
    assert fields.model == "m"
    assert rewrite_model(body, fields, b'"M"') == body.replace(b'"m"', b'"M"')


# Events


def test_usage_is_read_in_both_spellings() -> None:
    assert usage_of(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}') == (1, 2)
    assert usage_of(b'{"usage":{"input_tokens":1,"output_tokens":2}}') == (1, 2)
    assert usage_of(b'{"response":{"usage":{"input_tokens":3}}}') == (3, 0)
    for nothing in (b"{}", b"[", b'{"usage":null}', b'{"usage":5}', b"\xff", b"[" * 100_000):
        assert usage_of(nothing) is None


@pytest.mark.parametrize(
    "figure",
    [
        "-1",
        "2147483649",
        "9223372036854775807",
        "18446744073709551615",
        "1e400",
        "2.5",
        "3.0",
        "true",
        '"7"',
        "[]",
        "{}",
        "null",
        "9" * 4000,
    ],
)
def test_a_figure_that_is_no_count_of_tokens_counts_as_none_and_hides_like_any_usage(figure: str) -> None:
    usage = b'"usage":{"prompt_tokens":%b,"completion_tokens":%b}' % (figure.encode(), figure.encode())
    assert usage_of(b"{%b}" % usage) is None
    assert usage_of(b'{"usage":{"prompt_tokens":%b,"completion_tokens":5}}' % figure.encode()) == (0, 5)
    assert usage_of(b'{"message":{"usage":{"input_tokens":4,"output_tokens":%b}}}' % figure.encode()) == (4, 0)
    stream = EventStream(hide_usage=True)
    assert stream.feed(b'data: {"choices":[],%b}\n\ndata: [DONE]\n\n' % usage) == b"data: [DONE]\n\n"
    assert stream.usage is None


def test_the_largest_count_of_tokens_is_two_to_the_31() -> None:
    assert usage_of(b'{"usage":{"prompt_tokens":2147483648,"completion_tokens":0}}') == (2147483648, 0)


def test_anthropic_streams_tell_the_prompt_first_and_the_reply_last() -> None:
    stream = EventStream()
    stream.feed(b'event: a\ndata: {"message":{"usage":{"input_tokens":7,"output_tokens":0}}}\n\n')
    stream.feed(b'event: b\ndata: {"usage":{"output_tokens":9}}\n\n')
    assert stream.usage == (7, 9)


def test_a_usage_event_with_choices_is_not_hidden() -> None:
    for event in (
        b'data: {"choices":[{}],"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"usage": {"x\n\n',
        b': "usage": {}\n\n',
    ):
        stream = EventStream(hide_usage=True)
        assert stream.feed(event) == event
    assert (
        EventStream(hide_usage=True).feed(b'data: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n') == b"data: [DONE]\n\n"
    )


def test_whole_events_pass_and_what_is_unfinished_waits() -> None:
    stream = EventStream()
    assert stream.feed(b"data: 1\n\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert stream.feed(b"ta: 3\n") == b""
    assert (stream.rest(), stream.rest()) == (b"data: 3\n", b"")


@pytest.mark.parametrize(
    ("event", "has_failed"),
    [
        (b'data: {"error":{"message":"x"}}\n\n', True),
        (b'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n', True),
        (b'data: {"text":"event: error\\ndata: {\\"error\\":1}"}\n\n', False),
    ],
)
def test_an_error_in_a_stream_is_seen_in_either_dialect_and_wherever_it_is_cut(event: bytes, has_failed: bool) -> None:
    assert EventStream().passes(b"%x\r\n%b\r\n" % (len(event), event)) is not has_failed
    for cut in range(len(event)):
        stream = EventStream()
        assert stream.feed(event[:cut]) + stream.feed(event[cut:]) == event
        assert stream.has_failed is has_failed, cut


def test_line_ends_may_be_mixed() -> None:
    for end in (b"\r\n\r\n", b"\n\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r", b"\r\n\r"):
        assert EventStream().feed(b"data: 1" + end + b"data") == b"data: 1" + end
    assert EventStream().feed(b"data: 1\r\ndata: 2\r\n") == b""


def is_split(stream: EventStream) -> bool:
    return stream.is_split


def test_an_event_too_long_to_hold_is_passed_on_in_parts() -> None:
    stream = EventStream()
    long = b"x" * (sse.MAX_HELD_EVENT_BYTES + 1)
    assert stream.feed(long) == long
    assert is_split(stream)
    assert stream.feed(b"more") == b"more"
    assert stream.feed(b"end\n\ndata") == b"end\n\n"
    assert not is_split(stream)
    stream.is_split = True
    stream.feed(b"\n\n")
    assert not is_split(stream)


def test_a_field_that_is_not_sent_is_unset() -> None:
    assert read(b"{}").model is msgspec.UNSET
