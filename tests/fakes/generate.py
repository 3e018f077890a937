"""What the fake model says: text, JSON for a schema, tool calls, log-probabilities, vectors.

Pure, and a function of (model, prompt and sampling fields, seed) alone: two engines give the same
bytes, and a reply through a gateway can be compared with one without it. The text does not depend
on `stream`, so a stream's pieces join up to the reply that is not streamed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

_WORDS = (
    "the a frozen base adapter serves answers of many small tasks and keeps what it knew before "
    "while gates watch each token that passes through them so nothing is lost by learning more"
)
WORDS = tuple(_WORDS.split())
# How a request is answered or reported, not what is asked: left out of the fingerprint.
_SKIPPED = (
    "model stream stream_options fake priority request_id logprobs top_logprobs prompt_logprobs "
    "echo return_token_ids user safety_identifier prompt_cache_key metadata"
)
_NOT_PROMPT = frozenset(_SKIPPED.split())
DEFAULT_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One choice: its text in pieces (tokens), or a tool call, and why it ended."""

    pieces: tuple[str, ...]
    finish_reason: str
    tool: tuple[str, str, str] | None = None  # id, name, arguments

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def fingerprint(model: str, body: Mapping[str, Any], index: int) -> int:
    """Return the number that the answer to `body` by `model` is made from."""
    asked = {name: value for name, value in body.items() if name not in _NOT_PROMPT}
    packed = f"{model}\x1f{index}\x1f".encode() + msgspec.json.encode(asked)
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "big")


def answer(model: str, body: Mapping[str, Any], index: int, tokens: int | None) -> Answer:
    """Return choice `index`; `tokens` fixes the number of pieces, None leaves it to the request."""
    tool = _tool_to_call(body)
    seed = fingerprint(model, body, index)
    if tool is not None:
        name, schema = tool
        arguments = msgspec.json.encode(example(schema)).decode()
        return Answer(pieces=(), finish_reason="tool_calls", tool=(f"call_{seed:016x}", name, arguments))
    wanted = _schema_asked(body)
    if wanted is not None:
        text = msgspec.json.encode(example(wanted)).decode()
        return Answer(pieces=tuple(text[at : at + 6] for at in range(0, len(text), 6)), finish_reason="stop")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    count = tokens
    if count is None:
        count = DEFAULT_TOKENS if limit is None else min(limit, DEFAULT_TOKENS)
        if body.get("ignore_eos") and limit is not None:
            count = limit
    pick = random.Random(seed).choices(WORDS, k=count)
    pieces = tuple(word if at == 0 else f" {word}" for at, word in enumerate(pick))
    return Answer(pieces=pieces, finish_reason="stop" if limit is None or limit > count else "length")


def _tool_to_call(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    tools = body.get("tools")
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none" or (isinstance(choice, dict) and choice.get("type") == "none"):
        return None
    wanted = None
    if isinstance(choice, dict):
        wanted = (choice.get("function") or choice).get("name")
    for tool in tools:
        function = tool.get("function") or tool  # Responses and Messages are flat
        if wanted is None or function.get("name") == wanted:
            return function.get("name", ""), function.get("parameters") or function.get("input_schema") or {}
    return None


def _schema_asked(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    asked = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if asked.get("type") == "json_schema":
        schema: Mapping[str, Any] = (asked.get("json_schema") or asked).get("schema") or {}
        return schema
    if asked.get("type") == "json_object":
        return {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    structured = (body.get("structured_outputs") or {}).get("json")
    return structured if isinstance(structured, dict) else None


def example(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return the smallest plain value that a simple JSON schema accepts."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return example(target, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return example(schema[several][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}), root)] * max(1, schema.get("minItems", 1))
    if kind == "string":
        return "fake".ljust(schema.get("minLength", 0), "e")[: schema.get("maxLength", None)]
    return {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 0.5), "boolean": True}.get(kind)


def logprob(model: str, token: str) -> float:
    """Return the log-probability that `model` gives `token`, in [-4, 0]."""
    return -(int.from_bytes(hashlib.sha256(f"{model}\x1f{token}".encode()).digest()[:2], "big") % 4001) / 1000.0


@lru_cache(maxsize=1000)
def byte_logprobs(model: str) -> tuple[float, ...]:
    """Return the log-probabilities that `model` gives each byte as the next token: a distribution, (256,)."""
    source = random.Random(f"next\x1f{model}")
    weights = [math.exp(source.uniform(-4, 0) * 4) for _ in range(256)]  # a few likely, as models are
    return tuple(math.log(weight / sum(weights)) for weight in weights)


def tokens_of(text: str) -> list[int]:
    """Return the token ids of `text`: its UTF-8 bytes, so that `text_of` can undo it."""
    return list(text.encode())


def text_of(tokens: Sequence[int]) -> str:
    """Return the text of token ids from `tokens_of`."""
    return bytes(token & 0xFF for token in tokens).decode(errors="replace")


def prompt_text(body: Mapping[str, Any]) -> str:
    """Return what is asked, as one text: messages, prompt or input."""
    asked = body.get("messages") or body.get("prompt") or body.get("input") or ""
    if isinstance(asked, str):
        return asked
    if asked and isinstance(asked[0], int):
        return text_of(asked)
    parts = [part.get("content", "") if isinstance(part, dict) else part for part in asked]
    return "\n".join(part if isinstance(part, str) else msgspec.json.encode(part).decode() for part in parts)


def vector(model: str, text: str, dimensions: int) -> list[float]:
    """Return the embedding of `text`, (dimensions,), each in [-1, 1]."""
    source = random.Random(f"{model}\x1f{text}")
    return [round(source.uniform(-1, 1), 6) for _ in range(dimensions)]
