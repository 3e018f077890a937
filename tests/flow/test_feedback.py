"""`POST /v1/feedback`: taken from who has asked, attached to what has answered, by any worker and any gateway."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.mirror.feedback_service import FeedbackService
from gateway.records.feedback import About, Feedback, RequestKey
from gateway.store.feedback import Feedbacks
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import until

CHAT = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway of two workers, with an alias, and no evaluator."""
    environment = {"LORAGATE_EVALUATOR__ENABLED": "false", "LORAGATE_WORKERS": "2"}
    with RunningGateway(engine.url, environment=environment) as gateway:
        folder = adapter_folder(tmp_path_factory.mktemp("adapters"), 9)
        added = gateway.admin("POST", "adapters", {"source": str(folder), "name": "support"})
        assert added.status_code == 201, added.text
        yield gateway


def call(gateway: RunningGateway, path: str, body: Any, key: str = "", **headers: str) -> httpx.Response:
    """Ask on a connection of its own, so that either worker takes it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {key or gateway.key}", "connection": "close", **headers}
    return httpx.post(gateway.url + path, content=content, headers=sent)


def given(gateway: RunningGateway, request_id: str, **fields: Any) -> httpx.Response:
    return call(gateway, "/v1/feedback", {"request_id": request_id, **fields})


def kept(gateway: RunningGateway) -> dict[str, Feedback]:
    """What the store has, by request."""
    with closing(sqlite3.connect(f"file:{gateway.state / 'state.db'}?mode=ro", uri=True)) as store:
        records = [msgspec.json.decode(text, type=Feedback) for (text,) in store.execute("SELECT record FROM feedback")]
    return {each.request_id: each for each in records}


def test_feedback_is_attached_to_what_answered_whichever_worker_takes_it(gateway: RunningGateway) -> None:
    ids = []
    for number in range(8):
        reply = call(gateway, "/v1/chat/completions", CHAT)
        ids.append(reply.headers["x-request-id"])
        taken = given(gateway, ids[-1], thumb="down" if number % 2 else "up")
        assert taken.status_code == 202
        assert taken.json() == {"id": taken.json()["id"], "object": "feedback", "request_id": ids[-1]}
        version = reply.headers["x-loragate-version"]
    until(lambda: set(ids) <= set(kept(gateway)))
    found = [kept(gateway)[each] for each in ids]
    assert {(each.about.alias, each.about.version, each.about.arm) for each in found if each.about} == {
        ("support", version, "control")
    }
    assert [each.is_bad for each in found] == [False, True] * 4
    until(lambda: gateway.metrics().get('loragate_feedback_total{outcome="attached"}', 0) >= 8)


def test_a_later_word_takes_the_place_of_the_former(gateway: RunningGateway) -> None:
    request_id = call(gateway, "/v1/chat/completions", CHAT).headers["x-request-id"]
    first = given(gateway, request_id, thumb="up", comment="good")
    until(lambda: request_id in kept(gateway))
    second = given(gateway, request_id, score=0.1, comment="no, it is wrong")
    assert first.json()["id"] == second.json()["id"]
    until(lambda: kept(gateway)[request_id].score == 0.1)
    assert (kept(gateway)[request_id].thumb, kept(gateway)[request_id].comment) == (None, "no, it is wrong")


def test_another_keys_feedback_is_answered_alike_and_dropped(gateway: RunningGateway) -> None:
    other = gateway.create_key("app")
    reply = call(gateway, "/v1/chat/completions", CHAT)
    request_id = reply.headers["x-request-id"]
    stranger = call(gateway, "/v1/feedback", {"request_id": request_id, "thumb": "down"}, key=other)
    unknown = call(gateway, "/v1/feedback", {"request_id": "req-of-nobody", "thumb": "down"}, key=other)
    assert (stranger.status_code, unknown.status_code) == (202, 202)
    assert set(stranger.json()) == set(unknown.json())
    until(lambda: gateway.metrics().get('loragate_feedback_total{outcome="not_yours"}') == 1)
    until(lambda: gateway.metrics().get('loragate_feedback_total{outcome="unknown_request"}') == 1)
    assert request_id not in kept(gateway)
    assert kept(gateway)["req-of-nobody"].about is None


def test_who_sends_anothers_request_id_does_not_take_over_its_feedback(gateway: RunningGateway) -> None:
    other = gateway.create_key("app")
    call(gateway, "/v1/chat/completions", CHAT, **{"x-request-id": "order-4711"})
    for _ in range(4):  # so that each worker has seen it last from the other account
        call(gateway, "/v1/chat/completions", CHAT, key=other, **{"x-request-id": "order-4711"})
    given(gateway, "order-4711", thumb="down")
    until(lambda: "order-4711" in kept(gateway))
    found = kept(gateway)["order-4711"]
    assert found.about is not None
    assert found.about.account == found.account


def test_an_id_that_looks_like_ours_is_not_taken_from_a_client(gateway: RunningGateway) -> None:
    mine = call(gateway, "/v1/chat/completions", CHAT).headers["x-request-id"]
    other = gateway.create_key("app")
    theirs = call(gateway, "/v1/chat/completions", CHAT, key=other, **{"x-request-id": mine}).headers["x-request-id"]
    assert theirs != mine


def test_beyond_its_share_an_accounts_feedback_is_refused_for_a_while(engine: FakeEngine) -> None:
    environment = {"LORAGATE_MIRROR__FEEDBACK_PER_MINUTE": "5", "LORAGATE_EVALUATOR__ENABLED": "false"}
    with RunningGateway(engine.url, environment=environment) as small:
        replies = [given(small, "nobodys", thumb="up") for _ in range(7)]
        assert [each.status_code for each in replies[:5]] == [202] * 5
        assert replies[-1].status_code == 429
        assert int(replies[-1].headers["retry-after"]) >= 1
        assert "feedback" in replies[-1].json()["error"]["message"]
        other = small.create_key("app")
        until(lambda: call(small, "/v1/feedback", {}, key=other).status_code != 401)
        assert call(small, "/v1/feedback", {"request_id": "x", "thumb": "up"}, key=other).status_code == 202


@pytest.mark.parametrize(("policy", "comment"), [({"share": 0}, "words"), ({"share": 0, "capture": "off"}, "")])
def test_a_comment_follows_the_routes_capture(gateway: RunningGateway, policy: dict[str, Any], comment: str) -> None:
    control = gateway.admin("GET", "routes/support").json()["control"]
    routes = {"routes": [{"alias": "support", "control": control, "mirror": policy}]}
    assert gateway.admin("PUT", "routes", routes).status_code == 200
    request_id = call(gateway, "/v1/chat/completions", CHAT).headers["x-request-id"]
    given(gateway, request_id, label="tone", comment="words")
    until(lambda: request_id in kept(gateway))
    assert (kept(gateway)[request_id].label, kept(gateway)[request_id].comment) == ("tone", comment)


def test_mistakes_are_told_in_openais_shape_and_the_connection_goes_on(gateway: RunningGateway) -> None:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers) as client:
        wrong = client.post("/v1/feedback", json={"request_id": "r", "score": 2})
        assert wrong.status_code == 400
        assert wrong.json()["error"] == {
            "message": "`score` is `2`; it must be a number from 0 (bad) to 1 (good).",
            "type": "invalid_request_error",
            "param": "score",
            "code": "invalid_request",
        }
        missing = client.post("/v1/feedback", json={"score": 1}).json()["error"]
        assert (missing["param"], missing["code"]) == ("request_id", "missing_required_parameter")
        assert client.post("/v1/feedback", content=b"x" * 100_000).status_code == 413
        assert client.get("/v1/feedback").status_code == 405
        assert client.post("/m/support/v1/feedback", json={"request_id": "r", "score": 1}).status_code == 202
        assert client.post("/v1/feedback", json={"request_id": "r", "score": 1}).status_code == 202
    assert call(gateway, "/v1/feedback", {"request_id": "r", "score": 1}, key="lg-wrong").status_code == 401


def test_feedback_counts_to_the_keys_limit_of_requests(gateway: RunningGateway) -> None:
    key = gateway.create_key("app", "--rpm", "2")
    until(lambda: call(gateway, "/v1/feedback", {}, key=key).status_code != 401)
    statuses = [call(gateway, "/v1/feedback", {"request_id": "r", "score": 1}, key=key).status_code for _ in range(8)]
    assert 429 in statuses
    replies: list[httpx.Response] = []

    def is_refused() -> bool:  # by either worker, once both know of the other's
        replies.append(call(gateway, "/v1/feedback", {"request_id": "r", "score": 1}, key=key))
        return replies[-1].status_code == 429

    until(is_refused)
    refused = replies[-1]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_gateway_resolves_what_another_one_took(tmp_path: Path) -> None:
    """Two desks on one store, as two gateways have them."""
    store = open_store(tmp_path, now=lambda: 1000.0)
    about = About(alias="support", version="support@1", arm="candidate", rollout="r1", stage=2, account="me")

    def desk(known: dict[RequestKey, About]) -> FeedbackService:
        async def recall(_asked: Sequence[RequestKey]) -> dict[RequestKey, About]:
            return known

        return FeedbackService(Feedbacks(store), recall, dict, 60.0, lambda: 1000.0)

    async def run() -> None:
        here, there = desk({}), desk({("1", "me"): about, ("req-2", "me"): about})
        words = [("1", "me", "down"), ("req-2", "another", "down"), ("3", "me", "up")]
        await here._attach(
            [Feedback(request_id=each, account=whose, thumb=thumb, at=990.0) for each, whose, thumb in words]  # type: ignore[arg-type]
        )
        await there._look()

    try:
        asyncio.run(run())
        feedbacks = Feedbacks(store)
        assert feedbacks.counts("r1", 2) == {"candidate": (1, 1)}
        assert [each.request_id for each in feedbacks.read_unresolved()] == ["3"]
        assert feedbacks.get("req-2", "another") is None
    finally:
        store.close()
