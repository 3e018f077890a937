"""Hiding the usage event hides nothing else, and a chunk that needs no reading is recognised."""

import pytest

from gateway.serve.chunks import MAX_LISTED, SIZE_LINES, is_one_chunk_of_events
from gateway.serve.sse import EventStream

TEXT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
STAMPED = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"system_fingerprint":"v-1"}\n\n'
USAGE = (
    b'data: {"id":"c","choices":[],"system_fingerprint":"v-1","usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
)
BARE_USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def through(stream: EventStream, *parts: bytes) -> list[bytes]:
    return [stream.feed(part) for part in parts]


def test_an_unknown_fingerprint_is_learned_while_the_finishing_event_waits() -> None:
    stream = EventStream(hide_usage=True)
    assert through(stream, TEXT, LAST, USAGE, DONE) == [TEXT, b"", STAMPED, DONE]
    assert stream.fingerprint == b'"v-1"'
    assert stream.usage == (3, 2)


def test_it_is_put_back_too_if_all_comes_in_one_read() -> None:
    assert EventStream(hide_usage=True).feed(TEXT + LAST + USAGE + DONE) == TEXT + STAMPED + DONE


def test_a_known_fingerprint_is_put_on_every_finishing_event_at_once() -> None:
    stream = EventStream(hide_usage=True, fingerprint=b'"v-1"')
    assert through(stream, LAST, TEXT, LAST, USAGE + DONE) == [STAMPED, TEXT, STAMPED, DONE]


def test_with_an_unknown_one_an_earlier_choice_does_not_hold_up_the_others() -> None:
    stream = EventStream(hide_usage=True)
    assert through(stream, LAST, TEXT, LAST, USAGE) == [b"", LAST + TEXT, b"", STAMPED]


def test_an_engine_without_a_fingerprint_is_left_as_it_is() -> None:
    stream = EventStream(hide_usage=True)
    assert through(stream, LAST, BARE_USAGE, DONE) == [b"", LAST, DONE]
    assert stream.fingerprint == b""
    assert through(EventStream(hide_usage=True, fingerprint=b""), LAST, BARE_USAGE) == [LAST, b""]


def test_a_finishing_event_that_waits_is_not_lost_if_the_stream_ends_or_breaks_off() -> None:
    for end in (EventStream.rest, EventStream.whole_rest):
        stream = EventStream(hide_usage=True)
        assert stream.feed(LAST) == b""
        assert end(stream) == LAST


def test_a_stream_that_asked_for_its_usage_is_not_touched() -> None:
    stream = EventStream()
    assert through(stream, TEXT, LAST, USAGE, DONE) == [TEXT, LAST, USAGE, DONE]
    assert stream.usage == (3, 2)


def test_only_a_chunk_with_nothing_to_read_passes_by() -> None:
    stream = EventStream(hide_usage=True)
    assert stream.passes(TEXT)
    assert not stream.passes(LAST)
    assert not stream.passes(USAGE)
    stream.feed(b"data: half")
    assert not stream.passes(TEXT)
    stream.feed(b" and half\n\n")
    assert stream.passes(TEXT)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def test_one_whole_chunk_of_events_is_recognised() -> None:
    assert is_one_chunk_of_events(chunk(TEXT))
    assert is_one_chunk_of_events(chunk(TEXT + TEXT))
    assert is_one_chunk_of_events(chunk(TEXT).replace(b"5", b"5", 1).upper().replace(TEXT.upper(), TEXT))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"0\r\n\r\n",
        chunk(TEXT)[:-1],
        chunk(TEXT)[:-2],
        chunk(TEXT)[1:],
        chunk(TEXT) + chunk(TEXT),
        chunk(b"no end of an event"),
        b"%x;extension=1\r\n%b\r\n" % (len(TEXT), TEXT),
        b"+%x\r\n%b\r\n" % (len(TEXT), TEXT),
        b"%x_\r\n%b\r\n" % (len(TEXT), TEXT),
        b" %x\r\n%b\r\n" % (len(TEXT), TEXT),
        b"zz\r\n%b\r\n" % TEXT,
        TEXT + b"\r\n",
    ],
)
def test_anything_else_is_the_parsers(data: bytes) -> None:
    assert not is_one_chunk_of_events(data)


def test_a_chunk_that_differs_in_its_text_alone_passes_and_one_that_tells_more_does_not() -> None:
    stream = EventStream(hide_usage=True)
    assert stream.passes(chunk(TEXT))
    for text in (b"", b" b", b"x" * 400, b'\\"usage\\"', "ß€".encode()):
        assert stream.passes(chunk(TEXT.replace(b'"a"', b'"%b"' % text)))
    assert not stream.passes(chunk(TEXT.replace(b"null", b'"stop"')))
    assert not stream.passes(chunk(TEXT.replace(b'"a"', b'"a","usage":{}')))
    assert not stream.passes(chunk(LAST))
    assert stream.passes(chunk(TEXT))


def test_the_size_line_of_every_length_is_the_one_that_servers_write() -> None:
    lengths = {len(chunk(b"x" * size)): b"%x\r\n" % size for size in range(1, MAX_LISTED)}
    assert len(SIZE_LINES) == MAX_LISTED + 1
    for length, line in enumerate(SIZE_LINES[:-1]):
        assert line == lengths.get(length, b"\n")  # of those that no chunk has, what none begins with
    assert SIZE_LINES[-1] == b"\n"  # it stands for all longer ones, too
