"""A stream's events do not depend on how its bytes are cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.serve.sse import EventStream
from tests.support.cut_bytes import cut

LINE_ENDS = ("\n", "\r\n", "\r")
USAGE = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}'
TEXT = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)


@st.composite
def streams(draw: st.DrawFn, *, with_usage: bool = False) -> tuple[list[bytes], int]:
    """Draw whole events, and where the usage event stands (-1: nowhere)."""
    end = draw(st.sampled_from(LINE_ENDS))
    kinds = st.one_of(
        TEXT.map(lambda text: [f"data: {text}"]),
        TEXT.map(lambda text: ["event: x", f"data:{text}"]),
        TEXT.map(lambda text: [f": {text}"]),
        st.lists(TEXT, min_size=1, max_size=3).map(lambda texts: [f"data: {text}" for text in texts]),
    )
    events = draw(st.lists(kinds, max_size=8))
    at = -1
    if with_usage:
        at = draw(st.integers(0, len(events)))
        events.insert(at, [f"data: {USAGE}"])
    return [(end.join(lines) + end + end).encode() for lines in events], at


@given(streams(), st.lists(st.integers(0, 10_000), max_size=20), TEXT)
def test_every_byte_arrives_in_order_however_it_is_cut(
    drawn: tuple[list[bytes], int], places: list[int], rest: str
) -> None:
    data = b"".join(drawn[0]) + rest.encode()
    stream = EventStream()
    assert b"".join(stream.feed(part) for part in cut(data, places)) + stream.rest() == data


@given(streams(), st.lists(st.integers(0, 10_000), max_size=20))
def test_only_whole_events_are_passed_on(drawn: tuple[list[bytes], int], places: list[int]) -> None:
    events, _ = drawn
    stream = EventStream()
    passed, ends, total = b"", {0}, 0
    for event in events:
        total += len(event)
        ends.add(total)
    for part in cut(b"".join(events), places):
        passed += stream.feed(part)
        assert len(passed) in ends


@given(streams(with_usage=True), st.lists(st.integers(0, 10_000), max_size=20))
def test_a_hidden_usage_event_is_taken_out_whole_however_it_is_cut(
    drawn: tuple[list[bytes], int], places: list[int]
) -> None:
    events, at = drawn
    stream = EventStream(hide_usage=True)
    passed = b"".join(stream.feed(part) for part in cut(b"".join(events), places))
    waiting = stream.rest()  # an event that ends with a lone CR waits for what may be its LF
    if waiting and at == len(events) - 1:
        assert passed + waiting == b"".join(events)
        return
    assert passed + waiting == b"".join(events[:at] + events[at + 1 :])
    assert stream.usage == (3, 5)


@given(streams(with_usage=True), st.lists(st.integers(0, 10_000), max_size=20))
def test_a_usage_event_that_was_asked_for_is_read_and_kept(drawn: tuple[list[bytes], int], places: list[int]) -> None:
    events, _ = drawn
    stream = EventStream()
    passed = b"".join(stream.feed(part) for part in cut(b"".join(events), places)) + stream.rest()
    assert passed == b"".join(events)
    assert stream.usage == (3, 5) or events[-1].endswith(b"\r\r")


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=8))
def test_what_is_held_is_bounded(sizes: list[int]) -> None:
    stream = EventStream()
    sent = passed = 0
    for size in [*sizes, 700_000, 700_000]:
        sent += size
        passed += len(stream.feed(b"x" * size))
        assert sent - passed <= (1 << 20)
    assert stream.is_split
    assert stream.feed(b"\n\ndata: y\n\n") == b"\n\ndata: y\n\n"
    assert not stream.is_split


# What an engine may put where: nothing, words, quotes, and all that has to be read.
FRAGMENTS = (
    "",
    "a",
    " usage",
    "\\",
    '\\"',
    '"',
    ",",
    "}",
    ":",
    '"usage"',
    '"usage":{"prompt_tokens":3}',
    '"finish_reason":"stop"',
    '"finish_reason":null',
    'data: {"error":',
    "event: error\n",
    '"},"finish_reason":"',
    'null,"content":"',
)
FIELD = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join)


@given(st.lists(st.tuples(st.sampled_from(("content", "text", "delta", "x")), FIELD, FIELD), min_size=2, max_size=12))
def test_a_chunk_that_passes_unread_held_nothing_to_read(events: list[tuple[str, str, str]]) -> None:
    stream = EventStream(hide_usage=True)
    for key, text, more in [(events[0][0], "a", ""), *events, *((events[0][0], text, "") for _, text, _ in events)]:
        text = text.replace("\n", "\\n")  # in a JSON string a line end stands escaped, else it is no JSON
        event = (
            f'data: {{"id":"c","choices":[{{"delta":{{"{key}":"{text}"}},{more}"finish_reason":null}}]}}\n\n'.encode()
        )
        if stream.passes(b"%x\r\n%b\r\n" % (len(event), event)):
            reader = EventStream(hide_usage=True)
            assert reader.feed(event) == event
            assert (reader.usage, reader.has_failed) == (None, False)
