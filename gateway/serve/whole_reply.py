"""Reads the usage of a reply that is no stream while it passes, in bounded memory. Pure.

A reply is kept and parsed. One that is too large for that (embeddings of many texts, log-probabilities of a long
prompt) is only searched for the key `"usage"`, which generated text cannot contain, since JSON escapes its quotes.
"""

import re
from typing import Final

from gateway.serve.sse import usage_of

# Replies up to this size are kept and parsed.
MAX_READ_REPLY_BYTES: Final = 4 * 1024 * 1024
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*)')
# The most bytes of a usage object that are read; its nested details are not needed.
_MAX_USAGE_BYTES: Final = 2048
_MAX_KEY_BYTES: Final = 16


class WholeReply:
    """One reply that is no stream."""

    __slots__ = ("_found", "_parts", "_tail", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] | None = []
        self._tail = b""  # the last bytes, which may hold the beginning of the key or its object
        self._found = b""  # the last occurrence of the key, with what follows

    def take(self, data: bytes) -> None:
        """Take the next part of the body."""
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
        """Return (prompt, generated) tokens, once the reply is complete; None if it has no usage."""
        if self._parts is not None:
            return usage_of(b"".join(self._parts))
        usage = _USAGE.match(self._found)
        # Matched up to the first nested object of details; the counts come before it.
        return None if usage is None else usage_of(b'{"usage":%b}}' % _whole_members(usage[1]))


def _whole_members(usage: bytes) -> bytes:
    """Return the beginning of an object up to its last complete member."""
    return re.sub(rb",?\s*\"\w+\"\s*:?\s*\Z", b"", usage.rstrip())
