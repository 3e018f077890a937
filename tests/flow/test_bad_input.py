"""What no good client sends: every one gets an answer it can read, no engine sees it, nobody else notices."""
# ruff: noqa: E501 (messages and bodies are easier to compare on one line)

import gzip
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway, resident_bytes
from tests.support.patience import PATIENCE_SECONDS
from tests.support.raw_client import CHAT, Raw, chat

DEEP = 100_000


@pytest.fixture(autouse=True)
def nothing_else_happens(gateway: RunningGateway, engine: FakeEngine) -> Iterator[None]:
    """The same worker goes on serving, and no engine has met the bad request."""
    pids, met = gateway.worker_pids(), len(engine.generations)
    yield
    assert len(engine.generations) == met
    with Raw(gateway) as client:
        assert client.ask(CHAT, chat()).status == 200
    assert gateway.worker_pids() == pids


BAD_BODIES = {
    "not JSON": b"hello",
    "empty": b"",
    "only space": b" \r\n\t",
    "cut off": b'{"model": "base", "messages": [',
    "two documents": b'{"model":"base"}{"model":"base"}',
    "trailing comma": b'{"model":"base",}',
    "an array": b"[1]",
    "a string": b'"base"',
    "null": b"null",
    "deep objects": b'{"model":"base","x":' + b'{"x":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep arrays": b'{"model":"base","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects in messages": b'{"model":"base","messages":[{"content":'
    + b'{"x":' * DEEP
    + b"1"
    + b"}" * DEEP
    + b"}]}",
    "deep arrays in messages": b'{"model":"base","messages":[' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "deep in the model": b'{"model":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep in a field that is read": b'{"model":"base","user":' + b'{"x":' * 300 + b"1" + b"}" * 300 + b"}",
    "deep without an end": b'{"model":"base","x":' + b"[" * DEEP,
    "deep and nothing else": b"[" * DEEP,
    "300 deep": b'{"model":"base","x":' + b"[" * 300 + b"]" * 300 + b"}",
    "invalid UTF-8": b'{"model":"base","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "an overlong form": b'{"model":"base","x":"\xc0\xaf"}',
    "a surrogate as UTF-8": b'{"model":"base","x":"\xed\xa0\x80"}',
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "UTF-16 without a BOM": json.dumps(chat()).encode("utf-16-le"),
    "UTF-32": json.dumps(chat()).encode("utf-32"),
    "a NUL byte": b'{"model":"ba\x00se","messages":[]}',
    "a NUL byte behind": json.dumps(chat()).encode() + b"\x00",
    "a control character": b'{"model":"base","x":"\x01"}',
    "two models": b'{"model":"base","model":"base"}',
    "two models, one escaped": b'{"model":"base","\\u006dodel":"base"}',
    "two models, both escaped": b'{"\\u006Dodel":"nobody","m\\u006fdel":"base"}',
    "two models, apart": b'{"model":"base","messages":[{"model":"x"}],"model":"base"}',
    "two models behind one in a string": b'{"x":"\\"model\\"","model":"base","model":"base"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize("target", [CHAT, "/m/base/v1/completions", "/tokenize"])
def test_a_bad_body_is_refused_and_the_connection_goes_on(gateway: RunningGateway, target: str, body: bytes) -> None:
    with Raw(gateway) as client:
        reply = client.ask(target, body)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.json()["error"]["type"] == "invalid_request_error"
        if len(body) < 64 * 1024:
            assert client.ask("/v1/models").status == 200


@pytest.mark.parametrize(
    "value", ["1", "null", "[]", "[1,2]", "{}", "true", '""', "1.5e300", "1" * 30, '["base"]', '{"x":"base"}']
)
def test_a_model_of_the_wrong_type_is_refused(gateway: RunningGateway, value: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, f'{{"messages":[],"model":{value}}}'.encode())
        assert reply.status == 400
        assert reply.code == ("missing_required_parameter" if value in ("null", '""') else "invalid_type")
        assert reply.json()["error"]["param"] == "model"


def test_a_missing_model_is_named(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        for body in ({}, {"messages": [{"model": "base"}]}, {"Model": "base"}, {"model ": "base"}):
            reply = client.ask(CHAT, body)
            assert (reply.status, reply.code) == (400, "missing_required_parameter")


@pytest.mark.parametrize(
    "model",
    [
        "nobody",
        "Base",
        "base ",
        "base\0",
        "\0",
        "base@123456",
        "base@zzzzzz",
        "@",
        "a" * 100_000,
        "😀",
        "%62ase",
        "../base",
    ],
)
def test_an_unknown_model_is_404(gateway: RunningGateway, model: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, chat(model=model))
        assert (reply.status, reply.code) == (404, "model_not_found")
        assert len(reply.body) < 1000


def test_a_model_that_is_half_a_surrogate_pair_is_404(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        assert client.ask(CHAT, b'{"model":"\\ud800"}').status == 404


@pytest.mark.parametrize("name", ["%ff", "%ed%a0%80", "%c0%af"])
def test_a_model_in_the_path_that_is_not_utf8_is_refused(gateway: RunningGateway, name: str) -> None:
    with Raw(gateway) as client:
        assert client.ask(f"/m/{name}/v1/completions", {}).code == "invalid_request"
        assert client.ask(f"/v1/models/{name}").code == "invalid_request"


@pytest.mark.parametrize("name", ["nobody", "%00", "base%20", "a%0d%0ax-evil:%201", "%25", "base%2f..%2fbase"])
def test_an_unknown_model_in_the_path_is_404(gateway: RunningGateway, name: str) -> None:
    with Raw(gateway) as client:
        for reply in (client.ask(f"/m/{name}/v1/completions", {"prompt": "x"}), client.ask(f"/v1/models/{name}")):
            assert (reply.status, reply.code) == (404, "model_not_found")
            assert "x-evil" not in reply.headers


# Framing

BROKEN_HTTP = {
    "two framings": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
    "two framings the other way": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "the same length twice": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "a negative length": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
    "a length that is no number": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 0x2\r\n\r\n{}",
    "a length beyond 64 bits": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n{}",
    "a list of lengths": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 2, 2\r\n\r\n{}",
    "an unknown coding": b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n{}",
    "a chunk size that is no number": b"POST /tokenize HTTP/1.1\r\nhost: x\r\nauthorization: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a NUL byte in a header": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
    "a NUL byte in a header's name": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx\x00: a\r\n\r\n",
    "a NUL byte in the path": b"GET /v1/mod\x00els HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space in a header's name": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx y: 1\r\n\r\n",
    "a header without a colon": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nhello\r\n\r\n",
    "a folded header": b"GET /v1/models HTTP/1.1\r\nhost: x\r\ntraceparent: a\r\n evil: 1\r\n\r\n",
    "a bare CR": b"GET /v1/models HTTP/1.1\r\nhost: x\r\ntraceparent: a\revil: 1\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "another protocol": b"GET /v1/models FTP/1.0\r\n\r\n",
    "an unknown method": b"BREW /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "garbage": bytes(range(256)) * 20,
    "zeros": bytes(100_000),
    "spaces": b" " * 100_000,
    "one long line": b"G" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN_HTTP.values(), ids=BROKEN_HTTP)
def test_broken_http_is_told_so_and_the_connection_is_closed(gateway: RunningGateway, data: bytes) -> None:
    with Raw(gateway) as client:
        client.send(data)
        reply = client.reply()
        if reply.status != 401:  # the head was fine, what followed was not
            assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"
        assert client.is_closed_by_gateway()


def test_a_body_cut_short_by_close_harms_nobody(gateway: RunningGateway) -> None:
    for how in ("close", "half"):
        with Raw(gateway) as client:
            client.send(client.request(CHAT, b'{"model":', length=100))
            if how == "half":
                client.finish_sending()
                assert client.is_closed_by_gateway()


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_is_ignored_and_the_request_answered(gateway: RunningGateway, upgrade: str) -> None:
    with Raw(gateway) as client:
        more: dict[str, Any] = {
            "upgrade": upgrade,
            "connection": "Upgrade, HTTP2-Settings",
            "http2_settings": "AAMAAABk",
        }
        assert client.ask("/v1/models", **more).status == 200
        for _ in range(2):
            assert client.ask(CHAT, chat(model="nobody"), **more).code == "model_not_found"
            chunked = b'2\r\n{"\r\n8\r\nmodel":1\r\n1\r\n}\r\n0\r\n\r\n'
            assert client.ask(CHAT, chunked, transfer_encoding="chunked", **more).code == "invalid_type"
        client.send((client.request("/v1/models", **more) + client.request(CHAT, b"[]", **more)) * 200)
        assert [client.reply().status for _ in range(400)] == [200, 400] * 200
        for byte in client.request(CHAT, b"[]", **more) + client.request("/v1/models"):
            client.send(bytes((byte,)))
        assert [client.reply().status for _ in range(2)] == [400, 200]


def test_connect_is_no_way_through(gateway: RunningGateway, engine: FakeEngine) -> None:
    with Raw(gateway) as client:
        assert client.ask(f"127.0.0.1:{engine.port}", method="CONNECT").status == 404


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity", "GZIP"])
def test_a_compressed_body_is_not_taken(gateway: RunningGateway, encoding: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(CHAT, gzip.compress(json.dumps(chat()).encode()), content_encoding=encoding)
        assert (reply.status, reply.code) == (415, "unsupported_encoding")
        assert client.ask("/v1/models", content_encoding="Identity").status == 200


# Paths

NOT_SERVED = [
    "/",
    "*",
    "/v1",
    "/v1/",
    "/invocations",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/metrics",
    "/health",
    "/version",
    "/ping",
    "/pooling",
    "/score",
    "/rerank",
    "/classify",
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/server_info",
    "/docs",
    "/openapi.json",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/admin/v1/status",
    "/fake/knobs",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/../invocations",
    "/v1/./chat/completions",
    "/v1/%2e%2e/invocations",
    "/%76%31/models",
    "/V1/chat/completions",
    "/v1/chat/completions%00",
    "/v1/chat/completions;x=1",
    "/v1/chat%2fcompletions",
    "/v1/chat/completions#x",
    "http://engine/invocations",
    "/m//v1/chat/completions",
    "/m/base",
    "/m/base/",
    "/m/base/invocations",
    "/m/base/v1/load_lora_adapter",
    "/m/base/../invocations",
    "/m/base/healthz",
    "/m/../invocations",
    "/m/base//v1/chat/completions",
    "/m/base/m/base/v1/chat/completions",
    "/v1/models/base/x",
]


@pytest.mark.parametrize("target", NOT_SERVED)
def test_an_unknown_path_is_404_and_reaches_no_engine(gateway: RunningGateway, engine: FakeEngine, target: str) -> None:
    seen = len(engine.requests)
    with Raw(gateway) as client:
        for method, body in (("POST", chat()), ("GET", None)):
            if target.startswith("/v1/models/") and method == "POST":
                continue
            reply = client.ask(target, body, method=method)
            assert (reply.status, reply.code) == (404, "model_not_found" if "/v1/models/" in target else "unknown_path")
    others = ("/health", "/v1/models")  # the gateway's own questions
    assert not [one.target for one in engine.requests[seen:] if one.target not in others]


def test_a_query_does_not_hide_a_path(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        assert client.ask("/invocations?x=/v1/chat/completions", chat()).status == 404
        assert client.ask("/v1/models?limit=1").status == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "target", [CHAT, "/v1/models", "/v1/models/base", "/m/base/v1/completions", "/healthz", "/tokenizer_info"]
)
def test_another_method_is_405(gateway: RunningGateway, method: str, target: str) -> None:
    with Raw(gateway) as client:
        reply = client.ask(target, method=method)
        if method == "HEAD" and target in ("/v1/models", "/v1/models/base", "/healthz"):
            assert (reply.status, reply.body) == (200, b"")  # as a GET, without the body
            return
        assert reply.status == 405
        if method != "HEAD":
            assert reply.code == "method_not_allowed"
        assert client.ask("/v1/models").status == 200


def test_get_and_post_are_not_each_others(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        assert client.ask(CHAT).status == 405
        reply = client.ask("/v1/models", {})
        assert (reply.status, reply.headers["allow"]) == (405, "GET")
        assert client.ask("/healthz", {}).status == 405


def test_every_path_asks_for_a_key_except_health(gateway: RunningGateway) -> None:
    from gateway.openai.endpoints import ENDPOINTS, ONE_MODEL

    with Raw(gateway, key="") as client:
        for endpoint in [*ENDPOINTS.values(), ONE_MODEL]:
            path = endpoint.path.decode()
            body = {"model": "base"} if endpoint.method == b"POST" else None
            if path == "/healthz":
                assert client.ask(path).status == 200
                continue
            for target in (path, f"/m/base{path}" if endpoint is not ONE_MODEL else path + "base"):
                reply = client.ask(target, body)
                assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (
                    401,
                    "invalid_api_key",
                    "Bearer",
                )


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Basic eDp5", "x", "Bearer \xff\xfe", "bearer\tx"])
def test_a_bad_credential_is_401(gateway: RunningGateway, header: str) -> None:
    with Raw(gateway, key="") as client:
        head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: {header}\r\n\r\n"
        client.send(head.encode("latin-1"))
        assert client.reply().status == 401


def test_a_request_id_that_is_harmful_is_replaced(gateway: RunningGateway) -> None:
    with Raw(gateway) as client:
        for given in ("a b", "x" * 129, "é", "<script>", ""):
            assert client.ask("/v1/models", x_request_id=given).headers["x-request-id"].startswith("req-")
        assert client.ask("/nowhere", x_request_id="mine-1.2:3").headers["x-request-id"] == "mine-1.2:3"


SLOW = 10_000


@pytest.mark.simulation
def test_ten_thousand_slow_connections_keep_nobody_from_being_served() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < SLOW + 1000:
        pytest.skip(f"at most {most} open files are allowed here")
    patient = {"LORAGATE_LIMITS__HEADER_SECONDS": "600", "LORAGATE_LIMITS__MAX_CONNECTIONS": "12000"}
    with FakeEngine() as engine, RunningGateway(engine.url, environment=patient) as patient_gateway:
        pid = patient_gateway.worker_pids()[0]
        before = resident_bytes(pid)
        port = patient_gateway.url.rpartition(":")[2]
        with subprocess.Popen(
            [sys.executable, "-c", _SLOW_CLIENTS, port, str(SLOW)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            assert select.select([crowd.stdout], [], [], PATIENCE_SECONDS)[0]
            assert crowd.stdout.readline() == b"connected\n"
            grown = resident_bytes(pid) - before
            times: list[float] = []
            for _ in range(200):
                began = time.monotonic()
                with Raw(patient_gateway) as client:
                    assert client.ask(CHAT, chat()).status == 200
                times.append(time.monotonic() - began)
            crowd.stdin.close()
        times.sort()
        print(
            f"\n{SLOW:,} slow connections: {grown / SLOW:,.0f} bytes each; others p50 {times[100] * 1e3:.1f} ms, max {times[-1] * 1e3:.1f} ms"
        )
        assert os.path.exists(f"/proc/{pid}")


_SLOW_CLIENTS = """
import resource, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
crowd = []
for number in range(int(sys.argv[2])):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    client.send(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\nx-slow: ")
    crowd.append(client)
print("connected", flush=True)
sys.stdin.read()
"""
