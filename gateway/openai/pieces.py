"""A large body kept in the pieces in which it came: copying 32 MiB into one would block the event loop for 60 ms.

It is read by slices and sent with `writelines`, so that it is in memory only once.
"""

from collections.abc import Iterable, Sequence
from typing import Final

# Received parts are joined up to this size, so that many tiny HTTP chunks do not slow later steps down.
PIECE_BYTES: Final = 64 * 1024

# A replacement: start, end, new bytes. Edits are sorted by position and do not overlap.
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

    def apply_edits(self, edits: Iterable[Edit]) -> list[bytes | memoryview]:
        """Return the parts of the edited bytes, without copying any of them."""
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


def apply_edits(body: bytes, edits: Iterable[Edit]) -> bytes:
    """Return `body` with all `edits` applied."""
    return b"".join(Pieces((body,)).apply_edits(edits))
