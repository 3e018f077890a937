"""A request through the gateway: the right engine name, the right headers, the same bytes."""

import httpx

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway


def test_a_chat_reply_is_the_engines_own(gateway: RunningGateway, engine: FakeEngine) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
    through = httpx.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers)
    direct = httpx.post(engine.url + "/v1/chat/completions", json=body)
    assert through.status_code == 200
    assert through.content == direct.content
    assert through.headers["x-loragate-version"] == "base"
