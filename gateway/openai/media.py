"""Finds media in messages: addresses that an engine would fetch, embeddings (tensors), and names of cached media.

Pure. vLLM fetches `http:`, `https:` and `file:` addresses of pictures, sounds and videos from its own machine, which
may be in a network that the caller cannot reach (SSRF); `data:` addresses hold the medium themselves. Only places where
an engine reads media are searched: a web address in a text or a citation does not count.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.openai.surrogates import repair_surrogates

# Every part with media holds one of these, if its key is spelt plainly; letters can also be spelt as escapes.
HINTS: Final = (b'url"', b'embeds"', b'"uuid"')
SPELT_LETTERS: Final = re.compile(rb"\\u00[4-7]")
_URLS: Final = ("image_url", "audio_url", "video_url", "file_url")
_EMBEDS: Final = ("image_embeds", "audio_embeds", "video_embeds")
_MEDIA: Final = (*_URLS, *_EMBEDS, "input_audio", "image_pil")
PROMPT_EMBEDS: Final = "prompt_embeds"
# The members of an object that show which media it holds. Other members are only searched for nested objects.
RELEVANT_KEYS: Final = frozenset((*_MEDIA, "source", "type", PROMPT_EMBEDS, "uuid", "url"))

# The level of a relevant member: null; nothing of note; an address elsewhere; and one level more for each object around
# it that has it as `url`. For `type`, ADDRESS means that it is `prompt_embeds`.
NULL: Final = -1
PLAIN: Final = 0
ADDRESS: Final = 1
_DEEPEST: Final = 3

# (rule of the policy, field in the messages)
Finding = tuple[str, str]


def may_hold_media(raw: bytes) -> bool:
    """Whether a JSON text may hold media: a quick check before `media_fields`."""
    return any(hint in raw for hint in HINTS) or (b"\\u00" in raw and SPELT_LETTERS.search(raw) is not None)


def media_fields(raw: bytes) -> dict[str, str]:
    """Return rule → field for the media in messages: `media_urls`, `media_embeds`, `media_uuids`, `prompt_embeds`."""
    found: set[Finding] = set()
    waiting: list[Any] = [_decode(raw)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [each for each in value if isinstance(each, list | dict)]
        elif isinstance(value, dict):
            found.update(findings({name: _level(name, value[name]) for name in RELEVANT_KEYS & value.keys()}))
            waiting += [each for each in value.values() if isinstance(each, list | dict)]
    return by_rule(found)


def by_rule(found: Iterable[Finding]) -> dict[str, str]:
    """Return rule → field; of several fields of a rule always the same one."""
    return dict(sorted(found, reverse=True))


def findings(levels: Mapping[str, int]) -> Iterator[Finding]:
    """Yield the media that an object holds, by the levels of its relevant members."""
    for name in _URLS:
        if levels.get(name, PLAIN) >= ADDRESS:
            yield "media_urls", name
    if levels.get("source", PLAIN) > ADDRESS:  # Anthropic's form: always an object
        yield "media_urls", "source.url"
    for name in _EMBEDS:
        if levels.get(name, NULL) != NULL:
            yield "media_embeds", name
    if levels.get("type") == ADDRESS or levels.get(PROMPT_EMBEDS, NULL) != NULL:
        yield PROMPT_EMBEDS, PROMPT_EMBEDS
    # vLLM uses the cached medium of this name, even if another caller has sent it.
    if levels.get("uuid", NULL) != NULL and any(name in levels for name in _MEDIA):
        yield "media_uuids", "uuid"


def level_of_text(name: str, text: str) -> int:
    """Return the level of a member whose value is a string. The first characters are enough, except for `type`."""
    is_address = text == PROMPT_EMBEDS if name == "type" else text != "" and not text.startswith("data:")
    return ADDRESS if is_address else PLAIN


def level_of_object(url: int) -> int:
    """Return the level of a member whose value is an object, by the level of the object's `url`."""
    return url + 1 if ADDRESS <= url < _DEEPEST else PLAIN


def _level(name: str, value: Any, deepest: int = _DEEPEST - 1) -> int:
    if value is None:
        return NULL
    if isinstance(value, str):
        return level_of_text(name, value)
    if isinstance(value, dict) and name != "type" and deepest:
        return level_of_object(_level("url", value.get("url"), deepest - 1))
    return PLAIN


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # Lone surrogates, or a number beyond 64 bits: an engine accepts them, so they must not hide media here.
        return json.loads(repair_surrogates(raw), parse_int=_number, parse_float=_number, strict=False)


def _number(_digits: str) -> int:
    """Return 0 for any number: Python refuses integers of more than 4,300 digits, and a string would be an address."""
    return 0
