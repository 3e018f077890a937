"""Copies of what the store says, kept on disk for a start: each with a digest, so that a damaged one is not believed.

A copy is a convenience: whatever is wrong with one, it is put aside and the store is asked. Nothing in it is used
unless all of it is as it was written, since one flipped bit may name another model and still be good JSON.
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

# The last damaged one of each is kept for whoever wants to see what happened to the disk.
DAMAGED: Final = ".damaged"
# What decoding raises: not JSON, not UTF-8, a value out of range, nested too deeply.
_FLAWS: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: str
    content: msgspec.Raw


def write(path: Path, content: bytes) -> None:
    """Keep JSON at `path`, under its digest.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    digest = hashlib.sha256(content).hexdigest()
    _replace(path, msgspec.json.encode(_Sealed(sha256=digest, content=msgspec.Raw(content))))


def read(path: Path, kind: type[T]) -> T | None:
    """Return what was kept at `path`; None if there is nothing, or nothing that can be believed.

    What cannot be read is renamed, and said in the log.
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
        return msgspec.json.decode(data, type=kind)  # of a release before the digests, or damaged
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
    """Put `content` at `path`, readable by the owner alone; a crash leaves the old file."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:  # interrupted, too: no scratch file stays
        Path(scratch).unlink(missing_ok=True)
        raise
