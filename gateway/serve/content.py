"""Does a part of a stream say anything? What counts as a token, for time and for limits.

Pure. Content is what the model has made: text, reasoning, a refusal, a tool's name or arguments, log-probabilities,
token ids. Comments (`: keep-alive`), the role alone, `response.created`, `message_start` and `ping` are none: an engine
sends them while a request still waits in its queue.

JSON escapes the quotes inside a string, so what is found between quotes here is always a name of the engine's, never a
text of a model or a caller.
"""

import re
from typing import Final

# Chat and text completions. A list or an object that is empty says nothing, nor does an empty text.
_SAYS: Final = re.compile(
    rb'"(?:content|text|delta|reasoning_content|reasoning|refusal|thinking|partial_json|arguments)"\s*:\s*"[^"]'
    rb'|"(?:tool_calls|token_ids)"\s*:\s*\[\s*[{\d]|"(?:function_call|audio)"\s*:\s*\{\s*"'
    rb'|"logprobs"\s*:\s*\{[^{}\]]*\[\s*[^\]\s]'
)
# Named events, of `/v1/responses` and `/v1/messages`: their names tell which can hold content at all.
_NAMED: Final = re.compile(rb"(?:\A|[\r\n])event: ?([\w.]+)[ \t]*(?:\r\n|\r|\n)(?:data: ?([^\r\n]*))?")
_BEGINS_TOOL: Final = re.compile(rb'"type"\s*:\s*"[a-z_]*tool_use"')
# The same events from an engine that writes no names.
_TYPED: Final = re.compile(rb'"type"\s*:\s*"(?:response\.|message_|content_block_|ping)')
_TYPED_DELTA: Final = re.compile(rb'"type"\s*:\s*"(?:response\.[\w.]+\.delta|content_block_delta)"')
# What an engine sends only so that a connection is not cut: comments, Anthropic's ping, how long to wait before asking
# again, and empty lines.
_KEEP_ALIVE: Final = re.compile(
    rb'(?:(?::[^\r\n]*+|event: ?ping|data: ?(?:\{\s*"type"\s*:\s*"ping"\s*\})?|retry:[^\r\n]*+)?(?:\r\n|\r|\n))++'
)
_COMMENTS: Final = re.compile(rb"(?:(?<=[\r\n])|\A):[^\r\n]*")
# No event without content is larger, but one that repeats what was asked (`response.created`), which has a name.
_MAX_LOOKED_THROUGH: Final = 64 * 1024


def has_content(events: bytes) -> bool:
    """Whether whole events, with or without an HTTP chunk's framing, hold anything that the model has made."""
    if b"event:" in events and (named := _NAMED.findall(events)):
        return any(_is_content(name, data) for name, data in named)
    if len(events) > _MAX_LOOKED_THROUGH:
        return True
    if events.startswith(b":") or b"\n:" in events:
        events = _COMMENTS.sub(b"", events)
    if b'"type"' in events and _TYPED.search(events) and not _TYPED_DELTA.search(events):
        return False
    return _SAYS.search(events) is not None


def is_keep_alive(data: bytes) -> bool:
    """Whether `data` is nothing but comments or pings: a sign that the connection lives, not that its request does."""
    return _KEEP_ALIVE.fullmatch(data) is not None


def _is_content(name: bytes, data: bytes) -> bool:
    if name == b"content_block_start":
        return _BEGINS_TOOL.search(data) is not None
    if name == b"content_block_delta" or (name.startswith(b"response.") and name.endswith(b".delta")):
        return len(data) > _MAX_LOOKED_THROUGH or _SAYS.search(data) is not None
    # A name that neither API has: an engine that names the events of completions.
    return not name.startswith((b"response.", b"message_", b"content_block_", b"ping", b"error")) and has_content(data)
