"""JSON documents as requests have them."""

import json
from typing import Any

from hypothesis import strategies as st

SPACE = st.text(" \t\r\n", max_size=3)


KEYS = st.one_of(
    st.sampled_from(["model", "stream", "user", "x", "stream_options", "include_usage", "é", '"model"', "mod"]),
    st.text(max_size=5),
)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["model", '"model":"x"', "\\u006d", "\ud83d", "\U0001f600"]),
)


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def texts(draw: st.DrawFn, value: Any) -> str:
    """Draw a JSON text of `value`, with odd spaces and escapes."""
    gap = draw(SPACE)
    if isinstance(value, dict):
        members = [f"{draw(texts(key))}{gap}:{draw(SPACE)}{draw(texts(inner))}{gap}" for key, inner in value.items()]
        return "{" + gap + f",{draw(SPACE)}".join(members) + "}"
    if isinstance(value, list):
        return "[" + gap + f",{gap}".join(draw(texts(inner)) for inner in value) + "]"
    if isinstance(value, str):
        if draw(st.booleans()):
            return json.dumps(value)
        style = draw(st.sampled_from(["all", "some", "none"]))
        if style == "all":
            return '"' + "".join(f"\\u{unit:04x}" for unit in _units(value)) + '"'
        if style == "some" or any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            return json.dumps(value)
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _units(text: str) -> list[int]:
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


@st.composite
def documents(draw: st.DrawFn) -> str:
    value = draw(st.dictionaries(KEYS, VALUES, max_size=6))
    if draw(st.booleans()):
        value["model"] = draw(st.text(max_size=6))
    return draw(SPACE) + draw(texts(value)) + draw(SPACE)
