"""Bodies made to cost much: a worker's time and memory stay bounded, and one refusal is one."""

import resource
import time

import httpx
import pytest

from gateway.errors import BadRequest
from gateway.openai.body import LargeFields, read, rewrite_model, takes_steps
from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.raw_client import Raw


def test_a_body_of_many_members_is_not_scanned_again_for_each() -> None:
    def seconds(members: int) -> float:
        body = '{"model":"base","a":"model","e":"é",' + ",".join(f'"k{n}":1' for n in range(members)) + "}"
        raw = body.encode()
        began = time.process_time()
        assert rewrite_model(raw, read(raw), b'"x"').startswith(b'{"model":"x",')
        return time.process_time() - began

    small, large = min(seconds(50) for _ in range(3)), min(seconds(1_000) for _ in range(3))
    assert large < 200 * small, "20 times the members took over 200 times the time: quadratic"


def test_an_unfinished_string_of_escaped_quotes_is_looked_at_once() -> None:
    def seconds(quotes: int) -> float:
        raw = b'{"model":"x","a":[' + b"[]," * 250 + b'"' + b'\\"' * quotes
        began = time.process_time()
        with pytest.raises(BadRequest):
            read(raw)
        return time.process_time() - began

    small, large = min(seconds(1_000) for _ in range(3)), min(seconds(20_000) for _ in range(3))
    assert large < 200 * small, "20 times the quotes took over 200 times the time: quadratic"


def test_a_long_string_beside_many_brackets_costs_no_memory_of_its_own() -> None:
    raw = b'{"model":"x","tools":[' + b",".join([b"{}"] * 300) + b'],"image":"' + b"A" * 8_000_000 + b'"}'
    read(raw)  # whatever is loaded on the way
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(raw).model == "x"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_body_with_thousands_of_pictures_is_read_in_steps_whatever_its_size() -> None:
    part = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}'
    for pictures, in_steps in ((10, False), (2_500, True)):
        body = b'{"model":"x","messages":[{"role":"user","content":[%b]}]}' % b",".join([part] * pictures)
        assert takes_steps(body) is in_steps
        assert isinstance(read(body), LargeFields) is in_steps


def test_a_refused_request_followed_by_garbage_is_refused_once(gateway: RunningGateway) -> None:
    before = gateway.metrics().get('loragate_errors_total{alias="",code="invalid_api_key",version=""}', 0)
    with Raw(gateway) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n")
        head = client.head()
        assert b"401" in (head if isinstance(head, bytes) else str(head).encode())
    assert "Traceback" not in gateway.log_path.read_text()
    after = gateway.metrics()
    assert after['loragate_errors_total{alias="",code="invalid_api_key",version=""}'] == before + 1


def test_before_an_engine_was_ever_up_a_request_gets_503_and_not_404() -> None:
    with RunningGateway("http://127.0.0.1:9") as gateway:
        reply = httpx.post(gateway.url + "/v1/chat/completions", json={"model": "base"}, headers=gateway.headers)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "5"


def test_continuous_usage_alone_means_nothing_and_usage_is_asked_for_all_the_same(
    gateway: RunningGateway, engine: FakeEngine
) -> None:
    options = {"continuous_usage_stats": True}
    body = {"model": "base", "stream": True, "stream_options": options, "messages": [{"role": "user", "content": "x"}]}
    httpx.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers)
    told = b'"stream_options":{"include_usage":true,"continuous_usage_stats":false}'
    assert told in engine.generations[-1].body.replace(b" ", b"")
