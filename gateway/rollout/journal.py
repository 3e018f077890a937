"""The journal's chain: each entry's hash covers its number, the entry before it and its content.

    hash = SHA-256("loragate-journal-1" LF number LF previous hash LF canonical JSON)

An edit, a deletion, an insertion or a swap breaks the chain at a place that `verify`
names. The chain alone cannot show that its newest entries were cut off, nor that all of
it was made anew: for that, keep the head (number and hash) elsewhere, such as in an
export or a log line, and give it to `verify`.

Canonical JSON: keys sorted, no spaces, ASCII only, no NaN and no infinity. A store has to
hand the same values back: keep the text, not a JSON type that rewrites numbers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_FORMAT: Final = "loragate-journal-1"
# What the first entry names as the one before it.
GENESIS: Final = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One journalled record and its place in the chain; `number` begins at 1."""

    number: int
    previous: str
    hash: str
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHead:
    """The newest entry, as noted elsewhere."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The first place where the chain does not hold, and why."""

    number: int
    reason: str


def canonical_json(value: object) -> str:
    """Return the one way to write a JSON value.

    Raises:
        ValueError: It holds NaN or infinity, for which JSON has no word, or a key that is no text.
        TypeError: It holds what is no JSON value.
    """
    _check_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_keys(value: object) -> None:
    """Refuse keys such as 1 and True, which `json` would silently turn into text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"key `{key!r}` is no text; JSON knows no other keys")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def hash_of(number: int, previous: str, record: Mapping[str, Any]) -> str:
    """Return the hash of a record at its place in the chain, as 64 hex digits."""
    text = "\n".join((_FORMAT, str(number), previous, canonical_json(dict(record))))
    return hashlib.sha256(text.encode()).hexdigest()


def append(last: JournalEntry | None, record: Mapping[str, Any]) -> JournalEntry:
    """Return the entry that carries `record` after `last` (None: the first of all)."""
    number, previous = (1, GENESIS) if last is None else (last.number + 1, last.hash)
    return JournalEntry(number=number, previous=previous, hash=hash_of(number, previous, record), record=record)


def verify(
    entries: Iterable[JournalEntry], *, after: JournalHead | None = None, head: JournalHead | None = None
) -> Break | None:
    """Return the first break of the chain, or None if it holds from end to end.

    Args:
        entries: In the order in which the store keeps them.
        after: Where the sequence begins, when the entries up to there were verified
            before; without it, the first entry must be number 1.
        head: The newest entry as noted elsewhere; without it, a missing end cannot be seen.
    """
    number, previous = (0, GENESIS) if after is None else (after.number, after.hash)
    for entry in entries:
        reason = _what_is_wrong(entry, number + 1, previous)
        if reason is not None:
            return Break(number=min(entry.number, number + 1), reason=reason)
        number, previous = entry.number, entry.hash
        if head is not None and head.number == number and head.hash != entry.hash:
            return Break(number=number, reason=f"entry {number} is not the one that was noted: the chain was made anew")
    if head is not None and number < head.number:
        return Break(number=number + 1, reason=f"entry {number + 1} is missing: the journal ended at {head.number}")
    return None


def _what_is_wrong(entry: JournalEntry, expected: int, previous: str) -> str | None:
    if entry.number > expected:
        return f"entry {expected} is missing: entry {entry.number} comes in its place"
    if entry.number < expected:
        return f"entry {entry.number} is out of order: entry {expected} was expected"
    try:
        found = hash_of(entry.number, entry.previous, entry.record)
    except (TypeError, ValueError):
        return f"entry {entry.number} was changed: it is not JSON"
    if found != entry.hash:
        return f"entry {entry.number} was changed: its content has the hash {found[:12]}…, not {entry.hash[:12]}…"
    if entry.previous != previous:
        return f"entry {entry.number} does not follow entry {expected - 1}: one of the two was replaced"
    return None
