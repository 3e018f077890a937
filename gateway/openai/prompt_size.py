"""About how many tokens a prompt has, for limits, where no engine tells: its bytes, counted and not read.

Pure. An estimate is only asked for when a reply's usage never came: its client has left, or its engine broke.
"""

import re
from typing import Final

from gateway.openai.body import Fields, LargeFields

# OpenAI's rule of thumb for English; other languages have fewer bytes or more a token, by a factor of two.
BYTES_PER_TOKEN: Final = 4
# A picture or a sound inside a message is base64, of which the model reads nothing; vision models make 256 to 2,000
# tokens of a picture.
TOKENS_PER_MEDIUM: Final = 1000
# No estimate is larger: of a body that is not read whole nobody knows how much of it is pictures.
MAX_TOKENS: Final = 131_072
# What a usual body has beside its prompt: names of fields, numbers.
USUAL_BYTES_BESIDE: Final = 256
# In a `data:` URL; in Anthropic's and OpenAI's parts that hold it alone.
_MEDIUM: Final = re.compile(rb'(?:base64,|"data"\s*:\s*")[A-Za-z0-9+/=_-]{64,}')
_READ: Final = ("messages", "input", "prompt")
_TOKEN_IDS: Final = re.compile(rb"[\s\[]*\[[\s\[]*\d")


def prompt_tokens(fields: Fields, size: int) -> int:
    """Return about how many tokens the prompt of a request has.

    Args:
        fields: Its body's.
        size: Its body's bytes. Those beside messages, input and prompt count, too: system prompts, instructions, tools
            and documents are read by the model as well.
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
