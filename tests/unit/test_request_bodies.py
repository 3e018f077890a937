"""What of a body cannot be read is refused in words, however it is cut into parts."""

from collections.abc import Sequence

import pytest

from gateway.errors import BadRequest
from gateway.openai.body import MAX_FIELD_BYTES, read_in_steps
from gateway.openai.endpoints import split_target
from gateway.openai.json_outline import run_to_end
from gateway.openai.pieces import Pieces


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


def test_an_address_in_absolute_form_is_split_and_one_without_a_host_names_nothing() -> None:
    assert split_target(b"http://a.example/v1/models") == (b"a.example", b"/v1/models")
    assert split_target(b"HTTP://a.example") == (b"a.example", b"/")
    assert split_target(b"http:///v1/models") == (b"", b"")
    assert split_target(b"/v1/models") == (None, b"/v1/models")
