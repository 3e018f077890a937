"""Download files of a store into a scratch folder, and resume a download that broke off.

A part file is named by the object's URL and state (ETag, or size and time). When the object changes, its part has
another name, so bytes of two states never mix. A part's bytes were read from the store in order, so its length is the
offset to resume from. The caller moves a complete part to its final name.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from adapters.sources.failures import NoRanges, SourceTooLarge, SourceUnavailable, TransientFault
from adapters.sources.limits import FetchLimits
from adapters.sources.store import ObjectStore, RemoteFile

PART_PREFIX: Final = "part-"

Progress = Callable[[int, int | None], None]
_T = TypeVar("_T")


class Changed(Exception):
    """The object has changed since the download began."""


class Tries:
    """Counts the tries of a fetch: gives up after a number in a row without any bytes, with growing pauses."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._failures = 0

    def note_bytes(self) -> None:
        """Note that bytes came, which resets the count of tries."""
        self._failures = 0

    def pause(self, fault: TransientFault) -> None:
        """Wait before the next try.

        Raises:
            SourceUnavailable: No try is left.
        """
        self._failures += 1
        if self._failures >= self._limits.attempts:
            raise SourceUnavailable(
                f"{fault}; given up after {self._failures} tries in a row; fetch it again to go on where it stopped"
            ) from None
        pause = self._limits.backoff_seconds * 2 ** (self._failures - 1)
        time.sleep(min(pause, self._limits.longest_pause_seconds))

    def of(self, action: Callable[[], _T]) -> _T:
        """Return what `action` returns; try again after transient faults."""
        while True:
            try:
                return action()
            except TransientFault as fault:
                self.pause(fault)


def download(
    store: ObjectStore, files: Sequence[RemoteFile], scratch: Path, limits: FetchLimits, progress: Progress | None
) -> list[Path]:
    """Download all files; return their complete parts in the same order.

    Raises:
        SourceTooLarge: The files exceed the limit.
        SourceUnavailable: The store fails; the bytes so far are kept for the next try.
        Changed: One of them was replaced meanwhile.
    """
    total = _total_bytes(files, store.url, limits)
    done = 0
    parts = []
    for file in files:
        part = part_path(scratch, file)
        _drop_other_states(part)

        def at(position: int, before: int = done) -> None:
            if before + position > limits.download_bytes:
                raise _too_large(store.url, before + position, limits)
            if progress is not None:
                progress(before + position, total)

        _fill(store, file, part, limits, at)
        done += part.stat().st_size
        parts.append(part)
    return parts


def part_path(scratch: Path, file: RemoteFile) -> Path:
    """Return the part file of this state of the object."""
    return scratch / f"{PART_PREFIX}{key_of(file.url)}-{key_of(file.identity or '')[:16]}"


def key_of(*texts: str) -> str:
    """Return a file name for the texts: 32 hex digits of their SHA-256."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _fill(store: ObjectStore, file: RemoteFile, part: Path, limits: FetchLimits, at: Callable[[int], None]) -> None:
    tries = Tries(limits)
    furthest = 0
    while True:
        position = _offset(part, file)
        at(position)
        try:
            # Unbuffered, so that a killed process leaves everything that it received.
            with part.open("ab", buffering=0) as local:
                for piece in store.pieces(file, position, limits.chunk_bytes):
                    local.write(piece)
                    position += len(piece)
                    if position > furthest:
                        furthest = position
                        tries.note_bytes()
                    at(position)
                os.fsync(local.fileno())
            _check_same(store, file, tries)
            return
        except TransientFault as fault:
            if isinstance(fault, NoRanges):
                part.unlink()
            tries.pause(fault)
        # Some stores go on reading from an object that was replaced, so compare its state again.
        _check_same(store, file, tries)


def _check_same(store: ObjectStore, file: RemoteFile, tries: Tries) -> None:
    if tries.of(lambda: store.file(file.name)).identity != file.identity:
        raise Changed


def _offset(part: Path, file: RemoteFile) -> int:
    """Return how many bytes of the file are there; delete a part that cannot be trusted."""
    have = part.stat().st_size if part.exists() else 0
    if have and (file.identity is None or file.size is None or have > file.size):
        part.unlink()
        return 0
    return have


def _total_bytes(files: Sequence[RemoteFile], url: str, limits: FetchLimits) -> int | None:
    known = [file.size for file in files if file.size is not None]
    if sum(known) > limits.download_bytes:
        raise _too_large(url, sum(known), limits)
    return sum(known) if len(known) == len(files) else None


def _too_large(url: str, n_bytes: int, limits: FetchLimits) -> SourceTooLarge:
    return SourceTooLarge(
        f"`{url}` is of {n_bytes:,} bytes or more; the limit is {limits.download_bytes:,}: "
        "raise it if that is truly one adapter"
    )


def _drop_other_states(part: Path) -> None:
    for other in part.parent.glob(f"{part.name.rpartition('-')[0]}-*"):
        if other != part:
            other.unlink(missing_ok=True)
