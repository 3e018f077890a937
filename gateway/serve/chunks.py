"""Recognizes the usual read of a stream without a parser: exactly one HTTP chunk that holds whole events."""

import re
from typing import Final

# The size line of a chunk: its size in hex (up to 16 MiB) and the line end, without extensions.
_SIZE_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,6})\r\n")
# The end of a chunk that holds whole events.
EVENTS_END: Final = b"\n\n\r\n"
# Index: length of a whole chunk with framing; value: its size line as servers write it (lower case, no leading zeros).
# Comparing with it takes half the time of parsing it. Lengths that no chunk has, and the last index, have a value that
# no chunk begins with.
MAX_LISTED: Final = 2047
SIZE_LINES: Final = tuple(
    next(
        (
            b"%x\r\n" % size
            for size in range(max(1, length - 10), length - 4)
            if length < MAX_LISTED and len(b"%x" % size) + size + 4 == length
        ),
        b"\n",
    )
    for length in range(MAX_LISTED + 1)
)


def is_one_chunk_of_events(data: bytes) -> bool:
    """Whether `data` is exactly one HTTP chunk whose content ends with the end of an event.

    Such a read needs no parser, and can be passed on unchanged. Anything else (several chunks, a part of one,
    extensions) is left to the parser.
    """
    if not data.endswith(EVENTS_END):
        return False
    size = _SIZE_LINE.match(data)
    return size is not None and int(size[1], 16) == len(data) - size.end() - 2
