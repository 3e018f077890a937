"""HTTP chunks as engines write a stream's events: one chunk, one event or more, one read."""

import re
from typing import Final

# A chunk's size in hex and its line end, up to 16 MiB, without extensions.
_SIZE_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,6})\r\n")
# How a chunk of whole events ends.
EVENTS_END: Final = b"\n\n\r\n"
# By the length of a whole chunk, framing included, its size line as servers write it (lower case, no leading zeros):
# comparing with that takes half of reading it. Of lengths that no chunk has, and the last one, something that none
# begins with.
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
    """Whether `data` is exactly one HTTP chunk, and its content ends an event.

    So a stream's usual read needs no parser, and can go on as it came. Anything else (several
    chunks, a part of one, extensions) is the parser's.
    """
    if not data.endswith(EVENTS_END):
        return False
    size = _SIZE_LINE.match(data)
    return size is not None and int(size[1], 16) == len(data) - size.end() - 2
