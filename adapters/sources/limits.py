"""The limits of one fetch: bytes, files, tries."""

from dataclasses import dataclass
from typing import Final

_GIB: Final = 2**30
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """The limits of one fetch.

    Attributes:
        download_bytes: All files of a source together. Rank 256 on all layers of a 70B model is 6.6 GB in fp16.
        unpacked_bytes: An unpacked archive, with every member and header.
        members: Files and folders in an archive.
        attempts: Tries in a row without a single byte before the fetch is given up.
        backoff_seconds: The pause before the second try; it doubles, up to `longest_pause_seconds`.
        longest_pause_seconds: The longest pause.
        chunk_bytes: One ranged read, which is the most that a broken connection can lose.
    """

    download_bytes: int = 8 * _GIB
    unpacked_bytes: int = 8 * _GIB
    members: int = 10_000
    attempts: int = 6
    backoff_seconds: float = 0.5
    longest_pause_seconds: float = 8.0
    chunk_bytes: int = 4 * _MIB
