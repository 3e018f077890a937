"""What of a body cannot be read is refused in words, however it is cut into parts."""

from collections.abc import Sequence

import pytest

from gateway.errors import BadRequest
from gateway.openai.body import AT_ONCE_BYTES, MAX_FIELD_BYTES, LargeFields, read, read_in_steps, takes_steps
from gateway.openai.endpoints import split_target
from gateway.openai.json_outline import DEEPEST_NESTING, outline_in_steps, outline_of, run_to_end
from gateway.openai.large_prompts import media_in_steps
from gateway.openai.media import media_fields
from gateway.openai.pieces import Pieces

WANTED = ("model", "prompt", "n", "user", "temperature")


def read_parts(*parts: bytes) -> object:
    return run_to_end(read_in_steps(Pieces(parts)))


@pytest.mark.parametrize(
    "parts",
    [
        (b'{"model":"a","prompt":[[1,2],[3', b",4]"),
        (b'{"model":"a","prompt":{"a":{"b":1}',),
        (b'{"model":"a","prompt":"\xc3', b'("}'),
        (b'{"model":"a","prompt":"\xff"}',),
    ],
)
def test_a_value_that_never_ends_or_is_no_utf8_is_no_json(parts: Sequence[bytes]) -> None:
    with pytest.raises(BadRequest, match="not a valid JSON object"):
        read_parts(*parts)


def test_a_letter_may_be_cut_in_two() -> None:
    whole = '{"model":"a","prompt":"é"}'.encode()
    at = whole.index("é".encode()) + 1
    assert read_parts(whole[:at], whole[at:]) is not None


def test_fields_beside_the_prompt_have_a_limit_together() -> None:
    user = b"u" * (MAX_FIELD_BYTES + 1)
    with pytest.raises(
        BadRequest, match=rf"in a large body the fields that are no prompt may have {MAX_FIELD_BYTES:,}"
    ):
        read_parts(b'{"model":"a","user":"' + user + b'"}')


def test_bytes_in_parts_have_the_length_of_all_and_are_cut_across_parts() -> None:
    pieces = Pieces((b"abc", b"def", b"ghi"))
    assert (len(pieces), pieces.cut(2, 7), pieces.cut(3, 6), pieces.cut(8, 99)) == (9, b"cdefg", b"def", b"i")


def test_bytes_in_no_parts_are_empty_and_stay_so() -> None:
    assert (len(Pieces(())), Pieces(()).apply_edits(())) == (0, [])


def test_an_address_in_absolute_form_is_split_and_one_without_a_host_names_nothing() -> None:
    assert split_target(b"http://a.example/v1/models") == (b"a.example", b"/v1/models")
    assert split_target(b"HTTP://a.example") == (b"a.example", b"/")
    assert split_target(b"http:///v1/models") == (b"", b"")
    assert split_target(b"/v1/models") == (None, b"/v1/models")


def test_a_body_nested_too_deep_to_be_parsed_at_once_is_refused_with_the_limit() -> None:
    deep = 5_000  # of so few bytes that no outline of them is made first
    with pytest.raises(BadRequest, match=f"nested more than {DEEPEST_NESTING} levels deep"):
        read(b'{"model":"a","prompt":' + b"[" * deep + b"]" * deep + b"}")


def test_a_text_as_messages_holds_no_media_even_if_it_spells_their_names() -> None:
    assert media_fields(rb'"\"image_url\": \"http://h/\""') == {}


def test_media_beside_a_member_whose_key_has_an_invalid_escape_are_found() -> None:
    messages = rb'[{"\u12":1,"image_url":"http://h/"}]'
    assert run_to_end(media_in_steps(Pieces((messages,)), (0, len(messages)))) == {"media_urls": "image_url"}


def test_bytes_after_a_value_are_not_searched_for_media() -> None:
    parts = (b'["plain"]', b',{"image_url":"http://h/"}')
    assert run_to_end(media_in_steps(Pieces(parts), (0, len(parts[0])))) == {}


def byte_by_byte(body: bytes) -> Pieces:
    return Pieces(tuple(body[at : at + 1] for at in range(len(body))))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","prompt":"b","n":12,"stop":["x"],"user":null} ',
        b' {"model" : "a\\"b" , "prompt" : [ { "a" : "\\\\" } , [ ] ] , "temperature" : 0.5 }\r\n',
        rb'{"mod\u0065l":"a","prompt":"b","%b":1}' % (b"name" * 30),
    ],
)
def test_a_body_that_arrives_byte_by_byte_is_read_as_if_at_once(body: bytes) -> None:
    assert run_to_end(outline_in_steps(byte_by_byte(body), WANTED)) == outline_of(body, WANTED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"[]",
        b'{"model":"a"} x',
        b'{"model":"a"}\xc3',
        b'{model:"a"}',
        b'{"model":}',
        b'{"model":"a',
        b'{"model":"a"',
        b'{"model" "a"}',
        rb'{"mod\u00el":"a"}',
        b'{"model":"a";}',
    ],
)
def test_what_is_no_object_is_refused_however_it_arrives(body: bytes) -> None:
    for pieces in (Pieces((body,)), byte_by_byte(body)):
        with pytest.raises(BadRequest, match="not a valid JSON object"):
            run_to_end(outline_in_steps(pieces, WANTED))


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (b'[{"type":"image_url","image_url":{"url":"http://h/a\\"b"}}]', {"media_urls": "image_url"}),
        (b'[{"content":[{"image_url" : null}, {"text":"plain"}, 7, {}]}]', {}),
        (b'[{"video_url":"data:video/mp4;base64,AA"}]', {}),
        (b'[{"image_url":{"url":"http://h/"', {"media_urls": "image_url"}),
        (b'["image_url":"http://h/"]]]', {}),
        (b'[{"image_url":"http://h/%b","text":"%b"}]' % (b"a" * 5000, b"b" * 5000), {"media_urls": "image_url"}),
    ],
    ids=["an address", "none", "data", "cut off", "no JSON", "long texts"],
)
def test_media_are_found_in_messages_that_arrive_byte_by_byte(messages: bytes, found: dict[str, str]) -> None:
    assert run_to_end(media_in_steps(byte_by_byte(messages), (0, len(messages)))) == found
    assert run_to_end(media_in_steps(Pieces((messages,)), (0, len(messages)))) == found


def test_a_large_body_is_read_in_steps_and_of_long_fields_only_that_they_are_there() -> None:
    large = b'{"model":"a","prompt":"' + b"p" * AT_ONCE_BYTES + b'","chat_template":"' + b"t" * 100 + b'"}'
    assert (takes_steps(large), takes_steps(b"{}")) == (True, False)
    fields = read(large)
    assert isinstance(fields, LargeFields)
    assert "chat_template" in fields.outline.members
