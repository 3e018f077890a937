"""How a conversation begins: the same in each of its requests, so it can keep a conversation on its arm.

A client sends the whole conversation with every turn. Its beginning, the system prompts and
the first user turn, stays as it is while the rest grows. It is compared by its texts, since
clients write the same turn now as a string and now as a list of parts, and move cache marks
about.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.receive.endpoints import Dialect
from gateway.receive.wire import mended

# Whose words begin a conversation, before the first user turn.
_SYSTEM: Final = frozenset(("system", "developer"))
_MARK: Final = "cache_control"  # Anthropic's, put on another turn with each request


class _Body(msgspec.Struct, frozen=True, gc=False):
    messages: Any = None  # chat completions, messages
    system: Any = None  # messages
    instructions: Any = None  # responses
    input: Any = None
    previous_response_id: Any = None


_DECODER: Final = msgspec.json.Decoder(_Body)


def beginning_of(body: bytes, dialect: Dialect, caller: str) -> str | None:
    """Return a hash of how the conversation in `body` begins, or None if it cannot be told.

    Args:
        body: The request's.
        dialect: How it is to be read. Text completions and continued responses have no beginning.
        caller: Whose conversation it is, so that two callers' "hello" are two conversations.
    """
    if dialect is Dialect.PLAIN:
        return None
    try:
        found = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if found.previous_response_id is not None:
        return None
    turns = found.messages
    if dialect is Dialect.RESPONSES:
        turns = [{"role": "user", "content": found.input}] if isinstance(found.input, str) else found.input
    if not isinstance(turns, list):
        return None
    digest = hashlib.sha256(caller.encode("utf-8", "surrogatepass"))
    for text in _texts(found.system if dialect is Dialect.MESSAGES else found.instructions):
        digest.update(b"\x1fsystem\x1f" + text)
    for turn in turns:
        role = turn.get("role") if isinstance(turn, dict) else None
        if role != "user" and role not in _SYSTEM:
            continue
        is_user = role == "user"
        for text in _texts(turn.get("content")):
            digest.update((b"\x1fuser\x1f" if is_user else b"\x1fsystem\x1f") + text)
        if is_user:
            return digest.hexdigest()
    return None


def _read(body: bytes) -> _Body:
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError:
        return _DECODER.decode(mended(body))  # half an emoji in a later turn must not move the conversation


def _texts(content: Any) -> Iterator[bytes]:
    """Yield what a turn says: its texts, and its other parts as canonical JSON without cache marks."""
    for part in content if isinstance(content, list) else (content,):
        if isinstance(part, dict):
            text = part.get("text")
            told = text if isinstance(text, str) else {key: each for key, each in part.items() if key != _MARK}
        else:
            told = part
        if isinstance(told, str):
            yield told.encode("utf-8", "surrogatepass")
        elif told is not None:
            yield msgspec.json.encode(told, order="sorted")
