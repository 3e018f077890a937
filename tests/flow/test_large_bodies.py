"""Large bodies over a real socket: served byte for byte, never all in memory of one key, and nobody waits for them."""

import itertools
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.raw_client import Raw

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def small_gateway() -> Iterator[tuple[RunningGateway, FakeEngine]]:
    environment = {
        "LORAGATE_LIMITS__MAX_KEY_BODY_BYTES": str(3 * MIB),
        "LORAGATE_LIMITS__MAX_WORKER_BODY_BYTES": str(5 * MIB),
        "LORAGATE_LIMITS__BODY_SECONDS": "2",
        "LORAGATE_LIMITS__MIN_BODY_BYTES_PER_SECOND": "1000000",
    }
    with FakeEngine() as engine, RunningGateway(engine.url, environment=environment) as gateway:
        yield gateway, engine


def post(gateway: RunningGateway, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(
        gateway.url + "/v1/chat/completions",
        content=body,
        timeout=60,
        headers={**gateway.headers, "content-type": "application/json", **(headers or {})},
    )


def opened(gateway: RunningGateway, key: str, body: bytes, sent: int) -> socket.socket:
    """Begin a request and send only so much of its body."""
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=30)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}"
    )
    client.sendall(head.encode() + b"\r\n\r\n" + body[:sent])
    return client


def big(size: int) -> bytes:
    return b'{"messages":[{"role":"user","content":"%b"}],"model":"base"}' % (b"x" * size)


def test_a_large_body_reaches_the_engine_byte_for_byte(gateway: RunningGateway, engine: FakeEngine) -> None:
    text = 'said \\"no\\" \\\\ \\ud83d\\ude00 é ' * 60_000
    body = f'{{"messages":[{{"role":"user","content":"{text}"}}], "model" : "base" ,"x":[1e5,{{}}]}}'.encode()
    for content in (body, b"\xef\xbb\xbf" + body):
        assert post(gateway, content).status_code == 200
        assert engine.generations[-1].body == body.replace(b'"base"', b'"base"', 1)


def test_a_large_body_in_tiny_chunks_is_served(gateway: RunningGateway, engine: FakeEngine) -> None:
    body = big(300_000)
    chunks = (body[at : at + 7] for at in range(0, len(body), 7))
    reply = httpx.post(gateway.url + "/v1/chat/completions", content=chunks, headers=gateway.headers, timeout=60)
    assert reply.status_code == 200
    assert engine.generations[-1].body == body


def test_media_at_the_end_of_a_large_body_are_refused_however_cut(gateway: RunningGateway, engine: FakeEngine) -> None:
    text, image = (
        {"type": "text", "text": "x" * 2 * MIB},
        {"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}},
    )
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": [text, image]}]}).encode()
    ends = list(range(len(body) - 120, len(body) + 1))
    served = len(engine.generations)
    for cuts in ([len(body)], ends):
        chunks = (body[start:end] for start, end in itertools.pairwise([0, *cuts]))
        framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
        with Raw(gateway) as client:
            reply = client.ask(body=framed + b"0\r\n\r\n", transfer_encoding="chunked")
        assert (reply.status, reply.code) == (400, "engine_field_not_allowed")
    assert len(engine.generations) == served


def test_a_large_stream_that_does_not_ask_for_usage_is_counted(gateway: RunningGateway, engine: FakeEngine) -> None:
    body = json.dumps({"model": "base", "stream": True, "messages": [{"role": "user", "content": "x" * 2 * MIB}]})
    assert post(gateway, body.encode()).status_code == 200
    assert json.loads(engine.generations[-1].body)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"model":"base","a":[' + b"[]," * 1_000_001 + b"0]}", "1,000,000 arrays and objects"),
        (b'{"model":"base",' + b'"":1,' * 300_000 + b'"a":0}', "1,024 members"),
        (b'{"model":"base","a":' + b"[" * 2_000_000, "200 levels deep"),
        (big(2 * MIB)[:-1], "not a valid JSON object"),
        (b'{"model":"base","user":"' + b"u" * 2 * MIB + b'"}', "`user` has"),
        (big(2 * MIB) + b"\xff", "not a valid JSON object"),
    ],
    ids=["arrays", "members", "nesting", "cut off", "a long field", "not UTF-8"],
)
def test_a_large_body_of_too_many_parts_is_refused_with_the_limit(
    gateway: RunningGateway, body: bytes, told: str
) -> None:
    reply = post(gateway, body)
    assert reply.status_code == 400
    assert told in reply.json()["error"]["message"]


def test_one_key_and_one_worker_hold_so_many_bytes_of_bodies_and_give_them_back(
    small_gateway: tuple[RunningGateway, FakeEngine],
) -> None:
    gateway, _ = small_gateway
    body, other = big(2 * MIB), gateway.create_key("app")
    first = opened(gateway, gateway.key, body, len(body) - 10)
    status = 0
    deadline = time.monotonic() + 30
    while status != 429 and time.monotonic() < deadline:  # until the first one's bytes have been read
        reply = post(gateway, body)
        status = reply.status_code
    assert status == 429
    assert "limits.max_key_body_bytes" in reply.json()["error"]["message"]
    assert reply.headers["retry-after"]
    second = opened(gateway, other, body, len(body) - 10)
    third = gateway.create_key("app")
    while status != 503 and time.monotonic() < deadline:
        status = post(gateway, body, {"authorization": f"Bearer {third}"}).status_code
    assert status == 503
    first.close()
    second.close()
    while status != 200 and time.monotonic() < deadline:
        status = post(gateway, body).status_code
    assert status == 200
    for _ in range(4):  # nothing is left behind by refusals, nor by replies
        assert post(gateway, body).status_code == 200


def test_a_body_that_trickles_in_is_given_up_in_all(small_gateway: tuple[RunningGateway, FakeEngine]) -> None:
    gateway, _ = small_gateway
    client = opened(gateway, gateway.key, big(1000), 1)
    client.settimeout(0.2)
    began, answer = time.monotonic(), b""
    while not answer and time.monotonic() - began < 60:
        client.sendall(b" ")
        try:
            answer = client.recv(65536)
        except TimeoutError:
            continue
    client.close()
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_key_revoked_while_its_body_arrives_is_refused(gateway: RunningGateway) -> None:
    made = gateway.admin("POST", "keys", {"role": "app"}).json()
    key, key_id = made["key"], made["id"]
    body = big(100)
    client = opened(gateway, key, body, 20)
    assert httpx.get(gateway.url + "/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert gateway.admin("DELETE", f"keys/{key_id}").status_code < 300
    client.sendall(body[20:])
    answer = client.recv(65536)
    client.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
