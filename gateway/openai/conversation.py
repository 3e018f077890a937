"""How a conversation begins: the same in each of its requests, so it can keep a conversation on its arm.

A client sends the whole conversation with every turn. Its beginning, the system prompts and
the first user turn, stays as it is while the rest grows. It is compared by its texts, since
clients write the same turn now as a string and now as a list of parts, and move cache marks
about.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.openai.endpoints import Dialect
from gateway.openai.json_outline import Outline
from gateway.openai.pieces import Pieces
from gateway.openai.surrogates import mended

# Whose words begin a conversation, before the first user turn.
_SYSTEM: Final = frozenset(("system", "developer"))
_MARK: Final = "cache_control"  # Anthropic's, put on another turn with each request


# Of a large body this much is looked at: parsing it takes 15 ms at worst.
MAX_BEGINNING_BYTES: Final = 256 * 1024
# Numbers as text: Python refuses integers of more than 4,300 digits.
_SCAN: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).scan_once  # type: ignore[attr-defined]  # public, not in the stubs


class _Body(msgspec.Struct, frozen=True, gc=False):
    messages: Any = None  # chat completions, messages
    system: Any = None  # messages
    instructions: Any = None  # responses
    input: Any = None
    previous_response_id: Any = None


_DECODER: Final = msgspec.json.Decoder(_Body)


def beginning_of(body: bytes, dialect: Dialect, caller: str, *, may_have_halves: bool = True) -> str | None:
    """Return a hash of how the conversation in `body` begins, or None if it cannot be told.

    Args:
        body: The request's.
        dialect: How it is to be read. Text completions and continued responses have no beginning.
        caller: Whose conversation it is, so that two callers' "hello" are two conversations.
        may_have_halves: Halves of surrogate pairs have not been looked for, which takes long in a large body.
    """
    if dialect is Dialect.PLAIN:
        return None
    try:
        found = _read(body) if may_have_halves else _DECODER.decode(body)
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


def beginning_of_large(body: Pieces, outline: Outline, dialect: Dialect, caller: str) -> str | None:
    """Return what `beginning_of` does for a body read in steps: of its turns, those up to the first user's are parsed.

    Where these, or the system prompt, are longer than `MAX_BEGINNING_BYTES`, their first bytes stand for them.
    """
    members: list[bytes] = []
    for name in _Body.__struct_fields__:
        if name not in outline.members:
            continue
        start, end = outline.members[name][-1]
        value = body.cut(start, min(end, start + MAX_BEGINNING_BYTES))
        if name in ("messages", "input") and value.startswith(b"["):
            turns = _first_turns(value.decode("utf-8", "replace"))
            value = value if turns is None and end - start <= MAX_BEGINNING_BYTES else turns or b""
            is_cut = not value
        else:
            is_cut = end - start > MAX_BEGINNING_BYTES
        if is_cut:
            head = body.cut(start, start + MAX_BEGINNING_BYTES)
            return hashlib.sha256(caller.encode("utf-8", "surrogatepass") + b"\x1fhead\x1f" + head).hexdigest()
        members.append(b'"%b":%b' % (name.encode(), value))
    return beginning_of(b"{%b}" % b",".join(members), dialect, caller)


def _first_turns(text: str) -> bytes | None:
    """Return a list's beginning up to its first user turn, as a list; None if there is no end of one."""
    at = 1
    try:
        while True:
            while text[at] in " \t\r\n,":
                at += 1
            turn, at = _SCAN(text, at)
            if isinstance(turn, dict) and turn.get("role") == "user":
                return f"{text[:at]}]".encode()
    except (StopIteration, ValueError, IndexError, RecursionError):
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
