"""The OpenAI fields we read; every other byte of a body passes through as it was sent.

A body is parsed once, without building what we do not read. Then only the value of
`model` is replaced, at its place in the bytes, so big integers, float forms, escapes,
unknown fields and key order reach the engine untouched. One addition is made: a stream
whose sender did not ask for usage is asked for it, and the extra event is taken out
again on the way back (see docs/decisions/0003-usage-of-streams.md).

A usual body is read in one call of a parser in C. One that is large, or small and made to cost
much, is read in short steps: its members are found, and only those that we read are parsed
(see docs/decisions/0024-large-bodies.md).
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
    finished,
    outline_in_steps,
    outline_of,
)
from gateway.openai.large_prompts import count_in_steps, media_in_steps
from gateway.openai.lax import is_refused, is_stream, is_true
from gateway.openai.pieces import Edit, Pieces, edited
from gateway.openai.surrogates import may_have_halves, mended, mended_in_steps

# The largest body that is read at once: at worst 10 ms.
AT_ONCE_BYTES: Final = 1024 * 1024
# Above this a body is looked at before it is read at once: what is made to cost much is not.
SURELY_AT_ONCE_BYTES: Final = 64 * 1024
# Looking for media in so many takes 25 ms.
_MAX_CONTAINERS_AT_ONCE: Final = 4_000
# What the fields that we read may have together where a body is read in steps, those beside that can be long by nature.
MAX_FIELD_BYTES: Final = 64 * 1024
# What is kept of those: how a conversation begins (`prefix.py`).
BEGINNING_BYTES: Final = 8 * 1024

_MODEL_KEY: Final = b'"model"'
# The usual form: a colon and a string without escapes.
_PLAIN_VALUE: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*"[^"\\]*"')
# `\u00xx` is the only escape that can spell an ASCII letter, so without one a key stands as it reads.
_ASCII_ESCAPE: Final = b"\\u00"
_ASK_USAGE: Final = b',"stream_options":{"include_usage":true}'
_NOTHING: Final = msgspec.Raw()
# What is asked for up to here needs no look: no policy's cap is lower without saying so (`engine_fields.py`).
USUAL_CHOICES: Final = 1
USUAL_TOKENS: Final = 8192


class Fields(msgspec.Struct, frozen=True, gc=False):
    """What is read of a body. All are untyped: an odd type is the engine's to judge."""

    model: Any = msgspec.UNSET
    stream: Any = None
    stream_options: Any = msgspec.UNSET
    safety_identifier: Any = None
    user: Any = None
    prompt_cache_key: Any = None
    # What the model reads, as it was sent: one of them, as the endpoint has it. Of a large body only the beginning.
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    # Where Anthropic's clients, and some front ends, say who asks.
    metadata: msgspec.Raw = _NOTHING
    stream_interval: Any = None

    def leaves_usage(self) -> bool:
        """Whether this is a stream whose sender will not see its usage; what an engine refuses is not."""
        if not is_stream(self.stream):
            return False
        options = self.stream_options
        asked = options.get("include_usage") if isinstance(options, dict) else None
        return not is_true(asked) and not is_refused(asked)


class UsualFields(Fields, frozen=True, gc=False):
    """A body in which no field holds anything that a policy might refuse (`engine_fields.py`).

    The types say so, and the decoder checks them on its way: the usual request pays next to nothing for the policy.
    Whatever else a body holds in one of these fields makes it `OddFields`.
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
    """A body that a policy has to look at; the fields as they were sent, empty where they were not."""

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
# Fields that a policy may refuse.
POLICED: Final = frozenset(OddFields.__struct_fields__) - frozenset(Fields.__struct_fields__)


class LargeFields(Fields, frozen=True, gc=False, kw_only=True):
    """What is read of a body in steps.

    Attributes:
        outline: Where its members stand.
        policed: The fields that a policy may refuse.
        counts: How many prompts `prompt` and `input` hold.
        media: (rule, field) of media in what the model reads, each member's in turn (`media.py`).
        mended: The body with no halves of surrogate pairs, if it has some and is small enough to be parsed; else empty.
    """

    outline: Outline
    policed: Fields
    counts: dict[str, int]
    media: tuple[tuple[str, str], ...]
    mended: bytes


# What the model reads, as an endpoint has it.
PROMPTS: Final = ("messages", "input", "prompt", "system", "previous_input_messages")
_COUNTED: Final = ("prompt", "input")

# Fields that can be long by nature; of a large body they are not parsed.
_LONG: Final = frozenset(name for name, kind in get_type_hints(Fields).items() if kind is msgspec.Raw)
_READ: Final = frozenset(Fields.__struct_encode_fields__) | POLICED
# What else is looked at by a policy, or tells how a conversation begins (`conversation.py`).
_WANTED: Final = _READ | {*PROMPTS, "instructions", "previous_response_id"}
# Of a large body a policy learns that such a field is there, and not what it holds.
_NAMED_ONLY: Final = frozenset(("prompt_embeds", "kv_transfer_params", "ec_transfer_params", "chat_template"))
_MAX_NAMED_ONLY_BYTES: Final = 64


def takes_steps(body: bytes) -> bool:
    """Whether a body is to be read in steps, because a parser would hold everything else up for long."""
    if len(body) <= SURELY_AT_ONCE_BYTES:
        return False
    if len(body) > AT_ONCE_BYTES or body.count(b"[") + body.count(b"{") > _MAX_CONTAINERS_AT_ONCE:
        return True
    return may_have_halves(body)  # `mended` is slow


def read(body: bytes) -> Fields:
    """Return the fields of a JSON object.

    Raises:
        BadRequest: Not JSON, not an object, nested too deeply, or of too many parts.
    """
    if len(body) > SURELY_AT_ONCE_BYTES and takes_steps(body):
        return finished(read_in_steps(Pieces((body,))))
    if body.count(b"[") + body.count(b"{") > DEEPEST_NESTING:
        check_nesting(body)
    if not body.isascii():  # the decoder does not look into strings that it skips
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise _not_json(body, error) from None
    try:
        return _USUAL.decode(body)
    except (msgspec.DecodeError, RecursionError):  # a type that is not the usual, or an error that is to be told
        return _parsed(body)


def read_in_steps(body: Pieces) -> Generator[None, None, LargeFields]:
    """Return the fields of a JSON object of any size; yields after each short step.

    Raises:
        BadRequest: Not JSON as far as it is looked at, not an object, nested too deeply, or of too many parts.
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
    fields = _parsed(b"{%b}" % b",".join(members))
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
    if body.size <= AT_ONCE_BYTES and may_have_halves(body.whole()):
        whole = yield from mended_in_steps(body.whole())
    return LargeFields(
        **(values | long), outline=outline, policed=fields, counts=counts, media=tuple(media), mended=whole
    )


def _parsed(body: bytes) -> Fields:
    try:
        try:
            return _fields_of(body)
        except msgspec.DecodeError:
            if not may_have_halves(body):
                raise
            # RFC 8259, 8.2: half of a surrogate pair is allowed and common, where JavaScript cut an emoji in two.
            return _fields_of(mended(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, error) from None
    except RecursionError:
        raise BadRequest(f"The body is nested more than {DEEPEST_NESTING} levels deep.") from None


def _not_json(body: bytes, error: Exception) -> BadRequest:
    if not body.strip(b" \t\r\n"):
        return BadRequest("The body is empty; a JSON object is expected.")
    where = re.search(r"byte (\d+)", str(error))
    at = f" (near byte {where[1]})" if where else ""
    return BadRequest(f"The body is not a valid JSON object{at}.")


def _fields_of(body: bytes) -> Fields:
    try:
        return _USUAL.decode(body)
    except msgspec.DecodeError:  # of a type that is not the usual, or a number too long to be one
        return _ODD.decode(body)


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
    if not ask_usage or fields.stream_options is msgspec.UNSET:
        start, end = _usual_place(body, fields)
        if start > 0:
            if not ask_usage:
                return b"%b%b%b" % (body[:start], name, body[end:])
            closing = body.rindex(b"}")
            return b"%b%b%b%b%b" % (body[:start], name, body[end:closing], _ASK_USAGE, body[closing:])
    outline = fields.outline if isinstance(fields, LargeFields) else outline_of(body, _WANTED)
    return edited(body, edits(Pieces((body,)), fields, outline, name, ask_usage=ask_usage))


def edits(body: Pieces, fields: Fields, outline: Outline, name: bytes, *, ask_usage: bool) -> list[Edit]:
    """Return what to change in `body`, so that `name` is its model and, where asked for, its usage is told.

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
        changes += _asking_usage(body, fields.stream_options, outline)
    return sorted(changes, key=lambda edit: edit[:2])


def _usual_place(body: bytes, fields: Fields) -> tuple[int, int]:
    """Return where the value of `model` begins and ends if it is written as usual and once, else (-1, -1)."""
    if fields.model is msgspec.UNSET or isinstance(fields, LargeFields) or _ASCII_ESCAPE in body:
        return -1, -1
    # There is a top-level `model`, spelt without escapes: if these bytes occur once, this is it.
    first = body.find(_MODEL_KEY)
    if body.find(_MODEL_KEY, first + 7) >= 0:
        return -1, -1
    value = _PLAIN_VALUE.match(body, first + 7)
    if value is None:
        return -1, -1
    end = value.end()
    return body.rindex(b'"', 0, end - 1), end


def _asking_usage(body: Pieces, options: Any, outline: Outline) -> list[Edit]:
    if options is msgspec.UNSET:
        return [(outline.closing, outline.closing, _ASK_USAGE)]
    start, end = outline.members["stream_options"][-1]  # JSON readers take the last of several
    if options is None:
        return [(start, end, b'{"include_usage":true}')]
    if not isinstance(options, dict):
        return []  # a wrong type: the engine's error says so
    inner = outline_of(body.cut(start, end), ("include_usage", "continuous_usage_stats"))
    changes: list[Edit] = []
    if "include_usage" in options:
        first, last = inner.members["include_usage"][-1]
        changes.append((start + first, start + last, b"true"))
    else:
        comma = b"" if inner.is_empty else b","
        changes.append((start + 1, start + 1, b'"include_usage":true' + comma))
    if is_true(options.get("continuous_usage_stats")):  # it means nothing to an engine without `include_usage`
        first, last = inner.members["continuous_usage_stats"][-1]
        changes.append((start + first, start + last, b"false"))
    return changes
