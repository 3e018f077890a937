"""Engines behind a key, TLS and a path: everything that asks them has what opens them, and nobody sees it."""

import asyncio
import ssl
import time
from pathlib import Path

import httpx
import pytest

from gateway.engine_address import Access
from gateway.evaluate.engines import EngineBounds, EvaluatorEngines
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.certificates import self_signed
from tests.support.gateways import RunningGateway

KEY = "sk-engine-geheim-0123456789"
OTHER = "sk-other-geheim-0123456789"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def test_an_engine_behind_a_key_tls_and_a_path_serves_and_nobody_sees_its_key(
    pair: tuple[Path, ssl.SSLContext], tmp_path: Path
) -> None:
    certificate, context = pair
    config = tmp_path / "loragate.yaml"
    with FakeEngine(key=KEY, prefix="/vllm/a", tls=context) as far, FakeEngine(key=OTHER) as near:
        url = far.url.replace("127.0.0.1", "localhost")
        config.write_text(f"engine_keys: {{{near.url}/: OTHER_KEY}}")
        options = ("-c", str(config), "--engine-key-env", "ENGINE_KEY", "--engine-ca", str(certificate))
        environment = {"ENGINE_KEY": KEY, "OTHER_KEY": OTHER}
        with RunningGateway(url, near.url, options=options, environment=environment) as gateway:
            gateway.wait_for_engine()
            source = str(write_adapter(tmp_path / "1", 1))
            added = gateway.admin("POST", "adapters", {"source": source, "name": "support"})
            assert added.status_code == 201, added.text
            with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=30) as client:
                for number in range(20):
                    for model in ("base", "support"):
                        body = {"model": model, "prompt": f"{number}", "max_tokens": 8, "stream": number % 2 == 0}
                        reply = client.post("/v1/completions", json=body)
                        assert reply.status_code == 200, reply.text
                        assert reply.text.endswith("data: [DONE]\n\n") or reply.json()["usage"]
                large = {"model": "base", "prompt": "x" * 2_000_000, "max_tokens": 1}
                assert client.post("/v1/completions", json=large).status_code == 200
            for engine, key in ((far, KEY), (near, OTHER)):
                assert engine.generations
                ours = [each for each in engine.requests if each.header("user-agent") is None]  # not the test's own
                keyless = [each.target for each in ours if each.header("authorization") != f"Bearer {key}"]
                assert keyless == []
            told = gateway.cli("status") + str(gateway.status()) + httpx.get(gateway.control_url + "/metrics").text
            told += gateway.log_path.read_text()
            kept = b"".join(path.read_bytes() for path in gateway.state.rglob("*") if path.is_file())
            assert "geheim" not in told
            assert b"geheim" not in kept


def test_what_keeps_an_engine_from_being_reached_is_told(pair: tuple[Path, ssl.SSLContext]) -> None:
    with FakeEngine(key=KEY) as keyed, FakeEngine(tls=pair[1]) as secure, FakeEngine() as plain:
        urls = (keyed.url, secure.url, plain.url.replace("http:", "https:"), plain.url + "/elsewhere", plain.url)
        with RunningGateway(*urls, environment={"LORAGATE_ENGINE_KEY_ENV": "K", "K": "sk-wrong"}) as gateway:
            gateway.wait_until(lambda status: all(each["problem"] for each in status["engines"][:3]), seconds=60)
            engines = gateway.status()["engines"]
            assert engines[0]["problem"] == "unauthorized"
            assert "engine_key_env" in engines[0]["reason"]
            assert "certificate is not trusted" in engines[1]["reason"]
            assert "TLS" in engines[2]["reason"]
            assert engines[4]["up"]


def test_an_evaluator_opens_engines_as_the_gateway_does(pair: tuple[Path, ssl.SSLContext]) -> None:
    certificate, context = pair

    async def main() -> None:
        with FakeEngine(key=KEY, prefix="/a", tls=context) as right, FakeEngine("other", key=KEY) as wrong:
            urls = (right.url.replace("127.0.0.1", "localhost"), wrong.url)
            engines = EvaluatorEngines(
                urls, EngineBounds(), time.monotonic, base_name="base", access=lambda _: Access(KEY, str(certificate))
            )
            try:
                found, why = await engines.find("base")
                assert found is not None, why
                assert found.url == urls[0]
                assert await engines.find("other") == (None, "no_engine")  # another base: it is not asked
                reply = await found.ask("/v1/completions", {"model": "base", "prompt": "a"}, seconds=5, most_bytes=9999)
                assert reply.status == 200
            finally:
                await engines.close()

    asyncio.run(main())
