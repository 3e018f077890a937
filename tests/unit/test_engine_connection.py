"""One connection to an engine, without a socket: what becomes of replies that are not as they should be."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import LoragateError
from gateway.ports import ReplyHead
from gateway.receive.engine_headers import forwardable_headers, is_event_stream
from gateway.serve.connection import MAX_HEAD_BYTES, MAX_HEADERS, EngineConnection
from gateway.serve.known_head import RELEARN_SECONDS
from gateway.serve.upstream import EnginePool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
FOREIGN = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nFOREIGN"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
READ = 16 * 1024


class Transport:
    """Knows whether the connection is open."""

    def __init__(self) -> None:
        self.is_open = True

    def get_extra_info(self, _name: str) -> Any:
        class Unix:
            family = 1

        return Unix()

    def write(self, _data: bytes) -> None:
        assert self.is_open

    def close(self) -> None:
        self.is_open = False

    abort = close


class Reading:
    """A reply as its reader got it."""

    def __init__(self) -> None:
        self.head: ReplyHead | None = None
        self.body = b""
        self.is_complete = False
        self.error: LoragateError | None = None
        self.is_stale = False

    def on_sent(self) -> None:
        pass

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        assert not self.is_complete
        assert self.error is None
        assert (head is None) is (self.head is not None)
        self.head = head or self.head
        self.body += data
        self.is_complete = is_complete

    def on_chunk(self, chunk: bytes) -> None:
        self.body += chunk[chunk.index(b"\r\n") + 2 : -2]

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        assert self.error is None
        self.error, self.is_stale = error, is_stale


class Link:
    """One connection, used for one request after another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.faults: list[bool] = []
        self.counts: dict[str, int] = {}
        self.pool = EnginePool(
            "http://127.0.0.1:1",
            self.counts,
            1.0,
            lambda: self.now,
            on_fault=lambda _url, in_reply: self.faults.append(in_reply),
        )
        self.connection = EngineConnection(self.pool)
        self.transport = Transport()
        self.connection.connection_made(cast(asyncio.BaseTransport, self.transport))
        self.pool.keep(self.connection)

    def ask(self, *reads: bytes) -> Reading:
        reading = Reading()
        assert self.pool.send(b"GET / HTTP/1.1\r\n\r\n", reading) is self.connection
        for read in reads:
            if self.transport.is_open:
                self.connection.data_received(read)
        return reading


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + READ] for at in range(0, len(data), READ)]


@pytest.mark.parametrize("second", [FOREIGN, FOREIGN[:-3], b"H", b"garbage\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize(
    "first", [OK, CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", CHUNKED + b"2\r\nhi\r\n0\r\nx-evil: 1\r\n\r\n"]
)
def test_what_follows_a_whole_reply_is_nobodys_reply_and_costs_the_connection(first: bytes, second: bytes) -> None:
    for reads in ([first + second], [first, second], [first[:-1], first[-1:] + second]):
        link = Link()
        reading = link.ask(*reads)
        assert (reading.body, reading.is_complete, reading.error) == (b"hi", True, None)
        assert not link.transport.is_open
        assert link.faults == [False]  # the engine's failure, though no reply has failed of it
        assert link.counts == {"http://127.0.0.1:1": 0}


def test_a_reply_alone_leaves_the_connection_to_the_next_request() -> None:
    link = Link()
    for _ in range(3):
        assert link.ask(OK).body == b"hi"
        assert link.ask(CHUNKED, b"2\r\nhi\r\n", b"0\r\n\r\n").body == b"hi"
        assert link.ask(*cut(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 500 + OK)).body == b"hi"
    assert link.transport.is_open
    assert link.faults == []


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 10_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 1_000_000,
        b"HTTP/1.1 200 " + b"O" * 10_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 400_000,
        CHUNKED + b"2\r\nhi\r\n0\r\n" + b"x-a: b\r\n" * 1_000_000,
        CHUNKED + b"2;" + b"e" * 10_000_000,
        CHUNKED + b"2\r\nhi\r\n0;" + b"e" * 10_000_000,
    ],
    ids=["value", "headers", "reason", "1xx", "trailers", "extension", "last extension"],
)
def test_what_an_engine_sends_beside_a_replys_body_is_bounded(endless: bytes) -> None:
    link = Link()
    read = 0
    reading = Reading()
    link.pool.send(b"GET / HTTP/1.1\r\n\r\n", reading)
    for part in cut(endless):
        if link.transport.is_open:
            link.connection.data_received(part)
            read += len(part)
    assert reading.error is not None
    assert "more than 64 KiB of headers" in reading.error.message
    assert read <= MAX_HEAD_BYTES + 2 * READ
    assert link.faults == [True]


def test_a_head_that_is_too_large_fails_however_it_is_cut() -> None:
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-a: " + b"a" * (2 * MAX_HEAD_BYTES) + b"\r\n\r\n"
    many = b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"content-length: 0\r\n\r\n"
    for head in (large, many):
        for reads in ([head], cut(head)):
            error = Link().ask(*reads).error
            assert error is not None
            assert "headers" in error.message
    few = b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEADERS - 1) + b"content-length: 0\r\n\r\n"
    assert Link().ask(few).is_complete
    body = b"x" * (10 * MAX_HEAD_BYTES)  # a large body in one read is no head
    assert Link().ask(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body).body == body


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 0 X",
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 999 X",
        b"HTTP/1.1 101 X\r\nupgrade: x",
        b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: gzip",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: gzip, chunked",
        b"SSH-2.0-x",
        b"HTTP/1.1",
    ],
)
def test_a_status_or_a_framing_that_nobody_has_asked_for_fails_at_once(head: bytes) -> None:
    link = Link()
    reading = link.ask(head + b"\r\n\r\n" + OK)
    assert reading.error is not None
    assert not link.transport.is_open
    assert link.faults == [True]


def test_trailers_are_no_headers() -> None:
    reading = Link().ask(CHUNKED + b"2\r\nhi\r\n0\r\nx-loragate-version: evil\r\n\r\n")
    assert reading.is_complete
    assert reading.head is not None
    assert reading.head.headers == ((b"transfer-encoding", b"chunked"),)


def test_an_idle_connection_that_dies_is_stale_and_one_that_has_spoken_is_not() -> None:
    link = Link()
    link.ask(OK)
    stale = link.ask()
    link.connection.connection_lost(None)
    assert stale.is_stale
    link = Link()
    link.ask(OK)
    broken = link.ask(b"HTTP/1.1 200 OK\r\n")
    link.connection.connection_lost(None)
    assert broken.error is not None
    assert not broken.is_stale


def test_an_engines_word_on_versions_limits_cookies_and_connections_does_not_pass() -> None:
    kept = [(b"content-type", b"application/json"), (b"retry-after", b"3"), (b"x-other", b"x-loragate-version")]
    ours = [
        (b"x-loragate-version", b"other"),
        (b"x-loragate-new", b"1"),
        (b"x-ratelimit-limit-requests", b"9"),
        (b"set-cookie", b"a=b"),
        (b"x-request-id", b"1"),
        (b"location", b"http://elsewhere/"),
        (b"connection", b"x"),
        (b"nel", b"{}"),
        (b"report-to", b"{}"),
        (b"reporting-endpoints", b"a=b"),
        (b"www-authenticate", b"Bearer"),
        (b"access-control-allow-origin", b"*"),
        (b"content-length", b"5"),
    ]
    lines = b"content-type: application/json\r\nretry-after: 3\r\nx-other: x-loragate-version\r\n"
    assert forwardable_headers((*ours, *kept)) == lines
    assert forwardable_headers((*kept[:2], *ours[3:])) == lines[:48]


def test_what_an_engine_says_is_for_its_connection_only_does_not_pass() -> None:
    hops = ((b"connection", b"Keep-Alive, X-Hop"), (b"x-hop", b"1"), (b"connection", b"x-other"), (b"x-other", b"2"))
    assert forwardable_headers((*hops, (b"x-kept", b"3"))) == b"x-kept: 3\r\n"


def test_a_stream_is_known_by_its_type_however_that_is_written() -> None:
    for kind in (b"text/event-stream", b"Text/Event-Stream; charset=UTF-8"):
        assert is_event_stream(((b"content-type", kind),))
    assert not is_event_stream(((b"content-type", b"application/json"),))


DATED = b"HTTP/1.1 200 OK\r\ndate: now\r\nContent-Length: %d\r\ncontent-type: application/json\r\n\r\n"
HEADS = [
    DATED,
    DATED.replace(b"now", b"later"),
    DATED.replace(b" %d", b"%d"),
    DATED.replace(b"200 OK", b"404 Not Found"),
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + DATED,
    b"HTTP/1.1 200 OK\r\nx-a: content-length: 5\r\ncontent-length: %d\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx-a: %d\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\ncontent-length: %d\n\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: %d, 5\r\n\r\n",
    b"%d\r\n\r\n",
]
REPLIES = st.builds(
    lambda head, told, body, rest: (head % told if told is not None else head % len(body)) + body + rest,
    st.sampled_from(HEADS),
    st.none() | st.none() | st.sampled_from([0, 4, 5, 6, 10**13]),
    st.sampled_from([b"", b"hello", b"{}", b"\r\n\r\nHTTP", OK, b"x" * 70_000]),
    st.sampled_from([b"", b"", b"", b"\r\n", b"more", OK]),
)


@example([(DATED % 0, 0, 0.0), (DATED % 5 + b"hello", 0, 0.0)])
@given(st.lists(st.tuples(REPLIES, st.integers(0, 300), st.sampled_from([0.0, 0.05, 1.0])), max_size=8))
def test_a_head_that_is_known_changes_nothing_about_how_a_reply_is_read(
    replies: list[tuple[bytes, int, float]],
) -> None:
    link = Link()
    for reply, at, passes in replies:
        reads = [reply[:at], reply[at:]] if 0 < at < len(reply) else [reply]
        fresh = Link()
        expected, got = fresh.ask(*reads), link.ask(*reads)
        for name in ("body", "is_complete", "is_stale"):
            assert getattr(got, name) == getattr(expected, name), name
        assert told(got) == told(expected)
        assert link.transport.is_open == fresh.transport.is_open
        assert link.faults == fresh.faults
        if not link.transport.is_open:
            return
        if not got.is_complete:
            return
        link.now += passes


def told(reading: Reading) -> object:
    """What the head says to a client, or why there is none; its `headers` may be those of an earlier reply, whose
    length is not passed on."""
    if reading.error is not None:
        return reading.error.message
    head = reading.head
    return None if head is None else (head.status, forwardable_headers(head.headers), head.length)


def test_the_next_reply_with_a_known_head_needs_no_parser() -> None:
    link = Link()
    link.ask(DATED % 2 + b"{}")
    link.connection._parser = None  # type: ignore[assignment]  # whatever needs it fails
    for body in (b"", b"{}", b"x" * 12_345):
        reading = link.ask(DATED % len(body) + body)
        assert (reading.body, reading.is_complete) == (body, True)
        assert reading.head is not None
        assert reading.head.length == len(body)


def test_heads_are_learned_only_so_often_where_no_two_are_alike() -> None:
    link = Link()
    learned = set()
    for number in range(30):
        link.ask(DATED.replace(b"now", b"%d" % number) % 2 + b"{}")
        learned.add(link.pool.known_head)
        link.now += RELEARN_SECONDS / 8
    assert len(learned) == 4
