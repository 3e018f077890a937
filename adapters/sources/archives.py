"""Unpack the adapters in a tar archive, and no other files.

Each member's header is checked before any of its bytes are unpacked, in the archive's order: absolute paths, `..`,
links, devices and sparse files are refused by name. Only files that belong to an adapter are written; the others are
skipped. Decompressed bytes are counted as they come, so a decompression bomb stops at the limit wherever it is (in
members, padding or long headers).
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from adapters.artifact import SIGNATURE_FILE, TENSORS_FILE
from adapters.config_file import CONFIG_FILE
from adapters.sources.failures import SourceTooLarge, UnsafeArchive
from adapters.sources.layouts import DEEPEST
from adapters.sources.limits import FetchLimits
from adapters.stand_ins import stand_in_at

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# The files that are taken: the adapter, its signature, and files that say which base it was made for.
TAKEN: Final = (CONFIG_FILE, TENSORS_FILE)
COMPANIONS: Final = (
    SIGNATURE_FILE,
    "chat_template.jinja",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MAX_COMPANION_BYTES: Final = 128_000_000  # the largest is a tokenizer.json; Gemma's has 33 MB
# One level more than a trainer's folder, since an archive often holds it inside another folder.
_DEEPEST: Final = DEEPEST + 1
_MAX_NAME_BYTES: Final = 255  # the limit of Linux's file systems
_PIECE_BYTES: Final = 64 * 1024
# tarfile reads each extended header, which holds long names and times, in one read.
_MAX_READ_BYTES: Final = 64 * 1024
# Level 9 of xz needs 65 MiB; a crafted header can ask for 4 GiB.
_XZ_MEMORY_BYTES: Final = 256 * 1024 * 1024
_DAMAGE: Final = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


def is_archive(name: str) -> bool:
    """Whether the name is that of a tar archive."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, source: str, limits: FetchLimits) -> list[str]:
    """Unpack adapters into `folder`, which is empty; return the names of all files in the archive.

    Args:
        archive: A tar file, plain or compressed by gzip, bzip2 or xz.
        folder: The target; folders of the archive are kept.
        source: The archive's name in messages.
        limits: `unpacked_bytes` and `members`.

    Raises:
        UnsafeArchive: A member may not be unpacked, or the archive is damaged.
        SourceTooLarge: It unpacks to more than the limits allow.
    """
    with archive.open("rb") as file:
        stream = _Stream(_decompress(file), source, limits.unpacked_bytes)
        try:
            names = _unpack(stream, folder, source, limits)
        except _DAMAGE as error:
            if isinstance(error, UnsafeArchive | SourceTooLarge):
                raise
            is_clash = isinstance(error, FileExistsError | NotADirectoryError)  # a file and a folder of one name
            if isinstance(error, OSError) and error.errno is not None and not is_clash:
                raise  # a fault of our disk, not of the archive
            instead = stand_in_at(archive)
            if instead is not None:
                raise UnsafeArchive(f"`{source}` is no tar archive: {instead.message}; {instead.remedy}") from None
            raise UnsafeArchive(
                f"`{source}` is damaged, or is no tar archive ({type(error).__name__}); make it again"
            ) from None
    return names


def _unpack(stream: "_Stream", folder: Path, source: str, limits: FetchLimits) -> list[str]:
    names: list[str] = []
    # tarfile only reads, seeks forward and tells, which is what `_Stream` implements.
    with tarfile.TarFile(fileobj=cast("BinaryIO", stream), mode="r", errorlevel=2) as tar:
        n_members = 0
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header that it has read
            n_members += 1
            if n_members > limits.members:
                raise SourceTooLarge(f"`{source}` has more than {limits.members:,} members; pack the adapter alone")
            name = _check_name(member, folder, source)
            if not member.isfile() or name.count("/") > _DEEPEST:
                continue
            names.append(name)
            if _is_taken(name, member.size):
                _write(tar, member, folder / name, source)
    return names


def _check_name(member: tarfile.TarInfo, folder: Path, source: str) -> str:
    """Return the member's path without `./`, if it may be unpacked."""
    path = PurePosixPath(member.name)
    wrong = None
    if path.is_absolute():
        wrong = "has an absolute path"
    elif ".." in path.parts:
        wrong = "leaves the archive by `..`"
    elif member.issym() or member.islnk():
        wrong = f"is a link to `{member.linkname[:200]}`"
    elif member.issparse():
        wrong = "is a sparse file"
    elif not (member.isfile() or member.isdir()):
        wrong = "is a device or a pipe"
    elif not member.name.isprintable():
        wrong = "has control characters in its name"
    elif max(len(part.encode()) for part in (*path.parts, "")) > _MAX_NAME_BYTES:
        wrong = f"has a name longer than {_MAX_NAME_BYTES} bytes"
    if wrong is None:
        try:
            tarfile.data_filter(member, str(folder))
        except tarfile.FilterError as error:
            wrong = f"is refused by Python's data filter ({type(error).__name__})"
    if wrong is not None:
        raise UnsafeArchive(
            f"`{source}`: member {member.name[:200]!r} {wrong}; pack plain files, with paths inside the archive"
        )
    return str(path)


def _is_taken(name: str, size: int) -> bool:
    base = name.rpartition("/")[2]
    return base in TAKEN or (base in COMPANIONS and size <= MAX_COMPANION_BYTES)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, source: str) -> None:
    content = tar.extractfile(member)
    if content is None or target.exists():
        raise UnsafeArchive(f"`{source}`: member {member.name[:200]!r} is there twice; make the archive again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("xb") as out:
        while piece := content.read(_PIECE_BYTES):
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
        if out.tell() != member.size:
            raise EOFError


def _decompress(file: BinaryIO) -> Iterator[bytes]:
    """Yield the archive's decompressed bytes in pieces, whatever the compression is."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return iter(partial(gzip.GzipFile(fileobj=file).read, _PIECE_BYTES), b"")
    if magic.startswith(b"BZh"):
        return iter(partial(bz2.BZ2File(file).read, _PIECE_BYTES), b"")
    if magic == b"\xfd7zXZ\x00":
        return _unxz(file)
    return iter(partial(file.read, _PIECE_BYTES), b"")


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    # lzma.open has no parameter for a memory limit.
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
    while not decompressor.eof:
        packed = file.read(_PIECE_BYTES) if decompressor.needs_input else b""
        if decompressor.needs_input and not packed:
            raise EOFError
        piece = decompressor.decompress(packed, _PIECE_BYTES)
        if piece:
            yield piece


class _Stream:
    """A file for tarfile that only goes forward, counts bytes, and bounds each read."""

    def __init__(self, pieces: Iterator[bytes], source: str, limit: int) -> None:
        self._pieces = pieces
        self._source = source
        self._limit = limit
        self._piece = memoryview(b"")
        self._start = 0  # the offset of `_piece` in the archive
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        """Return True, though only forward seeks work; tarfile needs no others."""
        return True

    def seek(self, position: int) -> None:
        """Skip to an offset, or go back by one byte."""
        # tarfile goes back one byte to check that a member's last byte is there.
        if position < self._at - 1:
            raise ValueError
        while position >= self._end() and self._next_piece():
            pass
        self._at = min(position, self._end())

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end.

        Raises:
            UnsafeArchive: `size` is more than any header needs.
        """
        if not 0 <= size <= _MAX_READ_BYTES:
            raise UnsafeArchive(
                f"`{self._source}` has a header of {size:,} bytes; the limit is {_MAX_READ_BYTES:,}: make it again"
            )
        found = bytearray()
        while len(found) < size:
            if self._at >= self._end() and not self._next_piece():
                break
            first = self._at - self._start
            taken = self._piece[first : first + size - len(found)]
            found += taken
            self._at += len(taken)
        return bytes(found)

    def _end(self) -> int:
        return self._start + len(self._piece)

    def _next_piece(self) -> bool:
        piece = next(self._pieces, b"")
        if not piece:
            return False
        # Keep the last byte, so that one step back is always possible.
        kept = bytes(self._piece[-1:])
        self._start = self._end() - len(kept)
        self._piece = memoryview(kept + piece)
        if self._end() > self._limit:
            raise SourceTooLarge(f"`{self._source}` unpacks to more than {self._limit:,} bytes; pack the adapter alone")
        return True
