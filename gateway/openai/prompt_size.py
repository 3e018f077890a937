"""Estimates a prompt's tokens from its size in bytes, for token limits where no engine has reported usage.

Pure. Needed only if a reply's usage never came, because the client left or the engine failed.
"""

import re
from typing import Final

from gateway.openai.body import Fields, LargeFields

# OpenAI's rule of thumb for English; other languages differ by up to a factor of two in either direction.
BYTES_PER_TOKEN: Final = 4
# For a picture or sound, whose base64 text is no measure of its tokens; vision models make 256 to 2,000 of a picture.
TOKENS_PER_MEDIUM: Final = 1000
# The largest estimate: in a body that is not read whole, the share of base64 is unknown.
MAX_TOKENS: Final = 131_072
# What a usual body has besides its prompt: names of fields, numbers.
USUAL_BYTES_BESIDE: Final = 256
# Base64 in a `data:` URL, or in the parts of Anthropic's and OpenAI's messages that hold it as `data`.
_MEDIUM: Final = re.compile(rb'(?:base64,|"data"\s*:\s*")[A-Za-z0-9+/=_-]{64,}')
_READ: Final = ("messages", "input", "prompt")
_TOKEN_IDS: Final = re.compile(rb"[\s\[]*\[[\s\[]*\d")


def prompt_tokens(fields: Fields, size: int) -> int:
    """Return an estimate of how many tokens the prompt of a request has.

    Args:
        fields: The body's fields.
        size: The body's size in bytes. All of it counts, not only messages, input and prompt, since the model also
            reads system prompts, instructions, tools and documents.
    """
    if isinstance(fields, LargeFields):
        spans = (fields.outline.members[name][-1] for name in _READ if name in fields.outline.members)
        read = sum(end - start for start, end in spans)
        tokens = read // BYTES_PER_TOKEN
    else:
        found = [bytes(raw) for raw in (fields.messages, fields.input, fields.prompt) if len(raw)]
        read = sum(map(len, found))
        tokens = sum(map(_tokens, found))
    beside = max(0, size - read - USUAL_BYTES_BESIDE) // BYTES_PER_TOKEN
    return min(tokens + beside, MAX_TOKENS)


def _tokens(sent: bytes) -> int:
    if _TOKEN_IDS.match(sent):
        return sent.count(b",") + 1
    size, media = len(sent), 0
    if b"base64," in sent or b'"data"' in sent:
        for medium in _MEDIUM.finditer(sent):
            size -= medium.end() - medium.start()
            media += 1
    return -(-size // BYTES_PER_TOKEN) + media * TOKENS_PER_MEDIUM
