"""From where a request's unit comes, and how a conversation's beginning is told."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.assign import DEFAULT_SOURCES, Split, check_sources
from gateway.decide.authenticate import Principal, Role
from gateway.decide.limit import Rates
from gateway.decide.route import RolloutTag
from gateway.receive.conversation import beginning_of
from gateway.receive.endpoints import ENDPOINTS, Dialect
from gateway.receive.request import Request
from gateway.receive.wire import LargeFields, read
from gateway.store.desired import Desired, MirrorPolicy, RolloutRecord, RouteLimits, RouteRecord
from gateway.store.snapshot import encode, of_state, to_table

CALLER = Principal(id="key-2", role=Role.APP, account="key-1")
HI = {"role": "user", "content": "hi"}


def request(
    body: dict[str, Any] | bytes, header: bytes | None = None, *, path: bytes = b"/v1/chat/completions",
    caller: Principal = CALLER,
) -> Request:  # fmt: skip
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Request(
        b"id", ENDPOINTS[path], data, read(data), caller, "support",
        unit=header, arm=None, keep_alive=True, is_http10=False, extra_headers=b"", received_at=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "header", "unit"),
    [
        ({}, None, "key-1"),
        ({"user": "u"}, None, "u"),
        ({"safety_identifier": "s", "user": "u", "prompt_cache_key": "p"}, None, "s"),
        ({"safety_identifier": 5, "user": "", "prompt_cache_key": "p"}, None, "p"),
        ({"user": ["u"]}, None, "key-1"),
        ({"user": "u"}, b"h", "h"),
        ({"user": "u"}, b"", "u"),
        ({}, b"\xe9", "é"),
    ],
)
def test_the_unit_is_the_most_specific_name_and_else_the_key_through_its_rotations(
    body: dict[str, Any], header: bytes | None, unit: str
) -> None:
    assert request(body, header).unit(DEFAULT_SOURCES) == unit


def test_a_route_chooses_its_sources_and_their_order() -> None:
    asked = request({"user": "u", "prompt_cache_key": "p", "messages": [HI]}, b"h")
    assert asked.unit(("prompt_cache_key", "header")) == "p"
    assert asked.unit(("safety_identifier", "key", "user")) == "key-1"
    assert asked.unit(("safety_identifier",)) == "key-1"
    conversation = asked.unit(("conversation",))
    assert conversation == beginning_of(asked.body, Dialect.COMPLETIONS, "key-1") != "key-1"


def test_a_front_ends_header_is_the_unit_where_the_route_says_so() -> None:
    asked = request({"user": "u"})
    asked.unit_headers = {b"x-openwebui-user-id": b"someone"}
    assert asked.unit(("header:x-openwebui-user-id", "user")) == "someone"
    asked.unit_headers = {}
    assert asked.unit(("header:x-openwebui-user-id", "user")) == "u"


@pytest.mark.parametrize(
    ("body", "unit"),
    [
        ({"metadata": {"user_id": "u"}}, "u"), ({"metadata": {"user_id": 7}}, "7"), ({"metadata": {}}, "key-1"),
        ({"metadata": "u"}, "key-1"), ({"metadata": {"user_id": {"id": "u"}}}, "key-1"), ({}, "key-1"),
        ({"metadata": {"user_id": True}}, "key-1"), ({"metadata": {"user_id": ""}}, "key-1"),
        ({"metadata": {"user_id": 1.5}}, "key-1"), ({"metadata": None}, "key-1"), ({"metadata": ["u"]}, "key-1"),
        (b'{"x":"\\ud83d","metadata":{"user_id":"u"}}', "u"),
        (b'{"metadata":{"user_id":1},"metadata":{"user_id":"u"}}', "u"),
    ],
)  # fmt: skip
def test_a_value_of_the_body_is_the_unit_if_it_is_text_or_a_whole_number(body: Any, unit: str) -> None:
    assert request(body).unit(("body:metadata.user_id",)) == unit


@pytest.mark.parametrize("path", [b"/v1/messages", b"/v1/messages/count_tokens"])
def test_a_person_has_one_unit_for_messages_and_for_counting_their_tokens(path: bytes) -> None:
    assert request({"messages": [HI], "metadata": {"user_id": "u"}}, path=path).unit(DEFAULT_SOURCES) == "u"


def test_a_large_body_tells_its_unit_by_metadata_alone() -> None:
    large = {"messages": [{"role": "user", "content": "x" * 2**20}], "metadata": {"user_id": "u"}, "who": "w"}
    assert request(large).unit(("body:who", "body:metadata.user_id")) == "u"
    small = {**large, "messages": [HI]}
    assert request(small).unit(("body:who", "body:metadata.user_id")) == "w"


def test_anthropics_metadata_names_the_user_of_a_message() -> None:
    body = {"metadata": {"user_id": "someone"}}
    assert request(body, path=b"/v1/messages").unit(DEFAULT_SOURCES) == "someone"
    assert request({**body, "user": "u"}, path=b"/v1/messages").unit(DEFAULT_SOURCES) == "u"
    assert request(body).unit(DEFAULT_SOURCES) == "key-1", "OpenAI's metadata says nothing of who asks"


def test_a_route_may_trust_only_keys_above_app_with_units() -> None:
    above = Principal(id="key-3", role=Role.APP_PIN)
    for source, header, body in (
        ("header", b"mine", {}),
        ("user", None, {"user": "mine"}),
        ("body:a.b", None, {"a": {"b": "mine"}}),
    ):
        assert request(body, header).unit((f"trusted:{source}", "key")) == "key-1"
        assert request(body, header, caller=above).unit((f"trusted:{source}", "key")) == "mine"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("ip", "header:NAME, body:PATH"), ("header:", "lower case"), ("header:X-User", "lower case"),
        ("header:a b", "lower case"), ("header:" + "x" * 65, "lower case"), ("header:authorization", "secret"),
        ("header:cookie", "secret"), ("body:", "path"), ("body:a..b", "path"), ("body:a.b.c.d.e", "path"),
        ("body:a b", "path"), ("trusted:key", "unknown"), ("trusted:trusted:user", "unknown"), ("trusted:", "unknown"),
        ("trusted:header:Cookie", "lower case"), ("x" * 10_000, "unknown"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_is_refused_with_what_may_be(source: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        check_sources((source,))
    assert len(str(caught.value)) < 600


def test_sources_of_ones_own_are_taken_and_bounded() -> None:
    own = ("header:x-openwebui-user-id", "body:metadata.user_id", "trusted:header", "trusted:body:user_id", "key")
    check_sources(own)
    with pytest.raises(ValueError, match="at most 20"):
        check_sources(tuple(f"header:x-{number}" for number in range(21)))
    with pytest.raises(ValueError, match="twice"):
        check_sources(("header:a", "header:a"))
    table = to_table(encode(of_state(
        Desired(routes=(RouteRecord(alias="a", control="a@1", salt="s", unit=own),)), version=1, base=None, engines=(),
        with_keys=False,
    )))  # fmt: skip
    assert table.unit_headers == (b"x-openwebui-user-id",)


TEXT = st.text(max_size=20)
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), max_size=4)


def chat(turns: list[dict[str, Any]], **more: Any) -> str | None:
    return beginning_of(msgspec.json.encode({"messages": turns, **more}), Dialect.COMPLETIONS, "k")


@given(st.lists(TEXT, max_size=2), TEXT, TURNS)
def test_what_follows_does_not_change_how_a_conversation_begins(
    systems: list[str], first: str, more: list[dict[str, Any]]
) -> None:
    begin = [*({"role": "system", "content": each} for each in systems), {"role": "user", "content": first}]
    assert chat(begin) == chat(begin + more) is not None
    assert chat(begin + more, temperature=1) == chat(begin)
    assert chat([*begin[:-1], {"role": "user", "content": first + "!"}]) != chat(begin)


def test_half_an_emoji_in_a_later_turn_does_not_move_a_conversation() -> None:
    cut = msgspec.json.encode({"messages": [HI, {"role": "user", "content": "cut"}]}).replace(b"cut", rb"cut \ud83d")
    read(cut)  # it is served
    assert beginning_of(cut, Dialect.COMPLETIONS, "k") == chat([HI])


def test_a_turn_is_the_same_however_it_is_written() -> None:
    parts = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert chat([HI]) == chat([{"role": "user", "content": parts}]) == chat([{**HI, "name": "x"}])
    image = {"type": "image_url", "image_url": {"url": "data:1"}}
    other = {"type": "image_url", "image_url": {"url": "data:2"}}
    assert chat([{"role": "user", "content": [image]}]) != chat([{"role": "user", "content": [other]}])
    assert chat([{"role": "system", "content": "hi"}, HI]) != chat([HI])
    assert chat([{"role": "assistant", "content": "Hello!"}, HI]) == chat([HI])


def test_the_same_words_of_two_callers_are_two_conversations() -> None:
    body = msgspec.json.encode({"messages": [HI]})
    assert beginning_of(body, Dialect.COMPLETIONS, "a") != beginning_of(body, Dialect.COMPLETIONS, "b")


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        ({"system": "s", "messages": [HI]}, Dialect.MESSAGES),
        ({"instructions": "s", "input": "hi"}, Dialect.RESPONSES),
        ({"instructions": "s", "input": [{**HI, "type": "message"}]}, Dialect.RESPONSES),
    ],
)
def test_every_dialect_has_a_beginning_and_its_system_prompt_is_part_of_it(
    body: dict[str, Any], dialect: Dialect
) -> None:
    told = beginning_of(msgspec.json.encode(body), dialect, "k")
    assert told == beginning_of(msgspec.json.encode({**body, "stream": True}), dialect, "k") is not None
    without = {name: value for name, value in body.items() if name not in ("system", "instructions")}
    assert told != beginning_of(msgspec.json.encode(without), dialect, "k")


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (b'{"prompt": "hi"}', Dialect.COMPLETIONS),
        (b'{"messages": []}', Dialect.COMPLETIONS),
        (b'{"messages": "hi"}', Dialect.MESSAGES),
        (b'{"messages": [5, {"role": "assistant"}]}', Dialect.COMPLETIONS),
        (b'{"input": "hi", "previous_response_id": "r"}', Dialect.RESPONSES),
        (b'{"input": ["hi"]}', Dialect.PLAIN),
        (b"", Dialect.COMPLETIONS),
    ],
)
def test_what_has_no_beginning_is_not_guessed(body: bytes, dialect: Dialect) -> None:
    assert beginning_of(body, dialect, "k") is None


# What is declared of a route reaches the workers


def test_a_routes_declaration_reaches_the_table() -> None:
    record = RouteRecord(
        alias="a", control="a@1", salt="s", unit=("conversation", "key"), limits=RouteLimits(max_in_flight=3),
        mirror=MirrorPolicy(share=100),
    )  # fmt: skip
    rollout = RolloutRecord(id="r", alias="a", is_open=True, body={"state": {"stage": 4}})
    desired = Desired(routes=(record,), rollouts=(rollout,))
    made = to_table(encode(of_state(desired, version=1, base=None, engines=(), with_keys=False, replicas=3)))
    route = made.routes["a"]
    assert (route.unit, route.rates) == (("conversation", "key"), Rates(max_in_flight=3))
    assert (route.rollout, route.split) == (RolloutTag(id="r", stage=4), Split("a@1"))
    assert (made.replicas, made.has_rates) == (3, True)


@pytest.mark.parametrize("body", [{}, {"state": None}, {"state": {}}, {"state": {"stage": "4"}}])
def test_a_rollout_that_tells_no_stage_counts_nothing(body: dict[str, Any]) -> None:
    record = RouteRecord(alias="a", control="a@1", salt="s")
    desired = Desired(routes=(record,), rollouts=(RolloutRecord(id="r", alias="a", is_open=True, body=body),))
    made = to_table(encode(of_state(desired, version=1, base=None, engines=(), with_keys=False)))
    assert (made.routes["a"].rollout, made.has_rates) == (None, False)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("unit", (), "no source"),
        ("unit", ("header", "ip"), "`ip` is unknown"),
        ("unit", ("key", "key"), "twice"),
        ("mirror", {"share": 10_001}, "`10001`"),
        ("mirror", {"capture": "some"}, "some"),
        ("limits", {"max_in_flight": 0}, "`0`"),
        ("limits", {"tokens_per_minute": -5}, "`-5`"),
        ("limits", {"per_day": 5}, "per_day"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_with_the_reason(field: str, value: Any, told: str) -> None:
    data = msgspec.json.encode({"alias": "a", "control": "a@1", "salt": "s", field: value})
    with pytest.raises(msgspec.ValidationError, match=told):
        msgspec.json.decode(data, type=RouteRecord)


HALVES = '"%s"' % ("\\ud800" * 12_000)
PADDING = "[" + "[]," * 30_000 + "0]"


@pytest.mark.parametrize("more", [f'"x":{HALVES}', f'"x":{PADDING}'], ids=["halves of surrogate pairs", "arrays"])
@pytest.mark.parametrize(
    ("members", "sources"),
    [
        ('"metadata":{"user_id":"u"}', ("body:metadata.user_id",)),
        ('"metadata":{"pad":"%s","user_id":"u"}' % ("x" * 20_000), ("body:metadata.user_id",)),
        ('"metadata":{"pad":"\\ud800","user_id":"u"}', ("body:metadata.user_id",)),
        ('"metadata":{"user_id":"a"},"metadata":{"user_id":"u"}', ("body:metadata.user_id",)),
        ('"metadata":"text"', ("body:metadata",)),
        ('"metadata":{"a":{"b":7}}', ("body:metadata.a.b",)),
        ('"tenant":{"id":"u"}', ("body:tenant.id",)),
        ('"ten\\u0061nt":"u"', ("body:tenant",)),
        ('"user":"u"', ("user",)),
        ('"messages":[{"role":"user","content":"hi \\ud800"}]', ("conversation",)),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_small_body_that_is_read_in_steps_tells_the_same_unit(
    members: str, sources: tuple[str, ...], more: str
) -> None:
    body = "{%s,%s}"
    plain, in_steps = request((body % (members, '"x":0')).encode()), request((body % (members, more)).encode())
    assert not isinstance(plain.fields, LargeFields)
    assert isinstance(in_steps.fields, LargeFields)
    for path in (b"/v1/chat/completions", b"/v1/messages"):
        plain.endpoint = in_steps.endpoint = ENDPOINTS[path]
        assert in_steps.unit(sources) == plain.unit(sources)
        assert in_steps.user() == plain.user()
