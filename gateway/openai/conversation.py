"""A hash that identifies a conversation, so that all its requests get the same arm (unit source `conversation`).

A client sends the whole conversation with every turn. Its beginning (system prompts and the first user turn) stays the
same while the rest grows. The hash is of the texts only, since clients send the same turn now as a string and now as a
list of parts, and move cache marks. The cache affinity of a conversation has a cheaper key: see `prefix.py`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.openai.endpoints import Dialect
from gateway.openai.json_outline import Outline
from gateway.openai.pieces import Pieces
from gateway.openai.surrogates import repair_surrogates

# Roles of the turns before the first user turn.
_SYSTEM: Final = frozenset(("system", "developer"))
_MARK: Final = "cache_control"  # Anthropic's cache mark, which is on another turn in each request

# How much of a large body is read: parsing it takes 15 ms at worst.
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


def conversation_hash(body: bytes, dialect: Dialect, caller: str, *, may_have_surrogates: bool = True) -> str | None:
    """Return a hash of the beginning of the conversation in `body`; None if it has no beginning.

    Args:
        body: The request's body.
        dialect: The endpoint's. Text completions and responses that continue an earlier one have no beginning.
        caller: The caller's unit, so that two callers' "hello" are two conversations.
        may_have_surrogates: The body may have lone surrogates; repairing them takes long in a large body.
    """
    if dialect is Dialect.PLAIN:
        return None
    try:
        found = _read(body) if may_have_surrogates else _DECODER.decode(body)
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


def large_conversation_hash(body: Pieces, outline: Outline, dialect: Dialect, caller: str) -> str | None:
    """Return what `conversation_hash` does, for a body read in steps: its turns up to the first user's are parsed.

    If these turns or the system prompt are longer than `MAX_BEGINNING_BYTES`, their first bytes are hashed instead.
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
    return conversation_hash(b"{%b}" % b",".join(members), dialect, caller)


def _first_turns(text: str) -> bytes | None:
    """Return the turns of a JSON list up to its first user turn, as JSON; None if `text` ends before that."""
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
        return _DECODER.decode(repair_surrogates(body))  # a lone surrogate in a later turn must not change the arm


def _texts(content: Any) -> Iterator[bytes]:
    """Yield the texts of a turn, and its other parts as canonical JSON without cache marks."""
    for part in content if isinstance(content, list) else (content,):
        if isinstance(part, dict):
            text = part.get("text")
            value = text if isinstance(text, str) else {key: each for key, each in part.items() if key != _MARK}
        else:
            value = part
        if isinstance(value, str):
            yield value.encode("utf-8", "surrogatepass")
        elif value is not None:
            yield msgspec.json.encode(value, order="sorted")
