"""Passes server-sent events through as whole events, and reads usage, errors and the fingerprint on the way.

Sans-IO and pure. Bytes are forwarded as they come, but an incomplete event is held until its end has come. So a stream
that breaks off never leaves a client with half an event, and an error event can follow.
"""

import re
from typing import Annotated, Final, Generic, TypeVar

import msgspec

from gateway.serve.content import has_content

# An event ends with an empty line. The three line ends of the WHATWG standard may be mixed. The group is atomic, or CR
# and LF would count as two; a CR at the very end may be half of a CRLF.
_END: Final = re.compile(rb"(?>\r\n|\n|\r(?!\Z)){2}")
# The same for data that is known to hold only whole events.
_WHOLE_END: Final = re.compile(rb"(?>\r\n|\n|\r){2}")
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data: ?([^\r\n]*)")
_USAGE: Final = re.compile(rb'"usage" ?: ?\{')
# In an event that finishes a choice; vLLM puts its `system_fingerprint` into the same event.
FINISHES: Final = b'"finish_reason":"'
# How vLLM reports an error after the head: in OpenAI's form, and in Anthropic's. Generated text cannot contain these
# bytes, since JSON escapes its quotes and line ends.
FAILS: Final = b'data: {"error":'
FAILS_BY_NAME: Final = b"event: error\n"
_FINGERPRINT: Final = b'"system_fingerprint":'
# The text of an event, between its quotes. In most engines' streams all other bytes of the events are the same.
_TEXT: Final = re.compile(rb'"(?:content|text|delta)" ?: ?"([^"\\]*)"(?=[,}])')
# How often a stream's template is learned at most: with some engines other parts of the events differ, too
# (log-probabilities, numbers), so that learning never pays.
_LESSONS: Final = 4
# An HTTP chunk's size line has 4 bytes up to 255 bytes of content, and 5 up to 4,095.
_MAX_WITH_SHORT_SIZE: Final = 4 + 255 + 2
# A larger event is passed on in parts, so that memory stays bounded. vLLM's largest events have prompt_logprobs, some
# 100 bytes a token.
MAX_HELD_EVENT_BYTES: Final = 1 << 20
# A larger number is no count of tokens: the engine is broken or lies. The bound keeps sums within 64 bits, which is the
# limit of messages to the node, the store and Prometheus.
MAX_TOKENS: Final = 2**31

_MAX_DIGITS: Final = len(str(MAX_TOKENS))
_NONE: Final = msgspec.Raw(b"")

_TOKENS = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class UsualUsage(msgspec.Struct, frozen=True, gc=False):
    """The token counts in a reply, under OpenAI's two spellings (completions, responses)."""

    prompt_tokens: _TOKENS | None = None
    completion_tokens: _TOKENS | None = None
    input_tokens: _TOKENS | None = None
    output_tokens: _TOKENS | None = None

    def counts(self) -> tuple[int, int] | None:
        """Return (prompt, generated) tokens; a missing count is 0, and the result is None if both are missing."""
        prompt, generated = self.prompt_tokens or self.input_tokens, self.completion_tokens or self.output_tokens
        return None if prompt is None and generated is None else (prompt or 0, generated or 0)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The token counts in a reply, as raw JSON: used if `UsualUsage` does not fit, because a value is no count.

    The values are not validated, so that an invalid one does not hide that the event carries the usage.
    """

    prompt_tokens: msgspec.Raw = _NONE
    completion_tokens: msgspec.Raw = _NONE
    input_tokens: msgspec.Raw = _NONE
    output_tokens: msgspec.Raw = _NONE

    def counts(self) -> tuple[int, int] | None:
        """Return (prompt, generated) tokens; a missing or invalid count is 0, and the result is None if both are."""
        prompt, generated = _count(self.prompt_tokens), _count(self.completion_tokens)
        if prompt <= 0:
            prompt = max(prompt, _count(self.input_tokens))
        if generated <= 0:
            generated = max(generated, _count(self.output_tokens))
        return None if prompt < 0 and generated < 0 else (max(0, prompt), max(0, generated))


def _count(raw: msgspec.Raw) -> int:
    """Return a valid count of tokens, else -1: booleans, floats and strings are not valid."""
    figure = bytes(raw)
    count = int(figure) if figure.isdigit() and len(figure) <= _MAX_DIGITS else -1
    return count if count <= MAX_TOKENS else -1


U = TypeVar("U", UsualUsage, Usage)


class _Carrier(msgspec.Struct, Generic[U], frozen=True):
    usage: U | None = None
    choices: list[msgspec.Raw] | None = None
    system_fingerprint: msgspec.Raw = msgspec.Raw(b"")
    response: "_Carrier[U] | None" = None
    message: "_Carrier[U] | None" = None


_USUAL_CARRIER: Final = msgspec.json.Decoder(_Carrier[UsualUsage])
_CARRIER: Final = msgspec.json.Decoder(_Carrier[Usage])


def usage_of(reply: bytes) -> tuple[int, int] | None:
    """Return (prompt, generated) tokens of a whole JSON reply; None if it has no usage."""
    found = _carrier_of(reply)
    return found.usage.counts() if found is not None and found.usage is not None else None


def _carrier_of(data: bytes) -> _Carrier[UsualUsage] | _Carrier[Usage] | None:
    carrier: _Carrier[UsualUsage] | _Carrier[Usage]
    try:
        try:
            carrier = _USUAL_CARRIER.decode(data)
        except msgspec.ValidationError:  # an invalid count, or another value of an unexpected type
            carrier = _CARRIER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if carrier.usage is None and (inner := carrier.response or carrier.message) is not None:
        return inner
    return carrier


# Results of `EventStream.passes` for a chunk that goes to the client unchanged.
STRUCTURE: Final = 1
CONTENT: Final = 2


class EventStream:
    """The events of one reply as they pass.

    vLLM puts its `system_fingerprint` into the events that finish a choice, but if there is a usage event, into that
    instead. So that hiding the usage event hides nothing else, the fingerprint is put back into the finishing events.
    If the engine's fingerprint is not known yet, the finishing event is held until the usage event, which follows at
    once.

    Args:
        hide_usage: Remove the usage event, as only the gateway has asked for it.
        fingerprint: The engine's fingerprint as JSON; empty if it has none, None if not known.
    """

    __slots__ = (
        "_after",
        "_before",
        "_finishing",
        "_held",
        "_hide_usage",
        "_is_clear",
        "_lessons",
        "fingerprint",
        "has_failed",
        "is_split",
        "usage",
    )

    def __init__(self, *, hide_usage: bool = False, fingerprint: bytes | None = None) -> None:
        self._hide_usage = hide_usage
        self._held = b""
        self._finishing = b""
        self.fingerprint = fingerprint
        self._is_clear = True
        self._before = self._after = b""  # the bytes before and after the text in a chunk that was searched
        self._lessons = _LESSONS
        # The last bytes passed on are the beginning of an event that was too long to be held.
        self.is_split = False
        self.has_failed = False  # the stream held an error event
        self.usage: tuple[int, int] | None = None

    def passes(self, chunk: bytes) -> int:
        """Return whether an HTTP chunk of whole events may go to the client unchanged, and what it holds.

        Returns:
            0 if it has to go through `feed`, because it may hold something to read, or earlier bytes are held. Else
            `CONTENT` if the model has generated any of it, `STRUCTURE` if not.

        A chunk that differs from an earlier `CONTENT` chunk only in the text between two quotes needs no search: a
        string without quotes cannot hide a key. That takes a quarter of the time of a search.
        """
        if not self._is_clear:
            return 0
        before = self._before
        if before and chunk.endswith(self._after):
            start = 4 if len(chunk) <= _MAX_WITH_SHORT_SIZE else 5
            closing = len(chunk) - len(self._after)
            # Searched from the text's second byte: the text must not be empty, and cannot begin with a quote.
            if chunk.startswith(before, start) and chunk.find(b'"', start + len(before) + 1) == closing:
                return CONTENT  # like the chunk it was compared with
        if b'"usage"' in chunk or FINISHES in chunk or FAILS in chunk or FAILS_BY_NAME in chunk:
            return 0
        if not has_content(chunk):
            return STRUCTURE if b"\ndata:" in chunk and b"ping" not in chunk else 0
        if self._lessons:
            self._learn(chunk)
        return CONTENT

    def _learn(self, chunk: bytes) -> None:
        text = _TEXT.search(chunk)
        if text is not None:
            self._lessons -= 1
            self._before = chunk[chunk.index(b"\n") + 1 : text.start(1)]
            self._after = chunk[text.end(1) :]

    def feed(self, data: bytes) -> bytes:
        """Return the whole events that may go to the client now; an incomplete one is held."""
        if self._held:
            data = self._held + data
            self._held = b""
        if FAILS in data or FAILS_BY_NAME in data:
            self.has_failed = True
        if not data.endswith(b"\n\n"):
            data = self._hold_the_rest(data)
        elif self.is_split:
            self.is_split = False
        if b'"usage"' in data or (self._hide_usage and (self._finishing or FINISHES in data)):
            data = self._filter_usage(data)
        self._is_clear = not (self._held or self._finishing or self.is_split)
        return data

    def rest(self) -> bytes:
        """Return all held bytes, at the end of a complete reply: whole events, and an event without an end."""
        rest, self._finishing, self._held = self._finishing + self._held, b"", b""
        return rest

    def whole_rest(self) -> bytes:
        """Return the held whole events of a reply that broke off, without an incomplete one."""
        rest, self._finishing, self._held = self._finishing, b"", b""
        return rest

    def _hold_the_rest(self, data: bytes) -> bytes:
        end = 0
        for match in _END.finditer(data):
            end = match.end()
        if len(data) - end > MAX_HELD_EVENT_BYTES or (self.is_split and not end):
            self.is_split = True
            return data
        self.is_split = False
        self._held = data[end:]
        return data[:end]

    def _filter_usage(self, data: bytes) -> bytes:
        """Read the usage in whole events; if it is to be hidden, remove the event that carries only usage."""
        data = self._finishing + data
        self._finishing = b""
        parts: list[bytes] = []
        start = 0
        for match in _WHOLE_END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if not (_USAGE.search(event) and self._carries_only_usage(event)):
                parts.append(event)
        parts.append(data[start:])
        if self._hide_usage:
            self._restore_fingerprint(parts)
        return b"".join(parts)

    def _carries_only_usage(self, event: bytes) -> bool:
        found = _DATA.search(event)
        carrier = _carrier_of(found[1]) if found else None
        if carrier is None or carrier.usage is None:
            return False
        counts = carrier.usage.counts()
        if counts is not None:
            before = self.usage or (0, 0)
            # Anthropic's streams give the prompt's tokens in the first event and the reply's in the last.
            self.usage = (counts[0] or before[0], counts[1] or before[1])
        if not self._hide_usage or carrier.choices != []:
            return False
        fingerprint = bytes(carrier.system_fingerprint)
        self.fingerprint = b"" if fingerprint == b"null" else fingerprint
        return True

    def _restore_fingerprint(self, events: list[bytes]) -> None:
        """Put the fingerprint into every event that finishes a choice; if it is not known yet, hold the last one."""
        for number, event in enumerate(events):
            if FINISHES not in event or _FINGERPRINT in event:
                continue
            if self.fingerprint:
                closing = event.rindex(b"}")
                events[number] = b"%b,%b%b%b" % (event[:closing], _FINGERPRINT, self.fingerprint, event[closing:])
            elif self.fingerprint is None and not any(events[number + 1 :]):
                self._finishing, events[number] = event, b""
