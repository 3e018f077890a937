"""Callers send engines what is their own business, and nothing that touches others."""

import json
from typing import Any

import pytest

from gateway.admin.keys.engine_field_rules import EngineFieldRules
from gateway.decide.assign import Split
from gateway.decide.authenticate import Principal, Role
from gateway.decide.engine_fields import CAPS, DENIED, DENY, NAMES, FieldPolicy, check_rules
from gateway.decide.route import Route, RouteTable
from gateway.errors import BadRequest
from gateway.observe.ledger import Ledger
from gateway.openai.body import read
from gateway.openai.endpoints import ENDPOINTS
from gateway.receive.engine_fields import EngineFields
from gateway.receive.request import Request

CHAT = b"/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def refused(
    body: bytes | dict[str, Any],
    *,
    path: bytes = CHAT,
    role: Role = Role.APP,
    key: dict[str, str | int] | None = None,
    route: dict[str, str | int] | None = None,
    policy: FieldPolicy | None = None,
    ledger: Ledger | None = None,
    models: frozenset[str] | None = None,
) -> str | None:
    """Return the field that is refused, if one is."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    caller = Principal(id="k", role=role, engine_fields=key or {}, models=models)
    made = Route(alias="m", split=Split("m@1"), salt="s", engine_fields=route or {})
    table = RouteTable(routes={"m": made}, has_engine_fields=route is not None)
    request = Request(
        b"id",
        ENDPOINTS[path],
        sent,
        read(sent),
        caller,
        "m",
        unit=None,
        arm=None,
        keep_alive=True,
        is_http10=False,
        extra_headers=b"",
        received_at=0.0,
    )
    try:
        EngineFields(policy or FieldPolicy(), ledger or Ledger()).check(request, table)
    except BadRequest as error:
        is_clear = error.code == "engine_field_not_allowed" and f"`{error.param}`" in error.message
        return error.param if is_clear else f"unclear: {error.message}"
    return None


def part(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, fields]}]}


TOP: list[tuple[str, Any]] = [
    ("priority", -1_000_000_000),
    ("priority", 5),
    ("priority", "-1"),
    ("kv_transfer_params", {"remote_host": "h"}),
    ("ec_transfer_params", {"a": 1}),
    ("prompt_embeds", "QUJD"),
    ("chat_template", "{{ x }}"),
    ("request_id", "a"),
    ("mm_processor_kwargs", {"a": 1}),
    ("media_io_kwargs", {"video": {"num_frames": 10**9}}),
    ("vllm_xargs", {"a": 1}),
    ("data_parallel_rank", 0),
    ("logits_processors", ["os.system"]),
    ("background", True),
    ("n", 17),
    ("n", "128"),
    ("n", 1e9),
    ("best_of", 100),
    ("max_tokens", 10**9),
    ("max_completion_tokens", 131_073),
    ("max_output_tokens", 1e9),
    ("max_tokens", 10**60),
]


@pytest.mark.parametrize(("name", "value"), TOP, ids=lambda value: str(value)[:24])
def test_what_touches_others_is_refused_by_name(name: str, value: Any) -> None:
    for path in (CHAT, b"/v1/completions", b"/v1/responses", b"/v1/messages", b"/v1/embeddings"):
        assert refused(HI | {name: value}, path=path) == name
    assert refused(HI | {name: value}, role=Role.APP_PIN) == name
    assert refused(HI | {name: value}, role=Role.OPERATOR) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 0},
        {"priority": None},
        {"kv_transfer_params": None},
        {"background": False},
        {"n": 16},
        {"n": None},
        {"max_tokens": 131_072},
        {"max_tokens": 4096.0},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a+"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"cache_salt": "s"},
        {"echo": True},
        {"prompt_logprobs": 3},
        {"a_field_we_do_not_know": {"priority": 1}},
        {"metadata": {"priority": "1", "image_url": "http://h/"}},
        {"stop": ["a", "b"]},
    ],
    ids=str,
)
def test_a_callers_own_business_passes(fields: dict[str, Any]) -> None:
    assert refused(HI | fields) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"model":"m","\u0070riority":-5}', "priority"),
        (b'{"model":"m","priority":0,"priority":-5}', "priority"),
        (b'{"model":"m","priority":null,"priority":-5}', "priority"),
        (rb'{"model":"m","priority":-5,"user":"\ud800"}', "priority"),
        (rb'{"messages":[{"content":[{"\u0069mage_url":{"\u0075rl":"http://h/"}}]}]}', "image_url"),
        (rb'{"messages":[{"content":[{"image_url":{"url":"\u0068ttp://h/"}}]}]}', "image_url"),
        (rb'{"messages":[{"content":[{"text":"\ud800"},{"image_url":{"url":"http://h/"}}]}]}', "image_url"),
        (rb'{"messages":[{"content":[{"x":1e999},{"image_url":{"url":"http://h/"}}]}]}', "image_url"),
        (b'{"messages":[{"content":[{"x":%b},{"image_url":"file:///etc/passwd"}]}]}' % (b"9" * 500), "image_url"),
        (b'{"model":"m","max_tokens":"999999999.00"}', "max_tokens"),
        (b'{"model":"m","max_tokens":"+9_999_999.000"}', "max_tokens"),
        (rb'{"model":"m","max_tokens":"\u00a0999999999"}', "max_tokens"),
        ('{"model":"m","n":"\u300017"}'.encode(), "n"),
    ],
)
def test_no_spelling_gets_round_it(body: bytes, field: str) -> None:
    assert refused(body) == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "HTTPS://h/"}}, "image_url"),
        ({"image_url": "https://h/"}, "image_url"),
        ({"type": "input_image", "image_url": "https://h/"}, "image_url"),
        ({"type": "audio_url", "audio_url": {"url": "file:///a"}}, "audio_url"),
        ({"type": "video_url", "video_url": {"url": "ftp://h/"}}, "video_url"),
        ({"type": "input_file", "file_url": "https://h/"}, "file_url"),
        ({"type": "image", "source": {"type": "url", "url": "https://h/"}}, "source.url"),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": "x:"}}]}, "source.url"),
        ({"type": "image_embeds", "image_embeds": "QUJD"}, "image_embeds"),
        ({"type": "prompt_embeds", "data": "QUJD"}, "prompt_embeds"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}, "uuid": "a"}, "uuid"),
    ],
    ids=str,
)
def test_media_elsewhere_and_tensors_are_refused_in_messages(fields: dict[str, Any], field: str) -> None:
    for path in (CHAT, b"/v1/messages", b"/tokenize"):
        assert refused(part(**fields), path=path) == field
    listed = {"model": "m", "input": part(**fields)["messages"]}
    assert refused(listed, path=b"/v1/responses") == field
    assert refused({"model": "m", "system": [fields], "messages": []}, path=b"/v1/messages") == field


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
        {"type": "text", "text": '{"image_url": "http://h/", "uuid": 1}'},
        {"type": "output_text", "annotations": [{"type": "url_citation", "url": "https://h/"}]},
        {"type": "tool_use", "id": "a", "input": {"uuid": "b", "url": "https://h/"}},
    ],
    ids=str,
)
def test_media_in_the_request_itself_and_addresses_in_texts_pass(fields: dict[str, Any]) -> None:
    assert refused(part(**fields)) is None


def test_many_prompts_times_many_choices_are_bounded() -> None:
    many = {"model": "m", "prompt": ["a"] * 129}
    assert refused(many, path=b"/v1/completions") == "prompt"
    assert refused({"model": "m", "prompt": ["a"] * 9, "n": 16}, path=b"/v1/completions") == "prompt"
    assert refused({"model": "m", "prompt": ["a"] * 8, "n": 16}, path=b"/v1/completions") is None
    assert refused({"model": "m", "prompt": [1] * 9000, "n": 16}, path=b"/v1/completions") is None
    assert refused({"model": "m", "input": ["a"] * 2049}, path=b"/v1/embeddings") == "input"
    assert refused({"model": "m", "input": ["a"] * 2048}, path=b"/v1/embeddings") is None


@pytest.mark.parametrize("rule", [{"n": 32}, {"priority": "allow"}, {"max_tokens": 10}])
def test_a_routes_rules_do_not_tell_a_key_that_may_not_use_it_that_it_is_there(rule: dict[str, str | int]) -> None:
    for fields in ({"n": 20}, {"n": 2}, {"priority": -5}, {"max_tokens": 50}, {"max_tokens": 10**6}):
        ledger = Ledger()
        told = refused(HI | fields, route=rule, models=frozenset(("other",)), ledger=ledger)
        assert told == refused(HI | fields)
        assert not ledger.cell("m").engine_fields


def test_the_key_decides_before_the_route_and_that_before_the_settings() -> None:
    urgent = HI | {"priority": -5}
    settings = FieldPolicy(rules={"priority": "allow"})
    assert refused(urgent, policy=settings) is None
    assert refused(urgent, policy=settings, route={"priority": "deny"}) == "priority"
    assert refused(urgent, policy=settings, route={"priority": "deny"}, key={"priority": "allow"}) is None
    assert refused(urgent, role=Role.OPERATOR, route={"priority": "deny"}) == "priority"
    assert refused(urgent, role=Role.OPERATOR, policy=FieldPolicy(rules={"priority": "deny"})) is None
    assert refused(HI | {"n": 64}, key={"n": 64}) is None
    assert refused(HI | {"n": 65}, key={"n": 64}) == "n"
    assert refused(HI | {"max_tokens": 101}, policy=FieldPolicy(rules={"max_tokens": 100})) == "max_tokens"
    assert refused(HI | {"max_tokens": 101}, route={"max_tokens": 100}) == "max_tokens"
    assert refused(HI | {"n": 10**6}, key={"n": "allow"}) is None
    assert refused(part(image_url="http://h/"), key={"media_urls": "allow"}) is None


def test_a_dry_run_refuses_nothing_and_counts_the_same() -> None:
    for dry_run, outcome in ((True, "dry_run"), (False, "refused")):
        ledger = Ledger()
        body = HI | {"priority": -5}
        assert refused(body, policy=FieldPolicy(dry_run=dry_run), ledger=ledger) == (None if dry_run else "priority")
        assert ledger.cell("m").engine_fields == {f"priority/{outcome}": 1}


def test_rules_that_mean_nothing_are_refused() -> None:
    for rules in ({"nonsense": "allow"}, {"priority": 5}, {"priority": "yes"}, {"n": "deny"}, {"n": 0}, {"n": True}):
        with pytest.raises(ValueError, match="engine_fields"):
            check_rules(rules)
    check_rules(dict.fromkeys(DENIED, "allow") | dict(CAPS) | {"n": "allow"})


def test_the_admin_api_describes_a_rule_for_each_field_that_has_one() -> None:
    described = EngineFieldRules.model_fields
    assert tuple(described) == NAMES
    assert {name: each.default for name, each in described.items()} == {**dict.fromkeys(DENIED, DENY), **CAPS}
    assert EngineFieldRules.model_validate({"n": 64, "media_urls": "allow"}).to_rules() == {
        "n": 64,
        "media_urls": "allow",
    }
    for wrong in ({"x": "allow"}, {"n": "deny"}, {"n": 0}, {"n": 1.5}, {"n": 2**31 + 1}, {"priority": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EngineFieldRules.model_validate(wrong)
