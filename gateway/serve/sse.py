"""Server-sent events as they pass: whole events out, counted, the usage read.

Sans-IO and pure. Bytes are forwarded as they come, except that an event which is not
complete yet waits for its end: so a stream that breaks off never leaves a client with
half an event, and an error event can follow.
"""

import re
from typing import Final

import msgspec

# An event ends with an empty line; the three line ends are those of the WHATWG standard, mixed as
# they come. Atomic, or CR and LF would count as two; a CR that stands last may be half of a CRLF.
_LINE_END: Final = rb"(?>\r\n|\n|\r(?!\Z))"
_END: Final = re.compile(_LINE_END + _LINE_END)
_DATA: Final = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
_USAGE: Final = re.compile(rb'"usage" ?: ?\{')
# An event that grows past this is passed on in parts: memory stays bounded. vLLM's largest
# events are prompt_logprobs, some 100 bytes a token.
LONGEST_HELD_EVENT_BYTES: Final = 1 << 20


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of a reply, under OpenAI's two spellings (completions, responses)."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def counts(self) -> tuple[int, int]:
        """Return (prompt, generated) tokens; what is missing counts 0."""
        return self.prompt_tokens or self.input_tokens or 0, self.completion_tokens or self.output_tokens or 0


class _Carrier(msgspec.Struct, frozen=True):
    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: "_Carrier | None" = None
    message: "_Carrier | None" = None


_CARRIER: Final = msgspec.json.Decoder(_Carrier)


def usage_of(reply: bytes) -> tuple[int, int] | None:
    """Return (prompt, generated) tokens of a whole JSON reply, or None if it does not say."""
    found = _carrier_of(reply)
    return found.usage.counts() if found is not None and found.usage is not None else None


def _carrier_of(data: bytes) -> _Carrier | None:
    try:
        carrier = _CARRIER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if carrier.usage is None and (inner := carrier.response or carrier.message) is not None:
        return inner
    return carrier


class EventStream:
    """One reply's events on their way through.

    Args:
        hide_usage: Take the usage event out again; it was asked for by the gateway alone.
    """

    __slots__ = ("_held", "_hide_usage", "events", "is_split", "usage")

    def __init__(self, *, hide_usage: bool = False) -> None:
        self._hide_usage = hide_usage
        self._held = b""
        self.events = 0
        # The last bytes passed on are the beginning of an event that is too long to be held.
        self.is_split = False
        self.usage: tuple[int, int] | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what may go on to the client now: whole events, as they were."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n"):
            data = self._hold_the_rest(data)
        elif self.is_split:
            self.is_split = False
        if b'"usage"' in data and _USAGE.search(data):
            data = self._read_usage(data)
        self.events += data.count(b"\n\n")
        return data

    def rest(self) -> bytes:
        """Return what still waits for an end that never came, once the reply is over."""
        held, self._held = self._held, b""
        return held

    def _hold_the_rest(self, data: bytes) -> bytes:
        end = 0
        for match in _END.finditer(data):
            end = match.end()
        if len(data) - end > LONGEST_HELD_EVENT_BYTES:
            self.is_split = True
            return data
        if end:
            self.is_split = False
        self._held = data[end:]
        return data[:end]

    def _read_usage(self, data: bytes) -> bytes:
        """Read the usage out of whole events; drop the event that carries nothing else, if it is to be hidden."""
        kept: list[bytes] = []
        start = 0
        for match in _END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if not (_USAGE.search(event) and self._carries_only_usage(event)):
                kept.append(event)
        kept.append(data[start:])
        return b"".join(kept)

    def _carries_only_usage(self, event: bytes) -> bool:
        found = _DATA.search(event)
        carrier = _carrier_of(found[1]) if found else None
        if carrier is None or carrier.usage is None:
            return False
        prompt, generated = carrier.usage.counts()
        before = self.usage or (0, 0)
        # Anthropic streams tell the prompt's tokens first and the reply's last.
        self.usage = (prompt or before[0], generated or before[1])
        return self._hide_usage and carrier.choices == []
