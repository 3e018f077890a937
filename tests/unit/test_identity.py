"""Whom a request is of: by header, field, metadata or how its conversation begins, in small and in large bodies."""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gateway.decide.assign import CONVERSATION, DEFAULT_SOURCES
from gateway.decide.authenticate import Principal, Role
from gateway.openai.body import AT_ONCE_BYTES, Fields, LargeFields, read, read_in_steps
from gateway.openai.body_values import text_at, text_in_large
from gateway.openai.conversation import MAX_BEGINNING_BYTES, conversation_hash
from gateway.openai.endpoints import ENDPOINTS, Dialect, Endpoint
from gateway.openai.identity import affinity_of, client_identity, unit_of
from gateway.openai.json_outline import run_to_end
from gateway.openai.pieces import Pieces

CHAT, MESSAGES, RESPONSES, COMPLETIONS = (
    ENDPOINTS[path] for path in (b"/v1/chat/completions", b"/v1/messages", b"/v1/responses", b"/v1/completions")
)
APP = Principal(id="app", role=Role.APP)
HI: dict[str, Any] = {"role": "user", "content": "hi"}
HALF = rb"\ud83d"  # of an emoji that a client has cut in two


@dataclass
class Asked:
    """A request as far as it tells whom it is of."""

    body: bytes | Pieces
    fields: Fields | None
    endpoint: Endpoint = CHAT
    caller: Principal = APP
    unit_header: bytes | None = None
    unit_headers: Mapping[bytes, bytes] = field(default_factory=dict)


def small(body: Any, **more: Any) -> Asked:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Asked(data, read(data), **more)


def in_steps(body: Any, **more: Any) -> Asked:
    """A request whose body was read in steps and has come in pieces."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pieces = Pieces(tuple(data[at : at + 100_000] for at in range(0, len(data), 100_000)))
    return Asked(pieces, large_fields(pieces), **more)


def large_fields(pieces: Pieces) -> LargeFields:
    steps: Generator[None, None, LargeFields] = read_in_steps(pieces)
    return run_to_end(steps)


# The unit


def test_a_request_that_names_no_unit_is_its_keys() -> None:
    assert unit_of(small({"model": "m"}), DEFAULT_SOURCES) == "app"
    heir = Principal(id="new", role=Role.APP, account="old")
    assert unit_of(small({"model": "m"}, caller=heir), DEFAULT_SOURCES) == "old"
    assert unit_of(Asked(b"", None), DEFAULT_SOURCES) == "app"
    assert unit_of(small({"user": "u"}), ("key", "user")) == "app", "what stands behind the key is never asked"


def test_the_first_source_that_tells_a_unit_counts() -> None:
    body = {"safety_identifier": "s", "user": "u", "prompt_cache_key": "p"}
    assert unit_of(small(body, unit_header=b"h"), DEFAULT_SOURCES) == "h"
    assert unit_of(small(body), DEFAULT_SOURCES) == "s"
    assert unit_of(small(body), ("prompt_cache_key", "user")) == "p"
    assert unit_of(small({"user": 7}), ("user",)) == "app", "a number is nobody's name"


def test_a_trusted_source_counts_for_callers_that_may_pin_alone() -> None:
    tester = Principal(id="tester", role=Role.APP_PIN)
    for caller, unit in ((APP, "app"), (tester, "u")):
        assert unit_of(small({"user": "u"}, caller=caller), ("trusted:user",)) == unit


def test_a_header_of_the_operators_own_is_a_source() -> None:
    asked = small({}, unit_headers={b"x-tenant": b"t\xe9"})
    assert unit_of(asked, ("header:x-tenant",)) == "té"
    assert unit_of(asked, ("header:x-other",)) == "app"


@pytest.mark.parametrize("make", [small, in_steps])
def test_a_path_into_metadata_is_a_source_in_any_body(make: Any) -> None:
    body = {"metadata": {"tenant": {"id": "t"}, "n": 7, "on": True, "of": [1]}, "messages": [HI]}
    for path, unit in (("tenant.id", "t"), ("n", "7"), ("on", "app"), ("of", "app"), ("n.x", "app"), ("no", "app")):
        assert unit_of(make(body), (f"body:metadata.{path}",)) == unit, path
    assert unit_of(make(body), ("body:metadata",)) == "app", "an object names nobody"
    assert unit_of(make({"messages": [HI]}), ("body:metadata.n",)) == "app"


def test_a_path_elsewhere_is_a_source_in_a_small_body_alone() -> None:
    assert unit_of(small({"customer": {"id": "c"}}), ("body:customer.id",)) == "c"
    assert unit_of(in_steps({"customer": {"id": "c"}}), ("body:customer.id",)) == "app"
    assert unit_of(Asked(Pieces((b"{}",)), read(b"{}")), ("body:customer.id",)) == "app"


def test_messages_name_their_user_in_metadata() -> None:
    body = {"metadata": {"user_id": "u"}}
    assert unit_of(small(body, endpoint=MESSAGES), DEFAULT_SOURCES) == "u"
    assert unit_of(small(body, endpoint=CHAT), DEFAULT_SOURCES) == "app"


def test_a_sample_is_called_by_what_the_request_says_and_never_by_its_key() -> None:
    assert client_identity(small({"user": "u", "prompt_cache_key": "p"})) == "u"
    assert client_identity(small({"user": "u"}, unit_header=b"h")) == "h"
    assert client_identity(small({"model": "m"})) == ""


# What a prefix cache may know


def test_requests_that_may_share_a_prefix_have_an_affinity_in_common() -> None:
    body = {"messages": [HI], "user": "u", "safety_identifier": "s", "prompt_cache_key": "p"}
    by_cache_key = affinity_of(small(body))
    assert by_cache_key == affinity_of(small({"prompt_cache_key": "p"}, unit_header=b"h"))
    assert affinity_of(small({"user": "u", "safety_identifier": "s"})) == affinity_of(small({"user": "s"}))
    assert affinity_of(small({"messages": [HI]}, unit_header=b"h")) == affinity_of(small({"user": "h"}))
    assert affinity_of(small({"messages": [HI]})) not in (None, by_cache_key)
    assert affinity_of(small({"model": "m"})) is None
    assert affinity_of(Asked(b"", None)) is None


# Values in bodies


def test_a_text_is_found_by_its_path_and_nothing_else_is_taken_for_one() -> None:
    assert text_at(b'{"a": {"b": "t"}}', "a.b") == "t"
    assert text_at(b'{"a": 12}', "a") == "12"
    for body in (b'{"a": 1.5}', b'{"a": null}', b'{"a": {}}', b'{"a": [1]}', b'{"b": 1}', b'{"a"', b'{"a": "\xff"}'):
        assert text_at(body, "a") is None, body
    assert text_at(b'{"a": "\xff", "b": ' + b"[" * 9_000, "a") is None


def test_half_an_emoji_elsewhere_hides_nobody() -> None:
    assert text_at(b'{"x": "' + HALF + b'", "a": "t"}', "a") == "t"
    assert text_at(b'{"x": "' + HALF + b'", "a": "' + HALF + b'"}', "a.b") is None


def test_of_a_large_body_only_metadata_of_a_usual_size_is_looked_into() -> None:
    filler = "x" * (AT_ONCE_BYTES + 1)
    for metadata, found in (({"a": "t"}, "t"), ({"a": "t", "b": "y" * 70_000}, None)):
        body = json.dumps({"metadata": metadata, "messages": [{"role": "user", "content": filler}], "a": "t"}).encode()
        fields = large_fields(Pieces((body,)))
        assert text_in_large(body, fields, "metadata.a") == found
        assert text_in_large(Pieces((body,)), fields, "metadata.a") == found
        assert text_in_large(body, fields, "a") is None
    assert text_in_large(body, large_fields(Pieces((b'{"b": 1}',))), "metadata.a") is None


def test_a_body_read_in_steps_that_is_not_large_is_looked_into_whole() -> None:
    body = b'{"a": "t", "x": "' + HALF + b'"}'
    fields = large_fields(Pieces((body,)))
    assert fields.repaired, "as it has half an emoji"
    assert text_in_large(body, fields, "a") == "t"
    assert text_in_large(b"{", msgspec.structs.replace(fields, repaired=b""), "a") is None


# How a conversation begins

TURNS = [{"role": "system", "content": "be brief"}, HI, {"role": "assistant", "content": "hello"}]


def begins(body: Any, dialect: Dialect = Dialect.COMPLETIONS, caller: str = "app") -> str | None:
    return conversation_hash(body if isinstance(body, bytes) else json.dumps(body).encode(), dialect, caller)


def test_a_conversation_keeps_its_beginning_while_it_grows() -> None:
    first = begins({"messages": TURNS})
    assert first is not None
    assert begins({"messages": [*TURNS, {"role": "user", "content": "more"}]}) == first
    parts = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert begins({"messages": [TURNS[0], {"role": "user", "content": parts}]}) == first, "the same text, in a part"
    assert begins({"messages": TURNS[1:]}) != first
    assert begins({"messages": TURNS}, caller="other") != first


def test_parts_that_are_no_text_tell_conversations_apart_but_for_cache_marks() -> None:
    def of(**part: Any) -> str | None:
        return begins({"messages": [{"role": "user", "content": [part, None]}]})

    assert of(type="image_url", url="a") != of(type="image_url", url="b")
    assert of(type="image_url", url="a", cache_control={"type": "ephemeral"}) == of(url="a", type="image_url")


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        ({"prompt": "hi"}, Dialect.PLAIN),
        ({"input": "hi", "previous_response_id": "r"}, Dialect.RESPONSES),
        ({"messages": "hi"}, Dialect.COMPLETIONS),
        ({"messages": ["hi", {"role": "assistant", "content": "hello"}]}, Dialect.COMPLETIONS),
        (b'{"messages": [', Dialect.COMPLETIONS),
        (b'{"messages": "\xff"}', Dialect.COMPLETIONS),
    ],
)
def test_where_no_user_has_begun_a_conversation_there_is_no_beginning(body: Any, dialect: Dialect) -> None:
    assert begins(body, dialect) is None


def test_each_dialect_keeps_its_words_in_its_own_place() -> None:
    assert begins({"input": "hi"}, Dialect.RESPONSES) == begins({"input": [HI]}, Dialect.RESPONSES)
    assert begins({"input": "hi", "instructions": "be brief"}, Dialect.RESPONSES) == begins({"messages": TURNS})
    assert begins({"messages": [HI], "system": "be brief"}, Dialect.MESSAGES) == begins({"messages": TURNS})


def test_half_an_emoji_in_a_later_turn_does_not_move_the_conversation() -> None:
    whole = json.dumps({"messages": TURNS}).encode()
    later = whole.replace(b'"hello"', b'"hello ' + HALF + b'"')
    assert begins(later) == begins(whole)
    assert conversation_hash(later, Dialect.COMPLETIONS, "app", may_have_surrogates=False) is None


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"messages": TURNS}, CHAT),
        ({"messages": [HI], "system": "be brief"}, MESSAGES),
        ({"input": "hi", "instructions": "be brief"}, RESPONSES),
        ({"input": [HI]}, RESPONSES),
        ({"prompt": "hi"}, COMPLETIONS),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, CHAT),
    ],
)
def test_a_body_read_in_steps_begins_as_it_does_when_read_at_once(body: Any, endpoint: Endpoint) -> None:
    sources = (CONVERSATION,)
    expected = unit_of(small(body, endpoint=endpoint), sources)
    assert unit_of(in_steps(body, endpoint=endpoint), sources) == expected
    data = json.dumps(body).encode()
    fields = large_fields(Pieces((data,)))
    assert unit_of(Asked(data, fields, endpoint), sources) == expected
    assert unit_of(Asked(Pieces((data,)), read(data), endpoint), sources) == "app"


def test_of_a_beginning_too_long_to_look_at_the_first_bytes_stand_for_it() -> None:
    long = "x" * (MAX_BEGINNING_BYTES + 1)
    tail = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    for body in ({"system": long, "messages": [HI]}, {"messages": [{"role": "system", "content": long}, HI]}):
        first = unit_of(in_steps(body, endpoint=MESSAGES), (CONVERSATION,))
        grown = {**body, "messages": [*body["messages"], *tail]}
        assert unit_of(in_steps(grown, endpoint=MESSAGES), (CONVERSATION,)) == first != "app"
        other = Principal(id="other", role=Role.APP)
        assert unit_of(in_steps(body, endpoint=MESSAGES, caller=other), (CONVERSATION,)) not in (first, "other")
