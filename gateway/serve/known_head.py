"""Remembers the head of an engine's last whole reply: the next one's is nearly always the same but for its length.

A reply with a known head needs no parser.
"""

import re
from typing import Final

# How often a head is remembered at most. uvicorn's heads have a date, so they change every second; remembering a head
# costs as much as parsing one, which would be wasted on an engine whose heads all differ.
RELEARN_SECONDS: Final = 0.1
_MAX_BYTES: Final = 4096
_BEGINNING: Final = b"HTTP/1.1 200 "
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,12})\r\n", re.IGNORECASE)
_MAX_DIGITS: Final = 12


class Head:
    """The head of a reply.

    Attributes:
        status: Its status.
        headers: Names in lower case. Replies whose heads differ in their length alone share this object, so a
            `content-length` in it may be an earlier reply's: read `length`.
        length: How many bytes the body has; None if the head does not say.
    """

    __slots__ = ("headers", "length", "status")

    def __init__(self, status: int, headers: tuple[tuple[bytes, bytes], ...], length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.length = length


class KnownHead:
    """A head that has been parsed once.

    Args:
        before: Its bytes before the number in `content-length`.
        after: Its bytes after that number, the empty line included.
        head: The parsed head.
    """

    __slots__ = ("_after", "_head", "before")

    def __init__(self, before: bytes, after: bytes, head: Head) -> None:
        self.before = before
        self._after = after
        self._head = head

    @classmethod
    def of(cls, reply: bytes, head: Head) -> "KnownHead | None":
        """Return the known head of a reply that came whole in one read; None if it is no usual 200 with a length."""
        end = reply.find(b"\r\n\r\n", 0, _MAX_BYTES) + 4
        if end < 4 or len(reply) - end != head.length or not reply.startswith(_BEGINNING):
            return None
        lines = reply[:end].lower()
        if lines.count(b"content-length") != 1 or b"transfer-encoding" in lines:
            return None
        found = _LENGTH.search(reply, 0, end)
        return None if found is None else cls(reply[: found.start(1)], reply[found.end(1) : end], head)

    def read(self, reply: bytes) -> tuple[Head, bytes] | None:
        """Return (head, body) if `reply`, which begins with `before`, is exactly one whole reply with this head."""
        start = len(self.before)
        end = reply.find(b"\r", start, start + _MAX_DIGITS + 1)
        number = reply[start:end]
        if not number.isdigit() or not reply.startswith(self._after, end):
            return None
        length = int(number)
        body_at = end + len(self._after)
        if len(reply) - body_at != length:
            return None
        return Head(self._head.status, self._head.headers, length), reply[body_at:]
