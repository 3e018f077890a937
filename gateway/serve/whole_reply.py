"""A reply that is no stream, as it passes: kept to read its usage, as far as that takes bounded memory.

Pure. Of one too large to be kept (embeddings of many texts, log-probabilities of a long prompt) only the place of its
usage is looked for: an engine's own key, which no text can hold, since JSON escapes its quotes.
"""

import re
from typing import Final

from gateway.serve.sse import usage_of

# A reply is kept up to here.
MAX_READ_REPLY_BYTES: Final = 4 * 1024 * 1024
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*)')
# What an object of usage has, details of the figures aside.
_MAX_USAGE_BYTES: Final = 2048
_MAX_KEY_BYTES: Final = 16


class WholeReply:
    """One reply that is no stream."""

    __slots__ = ("_found", "_parts", "_tail", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] | None = []
        self._tail = b""  # the last bytes that may be a part of what is looked for
        self._found = b""  # the last place where usage is told

    def take(self, data: bytes) -> None:
        """Take note of a part of the body."""
        self.size += len(data)
        if self._parts is None:
            self._look(data)
        elif data:
            self._parts.append(data)
            if self.size > MAX_READ_REPLY_BYTES and len(self._parts) > 1:
                parts, self._parts = self._parts, None
                self._look(b"".join(parts))

    def _look(self, data: bytes) -> None:
        data = self._tail + data
        at = data.rfind(b'"usage"')
        if at >= 0:
            self._found = data[at : at + _MAX_USAGE_BYTES]
            self._tail = data[at:] if len(data) - at < _MAX_USAGE_BYTES else data[-_MAX_KEY_BYTES:]
        else:
            self._tail = data[-_MAX_KEY_BYTES:]

    def usage(self) -> tuple[int, int] | None:
        """Return (prompt, generated) tokens, once the reply is complete; None if it does not say."""
        if self._parts is not None:
            return usage_of(b"".join(self._parts))
        told = _USAGE.match(self._found)
        # Up to the first detail, which is an object of its own; the figures stand before it.
        return None if told is None else usage_of(b'{"usage":%b}}' % _figures(told[1]))


def _figures(usage: bytes) -> bytes:
    """Return the beginning of an object, up to its last member that is whole."""
    return re.sub(rb",?\s*\"\w+\"\s*:?\s*\Z", b"", usage.rstrip())
