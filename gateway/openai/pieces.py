"""A body that came in pieces and stays in pieces: copying 32 MiB at once holds an event loop up for 60 ms.

Whoever reads it takes slices of it, and it is sent on with `writelines`, so it is in memory once.
"""

from collections.abc import Iterable, Sequence
from typing import Final

# Pieces are gathered up to this size, so that neither tiny HTTP chunks nor their number cost anything later.
PIECE_BYTES: Final = 64 * 1024

# Where bytes are replaced, and by what: start, end, new bytes. Sorted by place and apart from each other.
Edit = tuple[int, int, bytes]


class Pieces:
    """Bytes in pieces, in order."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    def __len__(self) -> int:
        return self.size

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`."""
        return b"".join(self._views(start, min(end, self.size)))

    def whole(self) -> bytes:
        """Return a copy in one piece."""
        return b"".join(self.parts)

    def edited(self, edits: Iterable[Edit]) -> list[bytes | memoryview]:
        """Return the parts of the same bytes with `edits` made, none of them copied."""
        parts: list[bytes | memoryview] = []
        at = 0
        for start, end, replacement in edits:
            parts += self._views(at, start)
            parts.append(replacement)
            at = end
        return parts + self._views(at, self.size)

    def _views(self, start: int, end: int) -> list[bytes | memoryview]:
        views: list[bytes | memoryview] = []
        at = 0  # where the next part begins
        for part in self.parts:
            size = len(part)
            if start <= at and at + size <= end:
                views.append(part)
            elif at < end and at + size > start:
                views.append(memoryview(part)[max(start - at, 0) : end - at])
            at += size
            if at >= end:
                break
        return views


def edited(body: bytes, edits: Iterable[Edit]) -> bytes:
    """Return `body` with `edits` made."""
    return b"".join(Pieces((body,)).edited(edits))
