"""Heads of requests as RFC 9112 has them, and what a gateway without keys takes from browsers: nothing."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway

BODY = json.dumps({"model": "base", "messages": [{"role": "user", "content": "hi"}]}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
CHAT = "POST /v1/chat/completions"


def ask(gateway: RunningGateway, data: bytes) -> list[int]:
    """Send bytes and return the status of each reply, until the gateway closes."""
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(data)
        answer = b""
        while part := client.recv(65536):
            answer += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer) if status != b"100"]


def request(gateway: RunningGateway, line: str, *headers: str, body: bytes = BODY) -> bytes:
    lines = [
        line,
        f"authorization: Bearer {gateway.key}",
        "content-type: application/json",
        "connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


LENGTH = f"content-length: {len(BODY)}"


@pytest.mark.parametrize(
    ("line", "headers", "body", "status"),
    [
        (f"{CHAT} HTTP/1.1", ("host: x", LENGTH), BODY, 200),
        (f"{CHAT} HTTP/1.1", (LENGTH,), BODY, 400),
        (f"{CHAT} HTTP/1.1", ("host: x", "host: y", LENGTH), BODY, 400),
        *(
            (f"{CHAT} HTTP/1.1", (f"host: {host}", LENGTH), BODY, 200)
            for host in ("", "Model.example:80", "[::1]:8080", "10.0.0.1", "gateway_1.svc.cluster.local.", "a:")
        ),
        *(
            (f"{CHAT} HTTP/1.1", (f"host: {host}", LENGTH), BODY, 400)
            for host in ("a b", "a/b", "http://a", "user@a", "[", "[::1", "[::1]a", "a:b", "a#b", "a, a", "é")
        ),
        (f"{CHAT} HTTP/1.0", (LENGTH,), BODY, 200),
        (f"{CHAT} HTTP/1.0", ("transfer-encoding: chunked",), CHUNKED, 400),
        (f"{CHAT} HTTP/2.0", ("host: x", LENGTH), BODY, 400),
        (f"{CHAT} HTTP/1.1", ("host: x", "transfer-encoding: chunked"), CHUNKED, 200),
        (f"{CHAT} HTTP/1.1", ("host: x", "transfer-encoding: Chunked "), CHUNKED, 200),
        (f"{CHAT} HTTP/1.1", ("host: x", "transfer-encoding: gzip, chunked"), CHUNKED, 400),
        (f"{CHAT} HTTP/1.1", ("host: x", "transfer-encoding: identity", "transfer-encoding: chunked"), CHUNKED, 400),
        ("CONNECT 127.0.0.1:22 HTTP/1.1", ("host: x", LENGTH), BODY, 404),
        ("CONNECT /v1/models HTTP/1.1", ("host: x", LENGTH), BODY, 405),
        ("POST http://anything.example/v1/chat/completions?x=1 HTTP/1.1", ("host: x", LENGTH), BODY, 200),
        ("POST /v1/chat/completions/ HTTP/1.1", ("host: x", LENGTH), BODY, 200),
        ("GET /v1/models/ HTTP/1.1", ("host: x",), b"", 200),
        ("GET /v1/models/base/ HTTP/1.1", ("host: x",), b"", 200),
        ("GET /m/base/v1/models/?a=b HTTP/1.1", ("host: x",), b"", 200),
        ("GET HTTPS://x/v1/models HTTP/1.1", ("host: x",), b"", 200),
        ("GET http://x HTTP/1.1", ("host: x",), b"", 404),
        ("GET http:///v1/models HTTP/1.1", ("host: x",), b"", 404),
        ("GET // HTTP/1.1", ("host: x",), b"", 404),
    ],
)
def test_a_head_gets_one_reply_of_the_right_status(
    gateway: RunningGateway, line: str, headers: tuple[str, ...], body: bytes, status: int
) -> None:
    assert ask(gateway, request(gateway, line, *headers, body=body)) == [status]


def test_behind_a_head_that_is_refused_for_its_framing_nothing_is_read(gateway: RunningGateway) -> None:
    following = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    first = request(gateway, f"{CHAT} HTTP/1.1", "host: x", "transfer-encoding: gzip, chunked", body=CHUNKED)
    assert ask(gateway, first.replace(b"connection: close\r\n", b"") + following) == [400]
    first = request(gateway, "CONNECT x:1 HTTP/1.1", "host: x", LENGTH)
    assert ask(gateway, first.replace(b"connection: close\r\n", b"") + following) == [404]
    before = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % gateway.key.encode()
    assert ask(gateway, before + first + following) == [200, 404]


@pytest.fixture(scope="module")
def open_gateway() -> Iterator[RunningGateway]:
    options = ("--no-auth",)
    names = {"LORAGATE_HOST_NAMES": "Model.Lan"}
    with FakeEngine() as engine, RunningGateway(engine.url, options=options, environment=names) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST", 200),
        ("model.lan:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("[", 400),
        ("", 403),
        ("10.0.0.1", 403),
        ("localhost.", 200),
        ("127.0.0.1:", 200),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1#@evil.example", 400),
        ("evil.example@127.0.0.1", 400),
        ("[::1].evil.example", 400),
    ],
)
def test_without_keys_only_names_of_this_machine_are_answered_to(
    open_gateway: RunningGateway, host: str, status: int
) -> None:
    for method, content in (("GET", None), ("POST", BODY)):
        path = "/v1/models" if method == "GET" else "/v1/chat/completions"
        headers = {"host": host, "content-type": "application/json"}
        assert httpx.request(method, open_gateway.url + path, headers=headers, content=content).status_code == status


def test_without_keys_an_absolute_target_is_checked_in_place_of_host(open_gateway: RunningGateway) -> None:
    line = "GET http://evil.example/v1/models HTTP/1.1"
    assert ask(open_gateway, request(open_gateway, line, "host: localhost", body=b"")) == [403]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("", 415),
        (None, 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain; application/json", 415),
    ],
)
def test_without_keys_nothing_is_done_for_a_body_that_a_web_page_may_send(
    open_gateway: RunningGateway, kind: str | None, status: int
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path in ("/v1/chat/completions", "/m/base/v1/chat/completions/"):
        assert httpx.post(open_gateway.url + path, content=BODY, headers=headers).status_code == status


def test_a_body_with_a_byte_order_mark_is_served_without_it(gateway: RunningGateway, engine: FakeEngine) -> None:
    url, headers = gateway.url + "/v1/chat/completions", gateway.headers
    assert httpx.post(url, content=b"\xef\xbb\xbf" + BODY, headers=headers).status_code == 200
    assert json.loads(engine.generations[-1].body)["model"].startswith("base")
    assert httpx.post(url, content=b"\xef\xbb\xbf", headers=headers).status_code == 400
