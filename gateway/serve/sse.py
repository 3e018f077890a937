"""Server-sent events as they pass: whole events out, counted, the usage read.

Sans-IO and pure. Bytes are forwarded as they come, except that an event which is not
complete yet waits for its end: so a stream that breaks off never leaves a client with
half an event, and an error event can follow.
"""

import re
from typing import Annotated, Final, Generic, TypeVar

import msgspec

from gateway.serve.content import has_content

# An event ends with an empty line; the three line ends are those of the WHATWG standard, mixed as
# they come. Atomic, or CR and LF would count as two; a CR that stands last may be half of a CRLF.
_END: Final = re.compile(rb"(?>\r\n|\n|\r(?!\Z)){2}")
# The same in data that is known to hold whole events.
_WHOLE_END: Final = re.compile(rb"(?>\r\n|\n|\r){2}")
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data: ?([^\r\n]*)")
_USAGE: Final = re.compile(rb'"usage" ?: ?\{')
# What an event that finishes a choice has, and where vLLM tells its build and configuration.
FINISHES: Final = b'"finish_reason":"'
# How vLLM tells an error after the head has gone: OpenAI's way, and Anthropic's. No text can hold them, since JSON
# escapes its quotes and line ends.
FAILS: Final = b'data: {"error":'
FAILS_BY_NAME: Final = b"event: error\n"
_FINGERPRINT: Final = b'"system_fingerprint":'
# Where an event has its text. From the quote that opens it to the one that closes it a stream's events differ; the
# rest is the same in most engines' streams, byte for byte.
_TEXT: Final = re.compile(rb'"(?:content|text|delta)" ?: ?"([^"\\]*)"(?=[,}])')
# An engine whose events differ elsewhere (log-probabilities, numbers) is not learned from for ever.
_LESSONS: Final = 4
# An HTTP chunk's size line has 4 bytes up to 255 bytes of content and 5 up to 4,095.
_MAX_WITH_SHORT_SIZE: Final = 4 + 255 + 2
# An event that grows past this is passed on in parts: memory stays bounded. vLLM's largest
# events are prompt_logprobs, some 100 bytes a token.
MAX_HELD_EVENT_BYTES: Final = 1 << 20
# A figure beyond this is no count of tokens: the engine is broken, or lies. So that sums of them fit into 64 bits,
# which is what messages to the node, the store and Prometheus take.
MAX_TOKENS: Final = 2**31


_MAX_DIGITS: Final = len(str(MAX_TOKENS))
_NONE: Final = msgspec.Raw(b"")


_TOKENS = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class UsualUsage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of a reply as engines tell them, under OpenAI's two spellings (completions, responses)."""

    prompt_tokens: _TOKENS | None = None
    completion_tokens: _TOKENS | None = None
    input_tokens: _TOKENS | None = None
    output_tokens: _TOKENS | None = None

    def counts(self) -> tuple[int, int] | None:
        """Return (prompt, generated) tokens; what is missing is 0, and None is returned if all is."""
        prompt, generated = self.prompt_tokens or self.input_tokens, self.completion_tokens or self.output_tokens
        return None if prompt is None and generated is None else (prompt or 0, generated or 0)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The same where a figure is no count of tokens, as the engine wrote it.

    Not read yet, so that a figure which is no count leaves the event what it is: the one that tells the usage.
    """

    prompt_tokens: msgspec.Raw = _NONE
    completion_tokens: msgspec.Raw = _NONE
    input_tokens: msgspec.Raw = _NONE
    output_tokens: msgspec.Raw = _NONE

    def counts(self) -> tuple[int, int] | None:
        """Return (prompt, generated) tokens; what is missing or no count is 0, and None is returned if all is."""
        prompt, generated = _count(self.prompt_tokens), _count(self.completion_tokens)
        if prompt <= 0:
            prompt = max(prompt, _count(self.input_tokens))
        if generated <= 0:
            generated = max(generated, _count(self.output_tokens))
        return None if prompt < 0 and generated < 0 else (max(0, prompt), max(0, generated))


def _count(raw: msgspec.Raw) -> int:
    """Return a figure that is a count of tokens, else -1: a bool, a float or a text is none."""
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
    """Return (prompt, generated) tokens of a whole JSON reply, or None if it does not say."""
    found = _carrier_of(reply)
    return found.usage.counts() if found is not None and found.usage is not None else None


def _carrier_of(data: bytes) -> _Carrier[UsualUsage] | _Carrier[Usage] | None:
    carrier: _Carrier[UsualUsage] | _Carrier[Usage]
    try:
        try:
            carrier = _USUAL_CARRIER.decode(data)
        except msgspec.ValidationError:  # a figure that is no count, or something else of another type
            carrier = _CARRIER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if carrier.usage is None and (inner := carrier.response or carrier.message) is not None:
        return inner
    return carrier


# What a chunk is that may go on as it came.
STRUCTURE: Final = 1
CONTENT: Final = 2


class EventStream:
    """One reply's events on their way through.

    vLLM tells its `system_fingerprint` on the events that finish a choice, but on the usage
    event instead if there is one. So that hiding the usage hides nothing else, the fingerprint
    is put back where it would have been: from what is known of the engine, or else the
    finishing event waits for the usage event, which follows at once.

    Args:
        hide_usage: Take the usage event out again; it was asked for by the gateway alone.
        fingerprint: The engine's fingerprint as JSON, empty if it has none, None if not known.
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
        self._before = self._after = b""  # the text of the last chunk that was looked through
        self._lessons = _LESSONS
        # The last bytes passed on are the beginning of an event that is too long to be held.
        self.is_split = False
        self.has_failed = False  # the engine has told an error
        self.usage: tuple[int, int] | None = None

    def passes(self, chunk: bytes) -> int:
        """Tell what an HTTP chunk of whole events is.

        Returns:
            0 if it has to be read, or something before it waits. Else it may go on as it is: `CONTENT` if the model
            has made any of it, `STRUCTURE` if not.

        One that differs from a chunk that went on only between the quotes of a text has nothing to be read either: a
        string that holds no quote hides no key. That takes a quarter of the time of looking it through.
        """
        if not self._is_clear:
            return 0
        before = self._before
        if before and chunk.endswith(self._after):
            start = 4 if len(chunk) <= _MAX_WITH_SHORT_SIZE else 5
            closing = len(chunk) - len(self._after)
            # From the text's second byte: an empty text is none, and no other begins with a quote.
            if chunk.startswith(before, start) and chunk.find(b'"', start + len(before) + 1) == closing:
                return CONTENT  # as that one was
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
        """Return what may go on to the client now: whole events, as they were."""
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
            data = self._sifted(data)
        self._is_clear = not (self._held or self._finishing or self.is_split)
        return data

    def rest(self) -> bytes:
        """Return what still waits, once the reply is over: whole events, and an end that never came."""
        rest, self._finishing, self._held = self._finishing + self._held, b"", b""
        return rest

    def whole_rest(self) -> bytes:
        """Return the whole events that still wait, once the reply has broken off."""
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

    def _sifted(self, data: bytes) -> bytes:
        """Read the usage out of whole events; drop the event that carries nothing else, if it is to be hidden."""
        data = self._finishing + data
        self._finishing = b""
        kept: list[bytes] = []
        start = 0
        for match in _WHOLE_END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if not (_USAGE.search(event) and self._carries_only_usage(event)):
                kept.append(event)
        kept.append(data[start:])
        if self._hide_usage:
            self._restore_fingerprint(kept)
        return b"".join(kept)

    def _carries_only_usage(self, event: bytes) -> bool:
        found = _DATA.search(event)
        carrier = _carrier_of(found[1]) if found else None
        if carrier is None or carrier.usage is None:
            return False
        counts = carrier.usage.counts()
        if counts is not None:
            before = self.usage or (0, 0)
            # Anthropic streams tell the prompt's tokens first and the reply's last.
            self.usage = (counts[0] or before[0], counts[1] or before[1])
        if not self._hide_usage or carrier.choices != []:
            return False
        told = bytes(carrier.system_fingerprint)
        self.fingerprint = b"" if told == b"null" else told
        return True

    def _restore_fingerprint(self, events: list[bytes]) -> None:
        """Put the fingerprint on every event that finishes a choice; let a last one wait while it is not known."""
        for number, event in enumerate(events):
            if FINISHES not in event or _FINGERPRINT in event:
                continue
            if self.fingerprint:
                closing = event.rindex(b"}")
                events[number] = b"%b,%b%b%b" % (event[:closing], _FINGERPRINT, self.fingerprint, event[closing:])
            elif self.fingerprint is None and not any(events[number + 1 :]):
                self._finishing, events[number] = event, b""
