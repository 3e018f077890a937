"""Web pages of other origins: refused as ever without a setting; with one, every reply says who may read it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.receive.cross_origin import CrossOrigin
from gateway.settings import InvalidSettings, load
from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.raw_client import Raw

PAGE = "https://chat.example"
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
ASKS = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine) -> Iterator[RunningGateway]:
    """A gateway that a page of one origin may call."""
    environment = {"LORAGATE_ALLOWED_ORIGINS": f"{PAGE},http://localhost:3000", "LORAGATE_EVALUATOR__ENABLED": "false"}
    with RunningGateway(engine.url, environment=environment) as gateway:
        yield gateway


def told(reply: httpx.Response) -> tuple[str | None, str | None]:
    return reply.headers.get("access-control-allow-origin"), reply.headers.get("vary")


def test_a_browsers_question_is_answered_without_a_key(gateway: RunningGateway) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/m/base/v1/models"):
        reply = httpx.options(gateway.url + path, headers=ASKS)
        assert (reply.status_code, reply.content, told(reply)) == (200, b"", (PAGE, "origin"))
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert reply.headers["access-control-allow-headers"] == ASKS["access-control-request-headers"]
        assert "access-control-allow-credentials" not in reply.headers


def test_a_page_may_read_every_reply_errors_and_streams_included(gateway: RunningGateway) -> None:
    url, page = gateway.url + "/v1/chat/completions", {"origin": PAGE}
    key = gateway.headers | page
    replies = [
        httpx.post(url, json=CHAT, headers=key),
        httpx.post(url, json=CHAT | {"stream": True}, headers=key),
        httpx.post(url, json=CHAT | {"model": "nobody"}, headers=key),
        httpx.post(url, json=CHAT, headers=page),
        httpx.get(gateway.url + "/v1/models", headers=key),
        httpx.get(gateway.url + "/nowhere", headers=key),
        httpx.post(url, content=b"{", headers=key),
        httpx.get(url, headers=key),
        httpx.post(url, json=CHAT | {"fake": {"status": 500}}, headers=key),
        httpx.post(url, json=CHAT | {"fake": {"status": 400}}, headers=key),
        httpx.get(gateway.url + "/healthz", headers=page),
        httpx.post(url, content=b"x" * 70_000, headers=key | {"content-encoding": "gzip"}),
    ]
    assert {each.status_code for each in replies} >= {200, 400, 401, 404, 405, 415}
    for reply in replies:
        assert told(reply) == (PAGE, "origin"), reply
        exposed = reply.headers["access-control-expose-headers"]
        assert "x-request-id" in exposed
        assert "x-loragate-version" in exposed
        assert "access-control-allow-credentials" not in reply.headers
    assert replies[1].text.endswith("data: [DONE]\n\n")


def test_a_refusal_before_the_body_has_come_may_be_read_too(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        client.send(client.request(body=None, method="POST", length=10**9, origin=PAGE))
        reply = client.reply()
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (413, PAGE)


@pytest.mark.parametrize(
    "origin", ["https://chat.example.evil", "https://CHAT.example", "null", "http://chat.example", ""]
)
def test_no_other_page_is_told_anything(gateway: RunningGateway, origin: str) -> None:
    assert httpx.options(gateway.url + "/v1/models", headers=ASKS | {"origin": origin}).status_code == 405
    reply = httpx.get(gateway.url + "/v1/models", headers=gateway.headers | {"origin": origin})
    assert (reply.status_code, told(reply)) == (200, (None, "origin"))


def test_who_is_no_page_notices_nothing(gateway: RunningGateway) -> None:
    reply = httpx.get(gateway.url + "/v1/models", headers=gateway.headers)
    assert told(reply) == (None, None)
    assert httpx.options(gateway.url + "/v1/models", headers={"origin": PAGE}).status_code == 405, "no question"


def test_a_question_with_a_body_is_none(gateway: RunningGateway) -> None:
    asked: dict[str, Any] = ASKS | {"origin": PAGE}
    with Raw(gateway, key="") as client:
        client.send(client.request("/v1/models", b"x" * 100, method="OPTIONS", **asked))
        assert client.reply().status == 405


def test_without_the_setting_no_page_may_call(engine: FakeEngine) -> None:
    with RunningGateway(engine.url, environment={"LORAGATE_EVALUATOR__ENABLED": "false"}) as plain:
        assert httpx.options(plain.url + "/v1/models", headers=ASKS).status_code == 405
        assert told(httpx.get(plain.url + "/v1/models", headers=plain.headers | {"origin": PAGE})) == (None, None)


def test_any_page_is_told_so_without_its_name() -> None:
    anyone = CrossOrigin(["*"])
    assert anyone.lines(b"https://x").startswith(b"access-control-allow-origin: *\r\n")
    asked = {b"origin": b"https://x", b"access-control-request-method": b"POST"}
    answer = anyone.preflight(b"OPTIONS", asked)
    assert answer is not None
    assert b"access-control-allow-headers: authorization, content-type" in answer
    for odd in (b"x" * 3_000, b"a\xffb", b'a"b'):
        again = anyone.preflight(b"OPTIONS", asked | {b"access-control-request-headers": odd})
        assert again == answer, "what no client asks for is not sent back"
    assert anyone.preflight(b"GET", asked) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "chat.example",
        "https://chat.example/",
        "https://Chat.example",
        "https://chat.example:443",
        "http://x:80",
        "https://*.example",
        "https://a b",
        "https://user@x",
        "",
    ],
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    with pytest.raises(InvalidSettings, match="is no origin"):
        load(given={"allowed_origins": [origin]})


def test_origins_are_taken_as_browsers_write_them() -> None:
    taken = ("https://chat.example", "http://localhost:3000", "http://[::1]:5173", "chrome-extension://abcdef", "*")
    assert load(given={"allowed_origins": list(taken)}).allowed_origins == taken


def test_any_page_and_no_keys_do_not_go_together() -> None:
    with pytest.raises(InvalidSettings, match="every web page"):
        load(given={"allowed_origins": ["*"], "auth": False})
