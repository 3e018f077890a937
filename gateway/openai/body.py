"""Reads the fields of a request's body that the gateway needs, and rewrites `model`; all other bytes stay as sent.

A body is parsed once, and only the needed fields are built. Then the value of `model` is replaced in the bytes, so that
big integers, float forms, escapes, unknown fields and key order reach the engine untouched. One addition is made: for a
stream whose client did not ask for usage the gateway asks, and the extra event is removed from the reply (see
docs/decisions/0003-usage-of-streams.md).

A usual body is read by one call of a parser in C. A large one, or a small one that is crafted to be expensive, is read
in short steps: its members are located, and only the needed ones are parsed (see docs/decisions/0024-large-bodies.md).
"""

import re
from collections.abc import Generator
from typing import Annotated, Any, Final, get_type_hints

import msgspec

from gateway.errors import BadRequest
from gateway.openai.json_outline import (
    DEEPEST_NESTING,
    Outline,
    check_nesting,
    outline_in_steps,
    outline_of,
    run_to_end,
)
from gateway.openai.large_prompts import count_in_steps, media_in_steps
from gateway.openai.lax import is_refused, is_stream, is_true
from gateway.openai.pieces import Edit, Pieces, apply_edits
from gateway.openai.surrogates import may_have_surrogates, repair_surrogates, repair_surrogates_in_steps

# The largest body that is parsed in one call: 10 ms at worst.
AT_ONCE_BYTES: Final = 1024 * 1024
# A larger body is first checked for being expensive to parse; up to this size it is parsed in one call without a check.
SURELY_AT_ONCE_BYTES: Final = 64 * 1024
# The most arrays and objects of a body that is parsed in one call: searching so many for media takes 25 ms.
_MAX_CONTAINERS_AT_ONCE: Final = 4_000
# The most bytes that the needed fields may have together in a body read in steps; prompts do not count.
MAX_FIELD_BYTES: Final = 64 * 1024
# How much of a large prompt is kept: enough to tell how the conversation begins (`prefix.py`).
BEGINNING_BYTES: Final = 8 * 1024

_MODEL_KEY: Final = b'"model"'
# The usual form of a model: a colon and a string without escapes.
_PLAIN_VALUE: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*"[^"\\]*"')
# `\u00xx` is the only escape that can spell an ASCII letter, so in a body without it keys are spelt plainly.
_ASCII_ESCAPE: Final = b"\\u00"
_ASK_USAGE: Final = b',"stream_options":{"include_usage":true}'
_NOTHING: Final = msgspec.Raw()
# Numbers up to these pass without a check: a policy with a lower cap turns the quick path off (`engine_fields.py`).
USUAL_CHOICES: Final = 1
USUAL_TOKENS: Final = 8192


class Fields(msgspec.Struct, frozen=True, gc=False):
    """The fields of a body that the gateway reads. They are untyped: refusing a wrong type is left to the engine."""

    model: Any = msgspec.UNSET
    stream: Any = None
    stream_options: Any = msgspec.UNSET
    safety_identifier: Any = None
    user: Any = None
    prompt_cache_key: Any = None
    # The prompt's raw JSON: the endpoint decides which of the three has it. Of a large body only the beginning.
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    # Anthropic's clients, and some front ends, name the user in it.
    metadata: msgspec.Raw = _NOTHING
    stream_interval: Any = None

    def leaves_usage(self) -> bool:
        """Whether this is a stream whose client did not ask for usage, and whose options an engine would accept."""
        if not is_stream(self.stream):
            return False
        options = self.stream_options
        include_usage = options.get("include_usage") if isinstance(options, dict) else None
        return not is_true(include_usage) and not is_refused(include_usage)


class UsualFields(Fields, frozen=True, gc=False):
    """A body without any value that a policy for engine fields might refuse (`engine_fields.py`).

    The types say which values those are, and the decoder checks them while it parses, so the policy costs a usual
    request almost nothing. A body with any other value in one of these fields is decoded as `OddFields`.
    """

    priority: None = None
    request_id: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    data_parallel_rank: None = None
    prompt_embeds: None = None
    chat_template: None = None
    mm_processor_kwargs: None = None
    media_io_kwargs: None = None
    vllm_xargs: None = None
    logits_processors: None = None
    background: None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=USUAL_CHOICES)] | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1, le=USUAL_CHOICES)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=USUAL_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=0, le=USUAL_TOKENS)] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=0, le=USUAL_TOKENS)] | None = None


class OddFields(Fields, frozen=True, gc=False):
    """A body that the policy for engine fields has to check: raw JSON of its fields, empty where a field is missing."""

    priority: msgspec.Raw = _NOTHING
    request_id: msgspec.Raw = _NOTHING
    kv_transfer_params: msgspec.Raw = _NOTHING
    ec_transfer_params: msgspec.Raw = _NOTHING
    data_parallel_rank: msgspec.Raw = _NOTHING
    prompt_embeds: msgspec.Raw = _NOTHING
    chat_template: msgspec.Raw = _NOTHING
    mm_processor_kwargs: msgspec.Raw = _NOTHING
    media_io_kwargs: msgspec.Raw = _NOTHING
    vllm_xargs: msgspec.Raw = _NOTHING
    logits_processors: msgspec.Raw = _NOTHING
    background: msgspec.Raw = _NOTHING
    n: msgspec.Raw = _NOTHING
    best_of: msgspec.Raw = _NOTHING
    max_tokens: msgspec.Raw = _NOTHING
    max_completion_tokens: msgspec.Raw = _NOTHING
    max_output_tokens: msgspec.Raw = _NOTHING


_USUAL: Final = msgspec.json.Decoder(UsualFields)
_ODD: Final = msgspec.json.Decoder(OddFields)
# Fields that the policy for engine fields may refuse.
POLICED: Final = frozenset(OddFields.__struct_fields__) - frozenset(Fields.__struct_fields__)


class LargeFields(Fields, frozen=True, gc=False, kw_only=True):
    """The fields of a body that was read in steps.

    Attributes:
        outline: The positions of its members.
        policed: The fields that a policy may refuse.
        counts: How many prompts `prompt` and `input` hold.
        media: (rule, field) of media in the prompt, member by member (`media.py`).
        repaired: The body without lone surrogates, if it has some and is small enough to be parsed; else empty.
    """

    outline: Outline
    policed: Fields
    counts: dict[str, int]
    media: tuple[tuple[str, str], ...]
    repaired: bytes


# The members that hold what the model reads, at one endpoint or another.
PROMPTS: Final = ("messages", "input", "prompt", "system", "previous_input_messages")
_COUNTED: Final = ("prompt", "input")

# Fields that can be long by nature; of a large body they are not parsed.
_LONG: Final = frozenset(name for name, kind in get_type_hints(Fields).items() if kind is msgspec.Raw)
_READ: Final = frozenset(Fields.__struct_encode_fields__) | POLICED
# Also located: members that a policy checks, or that tell how a conversation begins (`conversation.py`).
_WANTED: Final = _READ | {*PROMPTS, "instructions", "previous_response_id"}
# In a large body only the presence of these fields is read, not their value, which may be long.
_NAMED_ONLY: Final = frozenset(("prompt_embeds", "kv_transfer_params", "ec_transfer_params", "chat_template"))
_MAX_NAMED_ONLY_BYTES: Final = 64


def takes_steps(body: bytes) -> bool:
    """Whether a body has to be read in steps, because parsing it in one call would block the event loop for long."""
    if len(body) <= SURELY_AT_ONCE_BYTES:
        return False
    if len(body) > AT_ONCE_BYTES or body.count(b"[") + body.count(b"{") > _MAX_CONTAINERS_AT_ONCE:
        return True
    return may_have_surrogates(body)  # `repair_surrogates` is slow


def read(body: bytes) -> Fields:
    """Return the fields of a JSON object.

    Raises:
        BadRequest: The body is not a JSON object, is nested too deeply, or has too many parts.
    """
    if len(body) > SURELY_AT_ONCE_BYTES and takes_steps(body):
        return run_to_end(read_in_steps(Pieces((body,))))
    if body.count(b"[") + body.count(b"{") > DEEPEST_NESTING:
        check_nesting(body)
    if not body.isascii():  # the decoder does not check the UTF-8 of strings that it skips
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise _not_json(body, error) from None
    try:
        return _USUAL.decode(body)
    except msgspec.DecodeError:  # an unusual type, or invalid JSON: `_parse` finds out which
        return _parse(body)


def read_in_steps(body: Pieces) -> Generator[None, None, LargeFields]:
    """Return the fields of a JSON object of any size; yields after each short step.

    Raises:
        BadRequest: The body is not a JSON object (checked only as far as it is read), is nested too deeply, or has too
            many parts.
    """
    outline = yield from outline_in_steps(body, _WANTED)
    members: list[bytes] = []
    total = 0
    for name, spans in outline.members.items():
        if name in _LONG or name not in _READ:
            continue
        start, end = spans[-1]
        if name in _NAMED_ONLY and end - start > _MAX_NAMED_ONLY_BYTES:
            members.append(b'"%b":"..."' % name.encode())
            continue
        total += end - start
        if total > MAX_FIELD_BYTES:
            raise BadRequest(
                f"`{name}` has {end - start:,} bytes; in a large body the fields that are no prompt may have "
                f"{MAX_FIELD_BYTES:,} together.",
                param=name,
            )
        members.append(b'"%b":%b' % (name.encode(), body.cut(start, end)))
    fields = _parse(b"{%b}" % b",".join(members))
    long = {
        name: msgspec.Raw(body.cut(spans[-1][0], min(spans[-1][1], spans[-1][0] + BEGINNING_BYTES)))
        for name, spans in outline.members.items()
        if name in _LONG
    }
    values = {name: getattr(fields, name) for name in Fields.__struct_fields__}
    counts: dict[str, int] = {}
    media: list[tuple[str, str]] = []
    for name in PROMPTS:
        if name in outline.members:
            span = outline.members[name][-1]
            if name in _COUNTED:
                counts[name] = yield from count_in_steps(body, span)
            media += (yield from media_in_steps(body, span)).items()
    whole = b""
    if body.size <= AT_ONCE_BYTES and may_have_surrogates(body.whole()):
        whole = yield from repair_surrogates_in_steps(body.whole())
    return LargeFields(
        **(values | long), outline=outline, policed=fields, counts=counts, media=tuple(media), repaired=whole
    )


def _parse(body: bytes) -> Fields:
    try:
        try:
            return _fields_of(body)
        except msgspec.DecodeError:
            if not may_have_surrogates(body):
                raise
            # RFC 8259, 8.2 allows lone surrogates, and they are common: JavaScript cuts emojis in two.
            return _fields_of(repair_surrogates(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, error) from None


def _not_json(body: bytes, error: Exception) -> BadRequest:
    if not body.strip(b" \t\r\n"):
        return BadRequest("The body is empty; a JSON object is expected.")
    where = re.search(r"byte (\d+)", str(error))
    at = f" (near byte {where[1]})" if where else ""
    return BadRequest(f"The body is not a valid JSON object{at}.")


def _fields_of(body: bytes) -> Fields:
    try:
        return _USUAL.decode(body)
    except msgspec.DecodeError:  # a field has an unusual type, or a number that is too long
        return _ODD.decode(body)


def rewrite_model(body: bytes, fields: Fields, name: bytes, *, ask_usage: bool = False) -> bytes:
    """Return `body` with `name` as its model, all other bytes unchanged.

    Args:
        body: A JSON object that `read` has accepted.
        fields: What `read` returned for it.
        name: The new model name as a JSON string, quotes included.
        ask_usage: Also ask the engine for the stream's usage.

    Raises:
        BadRequest: The body has two `model` keys, so it is not clear which one counts.
    """
    if not ask_usage or fields.stream_options is msgspec.UNSET:
        start, end = _plain_model_span(body, fields)
        if start > 0:
            if not ask_usage:
                return b"%b%b%b" % (body[:start], name, body[end:])
            closing = body.rindex(b"}")
            return b"%b%b%b%b%b" % (body[:start], name, body[end:closing], _ASK_USAGE, body[closing:])
    outline = fields.outline if isinstance(fields, LargeFields) else outline_of(body, _WANTED)
    return apply_edits(body, edits(Pieces((body,)), fields, outline, name, ask_usage=ask_usage))


def edits(body: Pieces, fields: Fields, outline: Outline, name: bytes, *, ask_usage: bool) -> list[Edit]:
    """Return the edits that make `name` the model of `body` and, if `ask_usage`, ask the engine for usage.

    Raises:
        BadRequest: The body has two `model` keys, so it is not clear which one counts.
    """
    spans = outline.members.get("model")
    if spans is None:
        comma = b"" if outline.is_empty else b","
        changes = [(outline.opening, outline.opening, b'"model":%b%b' % (name, comma))]
    elif len(spans) > 1:
        raise BadRequest("The body has more than one `model`; send it once.", param="model")
    else:
        changes = [(*spans[0], name)]
    if ask_usage:
        changes += _usage_edits(body, fields.stream_options, outline)
    return sorted(changes, key=lambda edit: edit[:2])


def _plain_model_span(body: bytes, fields: Fields) -> tuple[int, int]:
    """Return start and end of the value of `model` if it occurs once and without escapes, else (-1, -1)."""
    if fields.model is msgspec.UNSET or isinstance(fields, LargeFields) or _ASCII_ESCAPE in body:
        return -1, -1
    # The body has a top-level `model`, spelt without escapes: if these bytes occur only once, they are its key.
    first = body.find(_MODEL_KEY)
    if body.find(_MODEL_KEY, first + 7) >= 0:
        return -1, -1
    value = _PLAIN_VALUE.match(body, first + 7)
    if value is None:
        return -1, -1
    end = value.end()
    return body.rindex(b'"', 0, end - 1), end


def _usage_edits(body: Pieces, options: Any, outline: Outline) -> list[Edit]:
    if options is msgspec.UNSET:
        return [(outline.closing, outline.closing, _ASK_USAGE)]
    start, end = outline.members["stream_options"][-1]  # JSON readers take the last of several
    if options is None:
        return [(start, end, b'{"include_usage":true}')]
    if not isinstance(options, dict):
        return []  # a wrong type, which the engine will refuse
    inner = outline_of(body.cut(start, end), ("include_usage", "continuous_usage_stats"))
    changes: list[Edit] = []
    if "include_usage" in options:
        first, last = inner.members["include_usage"][-1]
        changes.append((start + first, start + last, b"true"))
    else:
        comma = b"" if inner.is_empty else b","
        changes.append((start + 1, start + 1, b'"include_usage":true' + comma))
    if is_true(options.get("continuous_usage_stats")):  # ignored by engines unless `include_usage` is true
        first, last = inner.members["continuous_usage_stats"][-1]
        changes.append((start + first, start + last, b"false"))
    return changes
