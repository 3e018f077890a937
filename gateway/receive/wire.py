"""The OpenAI fields we read; every other byte of a body passes through as it was sent.

A body is parsed once, without building what we do not read. Then only the value of
`model` is replaced, at its place in the bytes, so big integers, float forms, escapes,
unknown fields and key order reach the engine untouched. One addition is made: a stream
whose sender did not ask for usage is asked for it, and the extra event is taken out
again on the way back (see docs/decisions/0003-usage-of-streams.md).
"""

import json
import re
from typing import Any, Final

import msgspec

from gateway.errors import BadRequest

_MODEL_KEY: Final = b'"model"'
# The usual form: a colon and a string without escapes.
_PLAIN_VALUE: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*"[^"\\]*"')
_SPACE: Final = re.compile(r"[ \t\r\n]*")
# `\u00xx` is the only escape that can spell an ASCII letter, so without one a key stands as it reads.
_ASCII_ESCAPE: Final = b"\\u00"
# Nested deeper, json.loads in the engine runs out of stack and answers 500. Twice what strict
# JSON-schema tools produce; Go's encoding/json stops at 10,000, .NET's at 64, orjson at 1,024.
DEEPEST_NESTING: Final = 200
# Possessive, so that the length of a string costs neither stack nor memory.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ASK_USAGE: Final = b',"stream_options":{"include_usage":true}'


_NOTHING: Final = msgspec.Raw()


class Fields(msgspec.Struct, frozen=True, gc=False):
    """What is read of a body. All are untyped: an odd type is the engine's to judge."""

    model: Any = msgspec.UNSET
    stream: Any = None
    stream_options: Any = msgspec.UNSET
    safety_identifier: Any = None
    user: Any = None
    prompt_cache_key: Any = None
    # What the model reads, as it was sent: one of them, as the endpoint has it.
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING

    def leaves_usage(self) -> bool:
        """Whether this is a stream whose sender does not ask for its usage, nor for what hangs on it."""
        options = self.stream_options
        if self.stream is not True:
            return False
        return not (
            isinstance(options, dict)
            and (options.get("include_usage") is True or options.get("continuous_usage_stats"))
        )


_DECODER: Final = msgspec.json.Decoder(Fields)
# Any escape, so that the second backslash of `\\ud800` begins none.
_SURROGATES: Final = re.compile(
    rb"\\(?:u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|[89a-fA-F])[0-9a-fA-F]{2}|.)", re.DOTALL
)
_ESCAPED_PAIR_BYTES: Final = len(rb"\ud83d\ude00")


def _whole_pairs(escape: re.Match[bytes]) -> bytes:
    """Return an escape as it is, a lone surrogate as U+FFFD, which is as long."""
    is_lone = escape[0][1:3].lower() == b"ud" and len(escape[0]) < _ESCAPED_PAIR_BYTES
    return rb"\ufffd" if is_lone else escape[0]


def read(body: bytes) -> Fields:
    """Return the fields of a JSON object.

    Raises:
        BadRequest: Not JSON, not an object, or nested too deeply.
    """
    if body.count(b"[") + body.count(b"{") > DEEPEST_NESTING:
        _check_nesting(body)
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look into strings that it skips
        try:
            return _DECODER.decode(body)
        except msgspec.DecodeError:
            # RFC 8259, 8.2: half of a surrogate pair is allowed and common, where JavaScript cut an emoji in two.
            return _DECODER.decode(mended(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip(b" \t\r\n"):
            raise BadRequest("The body is empty; a JSON object is expected.") from None
        where = re.search(r"byte (\d+)", str(error))
        at = f" (near byte {where[1]})" if where else ""
        raise BadRequest(f"The body is not a valid JSON object{at}.") from None
    except RecursionError:
        raise _too_deep() from None


def mended(body: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half of a surrogate pair that stands alone."""
    return _SURROGATES.sub(_whole_pairs, body)


def _check_nesting(body: bytes) -> None:
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST_NESTING:
            raise _too_deep()


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested more than {DEEPEST_NESTING} levels deep.")


def addressed(body: bytes, fields: Fields, name: bytes, *, ask_usage: bool = False) -> bytes:
    """Return `body` with `name` as its model, every other byte as it was.

    Args:
        body: A JSON object that `read` has accepted.
        fields: What `read` returned for it.
        name: The new model name as a JSON string, quotes included.
        ask_usage: Also ask the engine for the usage of a stream.

    Raises:
        BadRequest: The body has two `model` keys, so it is not clear which one counts.
    """
    start, end = model_span(body, fields)
    if start < 0:
        opening = body.index(b"{") + 1
        comma = b"" if _is_empty(body, opening) else b","
        body = b'%b"model":%b%b%b' % (body[:opening], name, comma, body[opening:])
    else:
        body = b"%b%b%b" % (body[:start], name, body[end:])
    return _asking_usage(body, fields) if ask_usage else body


def model_span(body: bytes, fields: Fields) -> tuple[int, int]:
    """Return where the value of the top-level `model` begins and ends, or (-1, -1) without one.

    Raises:
        BadRequest: There are two.
    """
    if fields.model is msgspec.UNSET:
        return -1, -1
    if _ASCII_ESCAPE not in body:
        # There is a top-level `model`, spelt without escapes: if these bytes occur once, this is it.
        first = body.find(_MODEL_KEY)
        if body.find(_MODEL_KEY, first + 7) < 0:
            value = _PLAIN_VALUE.match(body, first + 7)
            if value is not None:
                end = value.end()
                return body.rindex(b'"', 0, end - 1), end
    spans = _values(body, "model")
    if len(spans) > 1:
        raise BadRequest("The body has more than one `model`; send it once.", param="model")
    return spans[0]


def _is_empty(body: bytes, opening: int) -> bool:
    return body[opening:].lstrip(b" \t\r\n")[:1] == b"}"


def _asking_usage(body: bytes, fields: Fields) -> bytes:
    options = fields.stream_options
    if options is msgspec.UNSET:
        closing = body.rindex(b"}")
        return b"%b%b%b" % (body[:closing], _ASK_USAGE, body[closing:])
    if options is not None and not isinstance(options, dict):
        return body  # a wrong type: the engine's error says so
    start, end = _last_value(body, "stream_options")
    if options is None:
        return b'%b{"include_usage":true}%b' % (body[:start], body[end:])
    inner = body[start:end]
    if "include_usage" in options:
        first, last = _last_value(inner, "include_usage")
        return b"%btrue%b" % (body[: start + first], body[start + last :])
    comma = b"" if _is_empty(inner, 1) else b","
    return b'%b{"include_usage":true%b%b' % (body[:start], comma, body[start + 1 :])


def _last_value(body: bytes, name: str) -> tuple[int, int]:
    """Return where the value of a member that is there stands; JSON readers take the last of several."""
    return _values(body, name)[-1]


# Numbers as text: Python refuses integers of more than 4,300 digits, and we need none of them.
scan: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).scan_once  # type: ignore[attr-defined]  # public, not in the stubs


def _values(body: bytes, name: str) -> list[tuple[int, int]]:
    """Return where the values of a JSON object's members called `name` begin and end, in bytes; slow and exact.

    At most the first and the last: who asks needs no more, and each place costs a pass over the body.
    """
    text = body.decode()
    found: list[tuple[int, int]] = []
    at = _skip(text, text.index("{") + 1)
    try:
        while text[at] != "}":
            key, at = scan(text, at)
            start = _skip(text, _skip(text, at) + 1)
            _, end = scan(text, start)
            if key == name:
                found[1:] = [(start, end)]
            at = _skip(text, end)
            if text[at] == ",":
                at = _skip(text, at + 1)
    except (StopIteration, ValueError, IndexError):
        raise BadRequest("The body is not a valid JSON object.") from None
    except RecursionError:
        raise _too_deep() from None
    if len(text) == len(body):
        return found
    return [(len(text[:start].encode()), len(text[:end].encode())) for start, end in found]


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
