"""Whether a part of a stream holds content, which decides TTFT, ITL and token estimates. Pure.

Content is what the model has generated: text, reasoning, a refusal, a tool's name or arguments, log-probabilities,
token ids. Comments (`: keep-alive`), a role alone, `response.created`, `message_start` and `ping` are no content: an
engine sends them even while a request still waits in its queue.

JSON escapes quotes inside strings, so a quoted name that is found here is always a key written by the engine, never
text of a model or a caller.
"""

import re
from typing import Final

# Content of chat and text completions. An empty list, object or string is no content.
_SAYS: Final = re.compile(
    rb'"(?:content|text|delta|reasoning_content|reasoning|refusal|thinking|partial_json|arguments)"\s*:\s*"[^"]'
    rb'|"(?:tool_calls|token_ids)"\s*:\s*\[\s*[{\d]|"(?:function_call|audio)"\s*:\s*\{\s*"'
    rb'|"logprobs"\s*:\s*\{[^{}\]]*\[\s*[^\]\s]'
)
# Named events of `/v1/responses` and `/v1/messages`: the name shows whether the event can hold content at all.
_NAMED: Final = re.compile(rb"(?:\A|[\r\n])event: ?([\w.]+)[ \t]*(?:\r\n|\r|\n)(?:data: ?([^\r\n]*))?")
_BEGINS_TOOL: Final = re.compile(rb'"type"\s*:\s*"[a-z_]*tool_use"')
# The same events from an engine that sends no `event:` lines.
_TYPED: Final = re.compile(rb'"type"\s*:\s*"(?:response\.|message_|content_block_|ping)')
_TYPED_DELTA: Final = re.compile(rb'"type"\s*:\s*"(?:response\.[\w.]+\.delta|content_block_delta)"')
# What an engine sends only to keep a connection open: comments, Anthropic's ping, `retry:` lines, and empty lines.
_KEEP_ALIVE: Final = re.compile(
    rb'(?:(?::[^\r\n]*+|event: ?ping|data: ?(?:\{\s*"type"\s*:\s*"ping"\s*\})?|retry:[^\r\n]*+)?(?:\r\n|\r|\n))++'
)
_COMMENTS: Final = re.compile(rb"(?:(?<=[\r\n])|\A):[^\r\n]*")
# Larger events are taken for content without a search. The only larger ones without content repeat the request
# (`response.created`), and are recognized by their name.
_MAX_LOOKED_THROUGH: Final = 64 * 1024


def has_content(events: bytes) -> bool:
    """Whether whole events, with or without an HTTP chunk's framing, hold anything that the model has generated."""
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
    """Whether `data` is only comments or pings, which show that the connection lives, not that the request advances."""
    return _KEEP_ALIVE.fullmatch(data) is not None


def _is_content(name: bytes, data: bytes) -> bool:
    if name == b"content_block_start":
        return _BEGINS_TOOL.search(data) is not None
    if name == b"content_block_delta" or (name.startswith(b"response.") and name.endswith(b".delta")):
        return len(data) > _MAX_LOOKED_THROUGH or _SAYS.search(data) is not None
    # A name of neither API: an engine that names the events of completions.
    return not name.startswith((b"response.", b"message_", b"content_block_", b"ping", b"error")) and has_content(data)
