"""A caller never notices that a request is copied, whatever becomes of the copy; and copies become samples.

The first half has no sockets, so that all of a client's bytes can be compared, framing included; the second
has real processes.
"""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.decide.route import EngineState
from gateway.mirror.bounds import Bounds
from gateway.observe.mirror_counts import MirrorCounts
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.sample import Sample
from gateway.store.samples import Samples
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.one_worker import BREAKS, HAPPENS, LEAVES, OneWorker, Script, events, request_of
from tests.support.patience import until
from tests.support.raw_client import Raw
from tests.support.worker_pools import table_of

VERSION = "support@" + "a" * 12
CONTENT = "planted-7f3a-marker"

# Without sockets: every byte


def table(policy: MirrorPolicy | None) -> bytes:
    route = RouteRecord(alias="support", control=VERSION, salt="s", mirror=policy)
    made = table_of(routes=[route], engines=[EngineState(url="http://e", versions=frozenset([VERSION]))])
    return json.dumps({**json.loads(made), "keys": None}).encode()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "support", "messages": [{"role": "user", "content": CONTENT}], **fields}).encode()


USAGE = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2},"system_fingerprint":"f"}'
CHAT_STREAM = [
    *events(b'{"choices":[{"delta":{"content":"a"}}]}', b'{"choices":[{"finish_reason":"stop"}]}', USAGE),
    b"data: [DONE]\n\n",
]
NAMED = [b'event: one\ndata: {"text":"a"}\n\n', b'event: done\ndata: {"usage":{"input_tokens":1}}\n\n']
CHAT, PLAIN, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
STREAMED = {"stream": True}
WHOLE = b'{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'

CASES: dict[str, tuple[str, dict[str, Any], Script]] = {
    "chat": (CHAT, {}, Script(WHOLE)),
    "chat in parts": (CHAT, {}, Script(WHOLE[:10], WHOLE[10:])),
    "chat, streamed": (CHAT, STREAMED, Script(*CHAT_STREAM, is_stream=True)),
    "chat, streamed with usage": (
        CHAT,
        STREAMED | {"stream_options": {"include_usage": True}},
        Script(*CHAT_STREAM, is_stream=True),
    ),
    "chat, streamed, events cut anywhere": (
        CHAT,
        STREAMED,
        Script(*[b"".join(CHAT_STREAM)[at : at + 7] for at in range(0, 400, 7)], is_stream=True),
    ),
    "completions": (PLAIN, {"prompt": CONTENT}, Script(WHOLE)),
    "completions, streamed": (PLAIN, {"prompt": CONTENT, **STREAMED}, Script(*CHAT_STREAM, is_stream=True)),
    "completions of several prompts": (PLAIN, {"prompt": ["a", "b"]}, Script(WHOLE)),
    "responses": (RESPONSES, {"input": CONTENT}, Script(WHOLE)),
    "responses, streamed": (RESPONSES, {"input": CONTENT, **STREAMED}, Script(*NAMED, is_stream=True)),
    "messages": (MESSAGES, {}, Script(WHOLE)),
    "messages, streamed": (MESSAGES, STREAMED, Script(*NAMED, is_stream=True)),
    "embeddings": ("/v1/embeddings", {"input": "x"}, Script(WHOLE)),
    "an error": (CHAT, {}, Script(b'{"error":{"message":"no"}}', status=400)),
    "an engine's failure": (CHAT, {}, Script(b'{"error":{"message":"no"}}', status=500)),
    "an engine that breaks off": (CHAT, {}, Script(WHOLE[:10], BREAKS)),
    "a stream that breaks off": (CHAT, STREAMED, Script(*CHAT_STREAM[:1], BREAKS, is_stream=True)),
    "a stream of messages that breaks off": (MESSAGES, STREAMED, Script(*NAMED[:1], BREAKS, is_stream=True)),
    "an error in a stream": (
        CHAT,
        STREAMED,
        Script(*CHAT_STREAM[:1], *events(b'{"error": {"message":"no"}}'), is_stream=True),
    ),
    "a client that leaves": (CHAT, STREAMED, Script(*CHAT_STREAM[:2], LEAVES, is_stream=True)),
    "a large reply": (CHAT, {}, Script(b'{"text":"%b"}' % (b"x" * 300_000))),
    "something happens in a stream": (
        CHAT,
        STREAMED,
        Script(*CHAT_STREAM[:1], HAPPENS, *CHAT_STREAM[1:], is_stream=True),
    ),
}

ON = MirrorPolicy(share=10_000)
OFF = table(None)


class Broken:
    """A queue in which everything fails."""

    counts = MirrorCounts()

    def reserve(self, _size: int) -> bool:
        raise OSError(CONTENT)

    offer = release = reserve


@dataclass(frozen=True)
class Circumstances:
    """How it is with the mirror, and what happens meanwhile."""

    bounds: Bounds = Bounds(queue_items=10_000)  # noqa: RUF009 (a value)
    has_room: bool = True
    is_broken: bool = False
    policies: tuple[MirrorPolicy | None, ...] = (ON,)
    meanwhile: MirrorPolicy | None = ON


CIRCUMSTANCES = {
    "all is well": Circumstances(),
    "metrics only": Circumstances(policies=(MirrorPolicy(share=10_000, capture="metrics_only"),)),
    "no room in the queue": Circumstances(bounds=Bounds(queue_items=0)),
    "no room for bytes": Circumstances(bounds=Bounds(queue_bytes=0)),
    "little room for bytes": Circumstances(bounds=Bounds(queue_bytes=17_000)),
    "small copies only": Circumstances(bounds=Bounds(request_bytes=1, reply_bytes=1)),
    "a node that does not read": Circumstances(has_room=False, bounds=Bounds(queue_items=3)),
    "a broken queue": Circumstances(is_broken=True),
    "policies that come and go": Circumstances(policies=(ON, None, MirrorPolicy(share=5_000)), meanwhile=None),
}


def told(out: bytes) -> bytes:
    """All that a client got, but for the one header that is a time."""
    return re.sub(rb"x-loragate-overhead-ms: [0-9.]+", b"x-loragate-overhead-ms: -", out)


def ask_all(worker: OneWorker, policies: tuple[MirrorPolicy | None, ...] = (None,)) -> dict[str, bytes]:
    got = {}
    for number, (name, (target, fields, script)) in enumerate(CASES.items()):
        worker.serve_from(table(policies[number % len(policies)]))
        for version in ("1.1", "1.0"):
            request = request_of(body(**fields), target, {"x-request-id": "same"})
            out = worker.ask(request.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1), script)
            got[f"{name} {version}"] = told(out)
        worker.flush()
    return got


@pytest.fixture(scope="module")
def expected() -> dict[str, bytes]:
    """What clients get while nothing is copied."""
    got = ask_all(OneWorker(OFF))
    assert all(out.startswith(b"HTTP/1.") for out in got.values())
    assert len(set(got.values())) > len(CASES)
    return got


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_clients_get_the_same_bytes_whether_or_not_requests_are_copied(name: str, expected: dict[str, bytes]) -> None:
    how = CIRCUMSTANCES[name]
    worker = OneWorker(OFF, how.bounds, has_room=lambda: how.has_room, queue=Broken() if how.is_broken else None)
    worker.engines.meanwhile = lambda: worker.serve_from(table(how.meanwhile))
    assert ask_all(worker, how.policies) == expected
    # And it was copied, as far as the circumstances allow.
    counts: MirrorCounts = worker.queue.counts
    is_well = name in ("all is well", "metrics only")
    assert bool(worker.samples) == (is_well or name in ("little room for bytes", "policies that come and go"))
    assert bool(counts.dropped) == (not is_well and name not in ("small copies only", "policies that come and go"))
    if is_well:
        assert counts.skipped == {"status": 4, "failed": 8, "client_gone": 2}
        assert worker.no_pairs == ["several_prompts"] * 2
        assert len(worker.samples) == 2 * (len(CASES) - 1) - 16  # all but embeddings, twice
        assert {sample.ended for sample in worker.samples} == {"complete"}


def test_what_the_engine_was_asked_is_the_same_too() -> None:
    asked = []
    for policies in ((None,), (ON,)):
        worker = OneWorker(OFF)
        ask_all(worker, policies)
        asked.append(worker.engines.asked)
    assert asked[0] == asked[1]


def test_a_copy_has_what_the_engine_sent_where_the_client_got_less() -> None:
    worker = OneWorker(table(ON))
    target, fields, script = CASES["chat, streamed"]
    out = worker.ask(request_of(body(**fields), target), script)
    worker.flush()
    assert USAGE not in out
    assert worker.samples[0].reply == b"".join(CHAT_STREAM)
    assert worker.samples[0].body == body(**fields)


# Processes: a gateway in front of a fake engine


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with an alias, and no evaluator."""
    environment = {"LORAGATE_EVALUATOR__ENABLED": "false", "LORAGATE_MIRROR__HELD_SECONDS": "60"}
    with RunningGateway(engine.url, environment=environment) as gateway:
        folder = adapter_folder(tmp_path_factory.mktemp("adapters"), 7)
        added = gateway.admin("POST", "adapters", {"source": str(folder), "name": "support"})
        assert added.status_code == 201, added.text
        yield gateway


def mirror(gateway: RunningGateway, policy: dict[str, Any] | None) -> None:
    route = gateway.admin("GET", "routes/support").json()
    reply = gateway.admin(
        "PUT", "routes", {"routes": [{"alias": "support", "control": route["control"], "mirror": policy}]}
    )
    assert reply.status_code == 200, reply.text


def copied(gateway: RunningGateway) -> list[Sample]:
    store = open_store(gateway.state, now=time.time)
    try:
        return [each.sample for each in Samples(store).claim("test", 1000, 0.001)]
    finally:
        store.close()


ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, STREAMED),
    (PLAIN, {"prompt": CONTENT}),
    (PLAIN, {"prompt": CONTENT, **STREAMED}),
    (RESPONSES, {"input": CONTENT}),
    (RESPONSES, {"input": CONTENT, **STREAMED}),
    (MESSAGES, {"max_tokens": 4}),
    (MESSAGES, {"max_tokens": 4, **STREAMED}),
    (CHAT, {"fake": {"status": 400}}),
    (CHAT, STREAMED | {"fake": {"error_after": 2}}),
    (CHAT, STREAMED | {"fake": {"cut_after": 2}}),
]


def replies(gateway: RunningGateway) -> list[tuple[int, dict[str, str], bytes]]:
    got = []
    with Raw(gateway) as client:
        for target, fields in ASKED:
            body = {"model": "support", "messages": [{"role": "user", "content": CONTENT}], "seed": 1, **fields}
            reply = client.ask(target, body, x_request_id="same", x_loragate_task="refund")
            headers = {
                name: value for name, value in reply.headers.items() if name not in ("date", "x-loragate-overhead-ms")
            }
            got.append((reply.status, headers, reply.body))
    return got


@pytest.fixture(scope="module")
def without(gateway: RunningGateway) -> list[tuple[int, dict[str, str], bytes]]:
    """What clients of the running gateway get while nothing is copied."""
    mirror(gateway, None)
    return replies(gateway)


def test_copies_become_samples_in_the_store_and_no_reply_changes(
    gateway: RunningGateway, without: list[tuple[int, dict[str, str], bytes]]
) -> None:
    mirror(gateway, {"share": "100%", "noise_share": "0%"})
    assert replies(gateway) == without
    by_id: dict[str, Sample] = {}

    def all_are_here() -> bool:
        by_id.update({each.id: each for each in copied(gateway)})
        return len(by_id) == 8

    until(all_are_here)
    assert sorted(each.endpoint for each in by_id.values()) == sorted([CHAT, PLAIN, RESPONSES, MESSAGES] * 2)
    assert {(each.kind, each.control, each.served, each.task) for each in by_id.values()} == {
        ("base", "base", "candidate", "refund")
    }
    assert all(CONTENT.encode() in each.body and each.reply for each in by_id.values())
    assert {each.is_stream for each in by_id.values()} == {True, False}
    until(lambda: gateway.metrics().get("loragate_mirror_stored_total") == 8)
    metrics = gateway.metrics()
    assert metrics['loragate_mirror_sampled_total{alias="support",kind="base"}'] == 8
    assert metrics['loragate_mirror_skipped_total{reason="status"}'] == 1
    assert metrics['loragate_mirror_skipped_total{reason="failed"}'] == 2


def test_while_the_store_takes_nothing_callers_notice_nothing_and_copies_wait(
    gateway: RunningGateway, without: list[tuple[int, dict[str, str], bytes]]
) -> None:
    mirror(gateway, {"share": "100%"})
    stored = gateway.metrics()["loragate_mirror_stored_total"]
    with closing(sqlite3.connect(gateway.state / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert replies(gateway) == without
        until(lambda: gateway.metrics()["loragate_mirror_held"] == 8)
        assert gateway.metrics()["loragate_mirror_stored_total"] == stored
        other.execute("ROLLBACK")
    until(lambda: gateway.metrics()["loragate_mirror_stored_total"] == stored + 8)


def test_what_is_not_to_be_kept_is_not_in_the_store(gateway: RunningGateway) -> None:
    secret = "only-for-memory-91c2"
    for policy, kept in (({"share": "100%", "capture": "metrics_only"}, False), ({"share": "100%"}, True)):
        mirror(gateway, policy)
        before = gateway.metrics()["loragate_mirror_stored_total"]
        with httpx.Client(base_url=gateway.url, headers=gateway.headers) as client:
            text = f"{secret} {policy.get('capture')}"
            client.post(CHAT, json={"model": "support", "messages": [{"role": "user", "content": text}]})
        until(lambda before=before: gateway.metrics()["loragate_mirror_stored_total"] == before + 1)  # type: ignore[misc]
        stored = any(f"{secret} {policy.get('capture')}".encode() in path.read_bytes() for path in files(gateway))
        assert stored is kept


def files(gateway: RunningGateway) -> list[Path]:
    return [path for path in gateway.state.iterdir() if path.is_file() and not path.name.endswith(".sock")]


def test_words_of_callers_are_in_no_log_and_no_metric(gateway: RunningGateway) -> None:
    mirror(gateway, {"share": "100%", "redact": ["email"]})
    replies(gateway)
    texts = [gateway.log_path.read_text(), httpx.get(gateway.control_url + "/metrics").text]
    assert all("loragate" in text or "Loragate" in text or not text for text in texts)
    assert not any(CONTENT in text for text in texts)
