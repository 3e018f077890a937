"""Copies of stored data on disk, read at a start; each carries a SHA-256 digest of its content.

A copy is a convenience: one that is damaged in any way is renamed, and the store is read instead. No part of a copy
is used unless its digest fits, since one flipped bit may name another model and still be valid JSON.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Final, TypeVar

import msgspec

log = logging.getLogger("loragate.copies")

T = TypeVar("T")

# The suffix of a damaged copy, of which the last is kept so that an operator can see what happened to the disk.
DAMAGED: Final = ".damaged"
# Exceptions of decoding: not JSON, not UTF-8, a value out of range, nested too deeply.
_FLAWS: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: str
    content: msgspec.Raw


def write(path: Path, content: bytes) -> None:
    """Write JSON to `path` together with its digest.

    Raises:
        OSError: The file cannot be written; the earlier file stays as it was.
    """
    digest = hashlib.sha256(content).hexdigest()
    _replace(path, msgspec.json.encode(_Sealed(sha256=digest, content=msgspec.Raw(content))))


def read(path: Path, kind: type[T]) -> T | None:
    """Return the content of the copy at `path`; None if there is no copy or it is damaged.

    A copy that cannot be read is renamed, and a warning is logged.
    """
    try:
        if not os.path.lexists(path):
            return None
        if not path.is_file():  # reading a pipe would never end
            raise ValueError("it is no regular file")
        return _unseal(path.read_bytes(), kind)
    except OSError as error:
        _put_aside(path, error.strerror or type(error).__name__)
    except _FLAWS as error:
        _put_aside(path, str(error).splitlines()[0][:200] if str(error) else type(error).__name__)
    return None


def _unseal(data: bytes, kind: type[T]) -> T:
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except msgspec.ValidationError:
        return msgspec.json.decode(data, type=kind)  # written by a release without digests, or damaged
    content = bytes(sealed.content)
    if hashlib.sha256(content).hexdigest() != sealed.sha256:
        raise ValueError("its content is not what its digest says")
    return msgspec.json.decode(content, type=kind)


def _put_aside(path: Path, reason: str) -> None:
    aside = path.with_name(path.name + DAMAGED)
    try:
        path.replace(aside)
    except OSError as error:
        log.warning("%s cannot be read (%s) nor put aside (%s); the store is read", path, reason, error.strerror)
        return
    log.warning("%s is damaged (%s) and was put aside as %s; the store is read", path, reason, aside.name)


def _replace(path: Path, content: bytes) -> None:
    """Replace the file at `path`, readable by its owner alone; after a crash the old file is still whole."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:  # also when interrupted, so that no scratch file is left behind
        Path(scratch).unlink(missing_ok=True)
        raise
