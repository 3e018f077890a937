"""Streams that wait or are silent: their clients are sent comments, so that no balancer cuts them."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.raw_client import CHAT, Raw, Reply, chat

COMMENT = b": keep-alive\n\n"
HELLO: Any = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    "/v1/completions": {"prompt": "once"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 16},
}
ENDS = {
    CHAT: b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b"response.completed",
    "/v1/messages": b"message_stop",
}


def limits(**seconds: float) -> dict[str, str]:
    """One request at once on each engine; heads go out early and comments come soon."""
    values = {"engine_concurrency": 1, "queue_seconds": 2 * PATIENCE_SECONDS, "load_seconds": 2 * PATIENCE_SECONDS}
    values |= {"early_head_seconds": 0.5, "comment_seconds": 0.5, **seconds}
    return {f"LORAGATE_LIMITS__{name.upper()}": str(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def patient(engine: FakeEngine) -> Iterator[RunningGateway]:
    """A gateway whose requests wait for as long as a test takes."""
    with RunningGateway(engine.url, environment=limits()) as gateway:
        yield gateway


@contextmanager
def busy(gateway: RunningGateway, engine: FakeEngine) -> Iterator[None]:
    """Keep the engine's one place taken until it is released, at the latest at the end."""
    with Raw(gateway) as client:
        client.send(client.request(CHAT, chat(fake={"held": True})))
        assert engine.wait_for(lambda engine: engine.held == 1)
        try:
            yield
        finally:
            engine.release()
        assert client.reply().status == 200


def asked(gateway: RunningGateway, path: str, stack: ExitStack, **more: Any) -> Raw:
    """A client that has asked for a stream."""
    client = stack.enter_context(Raw(gateway))
    client.send(client.request(path, {"model": "base", "stream": True, **BODIES[path], **more}))
    return client


def two_comments(client: Raw) -> tuple[Reply, Iterator[bytes]]:
    """Read a head and two comments, and return what can be read on."""
    head = client.head()
    chunks = client.chunks(head)
    assert [next(chunks), next(chunks)] == [COMMENT, COMMENT]
    return head, chunks


def without_comments(chunks: Iterator[bytes]) -> bytes:
    return b"".join(chunks).replace(COMMENT, b"")


def test_streams_in_line_get_their_head_and_comments_and_then_their_reply(
    patient: RunningGateway, engine: FakeEngine
) -> None:
    before = patient.metrics()["loragate_early_heads_total"]
    with ExitStack() as stack:
        with busy(patient, engine):
            clients = {path: asked(patient, path, stack) for path in BODIES}
            begun = {path: two_comments(client) for path, client in clients.items()}
            assert engine.running == 1, "none of them has an engine"
        for path, (head, chunks) in begun.items():
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert head.headers["x-request-id"]
            assert "x-loragate-version" not in head.headers, "nobody could know"
            body = without_comments(chunks)
            assert ENDS[path] in body
            assert (head.is_whole, b"event: error" in body, b'{"error"' in body) == (True, False, False)
        # The connection goes on after it.
        reply = clients[CHAT].ask(CHAT, chat(stream=True))
        assert (reply.status, reply.headers["x-loragate-version"]) == (200, "base")
    assert patient.metrics()["loragate_early_heads_total"] == before + len(BODIES)


def test_a_stream_that_waits_for_a_load_gets_its_head_and_comments(tmp_path: Path) -> None:
    with FakeEngine() as engine, RunningGateway(engine.url, environment=limits()) as gateway, ExitStack() as stack:
        gateway.cli("adapters", "add", str(write_adapter(tmp_path / "support")), "--name", "support")
        engine.core.adapters.clear()  # as one that has been restarted
        engine.set(held_loads=True)
        client = asked(gateway, CHAT, stack, model="support")
        _, chunks = two_comments(client)
        engine.set(held_loads=False)
        engine.release()
        assert without_comments(chunks).endswith(ENDS[CHAT])


def test_a_stream_whose_engine_sends_no_head_gets_one_and_an_engines_error_is_told_in_it(
    patient: RunningGateway, engine: FakeEngine
) -> None:
    for path in BODIES:
        with ExitStack() as stack:
            client = asked(patient, path, stack, fake={"held": True, "status": 400})
            head, chunks = two_comments(client)
            engine.release()
            body = without_comments(chunks)
            assert (head.status, head.is_whole) == (200, True)
            assert b"fake engine was told to fail" in body
            check_error(path, body)
            assert client.ask(CHAT, chat()).status == 200, "the connection goes on"


def check_error(path: str, body: bytes) -> None:
    """One error event in the way of the endpoint, and the stream's end."""
    if path in (CHAT, "/v1/completions"):
        event, done = body.split(b"\n\n")[:2]
        assert set(json.loads(event.removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}
        assert done == b"data: [DONE]"
        return
    name, data = body.rstrip().split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert (name, told["type"]) == (b"event: error", "error")
    assert told["message"] if path == "/v1/responses" else told["error"]["message"]


def test_after_its_head_a_stream_that_nobody_serves_any_more_is_told_so_in_band() -> None:
    with FakeEngine() as engine, RunningGateway(engine.url, environment=limits()) as gateway, ExitStack() as stack:
        asked(gateway, CHAT, stack, fake={"held": True})
        assert engine.wait_for(lambda engine: engine.held == 1)
        clients = {path: asked(gateway, path, stack) for path in BODIES}
        begun = {path: two_comments(client) for path, client in clients.items()}
        engine.kill()
        for path, (head, chunks) in begun.items():
            check_error(path, without_comments(chunks))
            assert head.is_whole


def test_a_key_that_is_revoked_while_its_requests_wait_in_line_is_not_served(
    patient: RunningGateway, engine: FakeEngine
) -> None:
    made = patient.admin("POST", "keys", {"role": "app"}).json()
    with ExitStack() as stack:
        plain, begun = (stack.enter_context(Raw(patient, key=made["key"])) for _ in range(2))
        other = stack.enter_context(Raw(patient))
        with busy(patient, engine):
            begun.send(begun.request(CHAT, chat(stream=True)))
            _, chunks = two_comments(begun)
            plain.send(plain.request(CHAT, chat()))
            until(lambda: patient.metrics()["loragate_requests_queued"] == 2)
            other.send(other.request(CHAT, chat()))
            asked_before = len(engine.generations)
            assert patient.admin("DELETE", f"keys/{made['id']}").status_code == 200
        refused = plain.reply()
        assert (refused.status, refused.code) == (401, "invalid_api_key")
        assert b'"code":"invalid_api_key"' in without_comments(chunks)
        assert other.reply().status == 200, "the place that they did not take is another's"
        assert len(engine.generations) == asked_before + 1


def test_with_the_usual_settings_a_refusal_in_line_is_a_503_and_no_stream(engine: FakeEngine) -> None:
    usual = limits(queue_seconds=2)
    for name in ("EARLY_HEAD", "COMMENT"):
        del usual[f"LORAGATE_LIMITS__{name}_SECONDS"]
    with RunningGateway(engine.url, environment=usual) as gateway, ExitStack() as stack, busy(gateway, engine):
        reply = asked(gateway, CHAT, stack).reply()
        assert (reply.status, reply.code) == (503, "overloaded")


def test_only_a_stream_over_http_1_1_gets_an_early_head(patient: RunningGateway, engine: FakeEngine) -> None:
    before = patient.metrics()["loragate_early_heads_total"]
    with ExitStack() as stack:
        with busy(patient, engine):
            whole, old, streamed = (stack.enter_context(Raw(patient)) for _ in range(3))
            whole.send(whole.request(CHAT, chat()))
            old.send(old.request(CHAT, chat(stream=True), version="1.0"))
            streamed.send(streamed.request(CHAT, chat(stream=True)))
            two_comments(streamed)  # by then the others have waited for as long
        assert "content-length" in whole.reply().headers
        reply = old.reply()
        assert (reply.headers["x-loragate-version"], reply.body.endswith(ENDS[CHAT])) == ("base", True)
        assert not reply.body.startswith(COMMENT)
    assert patient.metrics()["loragate_early_heads_total"] == before + 1


def test_after_an_early_head_an_engine_that_drops_requests_costs_the_stream_nothing() -> None:
    with (
        FakeEngine() as a,
        FakeEngine() as b,
        RunningGateway(a.url, b.url, environment=limits()) as gateway,
        ExitStack() as stack,
    ):
        gateway.wait_for_engine()
        for number in range(2):
            asked(gateway, CHAT, stack, user=f"u{number}", fake={"held": True})
            until(lambda: a.held + b.held == number + 1)  # noqa: B023
        assert (a.held, b.held) == (1, 1)
        client = asked(gateway, CHAT, stack)
        _, chunks = two_comments(client)
        a.set(drop=True)
        a.release()
        until(lambda: a.running == 0, "the first engine is done with what it had")
        b.release()
        body = without_comments(chunks)
        assert (body.endswith(ENDS[CHAT]), b'"error"' in body) == (True, False)


def test_a_stream_whose_engine_falls_silent_gets_comments_between_its_events(
    engine: FakeEngine,
) -> None:
    with RunningGateway(engine.url, environment=limits() | TOGETHER) as gateway, ExitStack() as stack:
        clients = {path: asked(gateway, path, stack, fake={"events": 9, "hang_after": 4}) for path in BODIES}
        for path, client in clients.items():
            head = client.head()
            assert head.headers["x-loragate-version"] == "base"
            came = b""
            for chunk in client.chunks(head):
                came += chunk
                if came.count(COMMENT) == 2:
                    break
            events = came.replace(COMMENT, b"").split(b"\n\n")
            assert events.pop() == b"", path
            assert events, path
            assert all(event.startswith((b"data: ", b"event: ")) for event in events), "none is cut in two"


def test_comments_put_off_no_time_out(engine: FakeEngine) -> None:
    hasty = limits(idle_seconds=2, first_byte_seconds=2) | TOGETHER
    with RunningGateway(engine.url, environment=hasty) as gateway, ExitStack() as stack:
        for path in BODIES:
            reply = asked(gateway, path, stack, fake={"events": 9, "hang_after": 4}).reply()
            assert re.search(rb"The engine sent nothing (more )?for 2 s\.", reply.body)


TOGETHER = {"LORAGATE_LIMITS__ENGINE_CONCURRENCY": "0"}


def test_settings_of_0_leave_silent_streams_alone(engine: FakeEngine) -> None:
    quiet = {**limits(idle_seconds=2, early_head_seconds=0, comment_seconds=0), **TOGETHER}
    with RunningGateway(engine.url, environment=quiet) as gateway, ExitStack() as stack:
        reply = asked(gateway, CHAT, stack, fake={"events": 9, "hang_after": 2}).reply()
        assert b"The engine sent nothing more for 2 s." in reply.body
        assert COMMENT not in reply.body


def test_the_official_clients_read_streams_that_waited_and_meet_their_errors(
    patient: RunningGateway, engine: FakeEngine
) -> None:
    ours = openai.OpenAI(base_url=patient.url + "/v1", api_key=patient.key, max_retries=0)
    theirs = anthropic.Anthropic(base_url=patient.url, api_key=patient.key, max_retries=0)

    def chat_text(**more: Any) -> str:
        chunks = ours.chat.completions.create(model="base", messages=HELLO, stream=True, extra_body=more)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def responses_text(**more: Any) -> str:
        events: Any = ours.responses.create(model="base", input="hello", stream=True, extra_body=more)
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")

    def messages_text(**more: Any) -> str:
        with theirs.messages.stream(model="base", max_tokens=50, messages=HELLO, extra_body=more) as stream:
            return "".join(stream.text_stream)

    texts = (chat_text, responses_text, messages_text)
    with ours, theirs:
        at_once = [text() for text in texts]
        before = patient.metrics()["loragate_early_heads_total"]
        late = [""] * len(texts)
        threads = [threading.Thread(target=keep, args=(late, number, text)) for number, text in enumerate(texts)]
        with busy(patient, engine):
            for thread in threads:
                thread.start()
            until(lambda: patient.metrics()["loragate_early_heads_total"] == before + len(texts), "all have their head")
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert late == at_once
        for text, error in ((chat_text, openai.APIError), (messages_text, anthropic.APIError)):
            before = patient.metrics()["loragate_early_heads_total"]
            releaser = threading.Thread(target=release_after_head, args=(patient, engine, before))
            releaser.start()
            with pytest.raises(error, match="fake engine was told to fail"):
                text(fake={"held": True, "status": 400})
            releaser.join(PATIENCE_SECONDS)


def keep(into: list[str], number: int, text: Any) -> None:
    into[number] = text()


def release_after_head(gateway: RunningGateway, engine: FakeEngine, before: float) -> None:
    until(lambda: gateway.metrics()["loragate_early_heads_total"] == before + 1, "its head has gone out")
    engine.release()
