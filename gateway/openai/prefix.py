"""How a conversation begins: what all its turns have in common, whatever follows.

Each turn of a conversation repeats the turns before it, so everything up to the end of its
first message that is not the system's stays the same from the first request to the last.
"""

import json
from typing import Final

from gateway.openai.body import BEGINNING_BYTES, Fields

# Looked at, at most: system prompts of about 2,000 tokens, and 10 microseconds of reading. Where the first messages
# are longer, their beginning stands for them.
MAX_OPENING_BYTES: Final = BEGINNING_BYTES
# Of a prompt without messages nobody knows where the first turn ended.
MAX_PROMPT_BYTES: Final = 1024
_SYSTEM_ROLES: Final = ("system", "developer")
# Numbers as text: Python refuses integers of more than 4,300 digits, and we need none of them.
_scan: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).scan_once  # type: ignore[attr-defined]  # public, not in the stubs


def opening_of(fields: Fields) -> bytes:
    """Return how the conversation in a body begins, the same for each of its turns; empty if it has none."""
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
    """Return a list's beginning up to the end of its first message of a user; None if it is no list of messages."""
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
    except (StopIteration, ValueError, IndexError, RecursionError):  # longer than what is looked at, or empty
        return text
