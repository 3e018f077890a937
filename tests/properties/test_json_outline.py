"""A body read in steps gives what one read at once gives, wherever it is cut, and is refused where JSON is not."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.openai import json_outline
from gateway.openai.body import Fields, LargeFields, edits, read, read_in_steps, rewrite_model
from gateway.openai.json_outline import outline_in_steps, outline_of, run_to_end
from tests.support.body_pieces import pieces
from tests.support.documents import documents

NAMES = ("model", "stream", "user", "x", "stream_options", "é", '"model"', "mod")


@pytest.fixture(autouse=True, scope="module")
def _small_windows() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_outline, "WINDOW_BYTES", 7)
        patch.setattr(json_outline, "_FIRST_BYTES", 2)
        yield


@given(st.data(), documents())
def test_members_are_where_json_finds_them(data: st.DataObject, text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    if "\\ud" not in text.lower() and "\ud83d" in text:
        return  # half a surrogate pair that is not escaped is not UTF-8
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    outline = run_to_end(outline_in_steps(data.draw(pieces(body)), NAMES))
    expected: list[tuple[str, Any]] = json.JSONDecoder(object_pairs_hook=list).decode(text)
    assert body[: outline.opening].strip() == b"{"
    assert body[outline.closing :].strip() == b"}"
    assert outline.is_empty is (not expected)
    for name in NAMES:
        values = [value for key, value in expected if key == name]
        found = [
            json.JSONDecoder(object_pairs_hook=list).decode(body[a:b].decode())
            for a, b in outline.members.get(name, [])
        ]
        assert found == values[:1] + values[1:][-1:]


@given(st.data(), documents())
def test_a_body_read_in_steps_gives_the_same_fields_and_the_same_request(data: st.DataObject, text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        at_once = read(body)
    except BadRequest:
        with pytest.raises(BadRequest):
            run_to_end(read_in_steps(data.draw(pieces(body))))
        return
    cut = data.draw(pieces(body))
    in_steps = run_to_end(read_in_steps(cut))
    assert isinstance(in_steps, LargeFields)
    for name in Fields.__struct_fields__:
        one, other = getattr(at_once, name), getattr(in_steps, name)
        assert (bytes(one) == bytes(other)) if isinstance(one, msgspec.Raw) else (one == other)
    for ask_usage in (False, True):
        try:
            expected = rewrite_model(body, at_once, b'"m"', ask_usage=ask_usage)
        except BadRequest:
            with pytest.raises(BadRequest):
                edits(cut, in_steps, in_steps.outline, b'"m"', ask_usage=ask_usage)
            continue
        changes = edits(cut, in_steps, in_steps.outline, b'"m"', ask_usage=ask_usage)
        assert (
            b"".join(cut.apply_edits(changes)) == expected == rewrite_model(body, in_steps, b'"m"', ask_usage=ask_usage)
        )


@given(st.data(), st.text('{}[]",:\\ mu0d\x00\xe91n', max_size=40))
def test_whatever_json_takes_for_an_object_is_taken_as_the_same_object(data: st.DataObject, text: str) -> None:
    body = text.encode()
    try:
        expected = json.JSONDecoder(object_pairs_hook=list, strict=False).decode(text)
        is_object = text.lstrip(" \t\r\n").startswith("{")
    except (ValueError, RecursionError):
        is_object = False
    try:
        outline = run_to_end(outline_in_steps(data.draw(pieces(body)), NAMES))
    except BadRequest:
        assert not is_object
        return
    if is_object:
        assert set(outline.members) == {key for key, _ in expected} & set(NAMES)


@pytest.mark.parametrize("depth", [1, 7, 198, 199, 200, 5_000])
def test_nesting_is_refused_above_the_limit_in_steps_too(depth: int) -> None:
    body = b'{"a":' + b'["]",' * (depth - 1) + b"[]" + b"]" * (depth - 1) + b',"model":"m"}'
    if depth + 1 > 200:
        with pytest.raises(BadRequest, match="nested more than 200"):
            outline_of(body, NAMES)
    else:
        assert outline_of(body, NAMES).members["model"] == [(len(body) - 4, len(body) - 1)]


@pytest.mark.parametrize(
    ("part", "most", "told"),
    [(b"[]", "MAX_CONTAINERS", "arrays and objects"), (b'""', "MAX_STRINGS", "strings")],
)
def test_more_parts_than_may_be_are_refused_with_the_limit(
    part: bytes, most: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_outline, most, 50)
    with pytest.raises(BadRequest, match=f"more than 50 {told}, the limit"):
        outline_of(b'{"a":[' + part + (b"," + part) * 60 + b"]}", NAMES)
    outline_of(b'{"a":[' + part + (b"," + part) * 40 + b"]}", NAMES)


def test_more_members_than_may_be_are_refused_with_the_limit() -> None:
    members = b",".join(b'"k%d":1' % number for number in range(json_outline.MAX_MEMBERS))
    outline_of(b"{%b}" % members, NAMES)
    with pytest.raises(BadRequest, match="more than 1,024 members of its own"):
        outline_of(b'{%b,"one":"more"}' % members, NAMES)
