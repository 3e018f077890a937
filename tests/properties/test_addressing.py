"""`addressed` changes the model and not one other byte, whatever the document and its formatting."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.openai.body import read, rewrite_model
from tests.support.documents import documents


def pairs(text: str) -> list[tuple[str, Any]]:
    """Top-level members in order."""
    first: list[Any] = json.JSONDecoder(object_pairs_hook=list).decode(text)
    return [(key, value) for key, value in first]


@given(documents(), st.sampled_from(["base", "support@3f2a9c81d0e4", "é", '"', ""]))
def test_the_model_is_changed_and_nothing_else(text: str, name: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        fields = read(body)
    except BadRequest:
        assume(False)
    quoted = json.dumps(name, ensure_ascii=False).encode()
    result = rewrite_model(body, fields, quoted)
    before, after = pairs(text), pairs(result.decode())
    assert [pair for pair in before if pair[0] != "model"] == [pair for pair in after if pair[0] != "model"]
    assert dict(after)["model"] == name
    # All other bytes: what is before and behind the value is there as it was.
    at = next(
        at for at in range(len(result)) if result.startswith(quoted, at) and _is_model(body, result, at, len(quoted))
    )
    assert at >= 0


def _is_model(body: bytes, result: bytes, at: int, length: int) -> bool:
    head, tail = result[:at], result[at + length :]
    if body.startswith(head) and body.endswith(tail) and len(head) + len(tail) <= len(body):
        return True
    key = b'"model":'
    if not head.endswith(key):
        return False
    head = head[: -len(key)]
    return body in (head + tail, head + tail.removeprefix(b","))


@given(documents())
def test_asking_for_usage_changes_the_model_and_the_option_only(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        fields = read(body)
        result = rewrite_model(body, fields, b'"m"', ask_usage=True)
    except BadRequest:
        assume(False)
    before, after = json.loads(text), json.loads(result)
    options = before.get("stream_options")
    assert after.pop("model") == "m"
    before.pop("model", None)
    if options is None or isinstance(options, dict):
        assert after["stream_options"] == {**(options or {}), "include_usage": True}
        before.pop("stream_options", None)
        after.pop("stream_options")
    assert after == before


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read(body)
    except BadRequest:
        return
    assert isinstance(json.loads(body), dict)


@given(st.integers(1, 400), st.sampled_from(["[]", "{}"]))
def test_nesting_is_refused_above_the_limit_and_only_there(depth: int, kind: str) -> None:
    opening, inner = (kind[0], "") if kind == "[]" else ('{"x":', "1")
    body = ('{"a":' + opening * depth + inner + kind[1] * depth + "}").encode()
    if depth + 1 > 200:
        with pytest.raises(BadRequest):
            read(body)
    else:
        read(body)
