"""Recognise files that stand in for the expected one: a Git LFS pointer, a web page, an empty file.

To a parser of weights or JSON each looks like damage, but each has a remedy of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.problem import Problem, Severity

# The bytes at a file's beginning that are enough to recognise each kind; a pointer has some 130 bytes.
HEAD_BYTES: Final = 256
_LFS: Final = b"version https://git-lfs.github.com/spec/"
# Pointers of Git LFS's predecessors name other hosts.
_OLD_LFS: Final = (b"version http", b"oid sha256:")
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml", b"<head")


@dataclass(frozen=True, slots=True)
class StandIn:
    """What the file is (`code` is stable), and what to do."""

    code: str
    message: str
    remedy: str


_POINTER: Final = StandIn(
    "git_lfs_pointer", "it is a Git LFS pointer, which stands for the file", "run `git lfs pull` in its repository"
)
_PAGE: Final = StandIn(
    "web_page",
    "it is a web page, such as a login or an error",
    "give the URL of the file itself, and the credentials that it asks for",
)
_EMPTY: Final = StandIn("file_empty", "the file is empty", "copy or download it again")


def stand_in(head: bytes) -> StandIn | None:
    """Return the kind of stand-in that a file beginning with `head` is; None if it may be the expected file."""
    if not head:
        return _EMPTY
    text = head[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_LFS) or (text.startswith(_OLD_LFS[0]) and _OLD_LFS[1] in text):
        return _POINTER
    if text.startswith(_PAGES):
        return _PAGE
    return None


def stand_in_at(path: Path) -> StandIn | None:
    """Return the kind of stand-in that a file is; None if it may be the expected file, or is not a regular file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return stand_in(file.read(HEAD_BYTES))
    except OSError:
        return None


def companion_problems(folder: Path, names: tuple[str, ...]) -> Iterator[Problem]:
    """Warn of stand-ins among the files beside the adapter, which therefore cannot be compared with the base's."""
    for name in names:
        found = stand_in_at(folder / name)
        if found is not None:
            yield Problem(
                code=found.code,
                message=f"{found.message}; it was not compared with the base's",
                remedy=found.remedy,
                severity=Severity.WARNING,
                where=name,
            )
