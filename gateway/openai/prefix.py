"""The prefix that all requests of a conversation share: a cheap key for cache affinity.

Each request of a conversation repeats the earlier turns, so everything up to the end of the first message that is not a
system message stays the same from the first request to the last. (The hash that keeps a conversation on its arm is
`conversation.py`: it ignores differences in form.)
"""

import json
from typing import Final

from gateway.openai.body import BEGINNING_BYTES, Fields

# How much is read: about 2,000 tokens of system prompt, in 10 microseconds. Of longer first messages the beginning
# counts.
MAX_OPENING_BYTES: Final = BEGINNING_BYTES
# Of a plain prompt only this much counts, as it does not show where its first turn ends.
MAX_PROMPT_BYTES: Final = 1024
_SYSTEM_ROLES: Final = ("system", "developer")
# Numbers are kept as text: Python refuses integers of more than 4,300 digits, and no number is needed.
_scan: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).scan_once  # type: ignore[attr-defined]  # public, not in the stubs


def prefix_key(fields: Fields) -> bytes:
    """Return the beginning of the conversation in a body, the same for each of its requests; empty without a prompt."""
    for raw in (fields.messages, fields.input, fields.prompt):
        view = memoryview(raw)
        if view:
            head = bytes(view[:MAX_OPENING_BYTES])
            if not head.startswith(b"["):
                return head[:MAX_PROMPT_BYTES]
            end = _end_of_first_turn(head.decode("utf-8", "replace"))
            return head[:MAX_PROMPT_BYTES] if end is None else end.encode()
    return b""


def _end_of_first_turn(text: str) -> str | None:
    """Return a list's text up to the end of its first non-system message; None if it is no list of messages."""
    at = 1
    try:
        while True:
            while text[at] in " \t\r\n,":
                at += 1
            message, at = _scan(text, at)
            if not isinstance(message, dict):
                return None
            if message.get("role") not in _SYSTEM_ROLES:
                return text[:at]
    except (StopIteration, ValueError, IndexError, RecursionError):  # longer than what is read, or empty
        return text
