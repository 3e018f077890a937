"""Halves of surrogate pairs that stand alone, which RFC 8259 allows in JSON and a strict parser refuses. Pure."""

import re
from collections.abc import Generator
from typing import Final

# Any escape, so that the second backslash of `\\ud800` begins none; a row of other escapes is one match.
_ESCAPES: Final = re.compile(
    rb"\\(?:u(?:[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|[89a-fA-F])[0-9a-fA-F]{2})?+|[^u](?:\\[^u])*+)"
)
_HALF_BYTES: Final = len(rb"\ud83d")
_ESCAPES_A_STEP: Final = 1000  # a millisecond


def may_have_halves(body: bytes) -> bool:
    """Whether a JSON text has an escape of a surrogate, or something that looks like one."""
    return b"\\ud" in body or b"\\uD" in body


def mended(body: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half of a surrogate pair that stands alone."""
    return _ESCAPES.sub(_whole_pairs, body)


def mended_in_steps(body: bytes) -> Generator[None, None, bytes]:
    """Return what `mended` does; yields after each short step."""
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
    """Return an escape as it is, a lone surrogate as U+FFFD, which is as long."""
    return rb"\ufffd" if _is_half(escape[0]) else escape[0]
