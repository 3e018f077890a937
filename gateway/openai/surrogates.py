"""Repairs lone surrogates (halves of surrogate pairs): RFC 8259 allows them in JSON, strict parsers do not. Pure."""

import re
from collections.abc import Generator
from typing import Final

# Matches any escape, so that the second backslash of `\\ud800` starts none; a run of other escapes is one match.
_ESCAPES: Final = re.compile(
    rb"\\(?:u(?:[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|[89a-fA-F])[0-9a-fA-F]{2})?+|[^u](?:\\[^u])*+)"
)
_HALF_BYTES: Final = len(rb"\ud83d")
_ESCAPES_A_STEP: Final = 1000  # a millisecond


def may_have_surrogates(body: bytes) -> bool:
    """Whether a JSON text has an escaped surrogate, or bytes that look like one."""
    return b"\\ud" in body or b"\\uD" in body


def repair_surrogates(body: bytes) -> bytes:
    """Return a JSON text with each lone surrogate replaced by U+FFFD."""
    return _ESCAPES.sub(_whole_pairs, body)


def repair_surrogates_in_steps(body: bytes) -> Generator[None, None, bytes]:
    """Return what `repair_surrogates` does; yields after each short step."""
    parts: list[bytes] = []
    at = 0
    for number, escape in enumerate(_ESCAPES.finditer(body)):
        if not number % _ESCAPES_A_STEP:
            yield
        if _is_half(escape[0]):
            parts += (body[at : escape.start()], rb"\ufffd")
            at = escape.end()
    return b"".join([*parts, body[at:]])


def _is_half(escape: bytes) -> bool:
    return len(escape) == _HALF_BYTES and escape[1:3].lower() == b"ud"


def _whole_pairs(escape: re.Match[bytes]) -> bytes:
    """Return the escape unchanged, or U+FFFD (which is as long) for a lone surrogate."""
    return rb"\ufffd" if _is_half(escape[0]) else escape[0]
