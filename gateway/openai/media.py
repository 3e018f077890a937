"""What of media stands in messages: addresses that an engine would fetch, tensors, names of what it has cached.

Pure. vLLM fetches `http:`, `https:` and `file:` addresses of pictures, sounds and films from where it stands, which may
be a network that a caller cannot reach; `data:` addresses hold the medium themselves. Only the places that an engine
reads are looked at: a web address in a text, or in a citation, is none.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.openai.surrogates import mended

# One of them stands in every part that is looked for, if its key is spelt plainly. Letters can be spelt as escapes.
HINTS: Final = (b'url"', b'embeds"', b'"uuid"')
SPELT_LETTERS: Final = re.compile(rb"\\u00[4-7]")
_URLS: Final = ("image_url", "audio_url", "video_url", "file_url")
_EMBEDS: Final = ("image_embeds", "audio_embeds", "video_embeds")
_MEDIA: Final = (*_URLS, *_EMBEDS, "input_audio", "image_pil")
PROMPT_EMBEDS: Final = "prompt_embeds"
# Members of an object that tell what it holds. All else of it is only looked into.
TELLING: Final = frozenset((*_MEDIA, "source", "type", PROMPT_EMBEDS, "uuid", "url"))

# What such a member is: null; nothing of note; an address elsewhere, or an object whose `url` is one, or whose `url`'s
# `url` is. Of `type` whether it is `prompt_embeds`.
NULL: Final = -1
PLAIN: Final = 0
ADDRESS: Final = 1
_DEEPEST: Final = 3

# (rule, field)
Finding = tuple[str, str]


def may_hold_media(raw: bytes) -> bool:
    """Whether JSON text is worth a look."""
    return any(hint in raw for hint in HINTS) or (b"\\u00" in raw and SPELT_LETTERS.search(raw) is not None)


def media_fields(raw: bytes) -> dict[str, str]:
    """Return rule → field of what stands in messages: `media_urls`, `media_embeds`, `media_uuids`, `prompt_embeds`."""
    found: set[Finding] = set()
    waiting: list[Any] = [_decoded(raw)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [each for each in value if isinstance(each, list | dict)]
        elif isinstance(value, dict):
            found.update(findings({name: _level(name, value[name]) for name in TELLING & value.keys()}))
            waiting += [each for each in value.values() if isinstance(each, list | dict)]
    return by_rule(found)


def by_rule(found: Iterable[Finding]) -> dict[str, str]:
    """Return rule → field, always the same one of several."""
    return dict(sorted(found, reverse=True))


def findings(levels: Mapping[str, int]) -> Iterator[Finding]:
    """Yield what an object holds by what its telling members are."""
    for name in _URLS:
        if levels.get(name, PLAIN) >= ADDRESS:
            yield "media_urls", name
    if levels.get("source", PLAIN) > ADDRESS:  # Anthropic's: always an object
        yield "media_urls", "source.url"
    for name in _EMBEDS:
        if levels.get(name, NULL) != NULL:
            yield "media_embeds", name
    if levels.get("type") == ADDRESS or levels.get(PROMPT_EMBEDS, NULL) != NULL:
        yield PROMPT_EMBEDS, PROMPT_EMBEDS
    # vLLM takes the cached medium of this name, whoever sent it.
    if levels.get("uuid", NULL) != NULL and any(name in levels for name in _MEDIA):
        yield "media_uuids", "uuid"


def level_of_text(name: str, text: str) -> int:
    """Return what a member is that is a text; its first letters are enough, but of `type` all are needed."""
    is_telling = text == PROMPT_EMBEDS if name == "type" else text != "" and not text.startswith("data:")
    return ADDRESS if is_telling else PLAIN


def level_of_object(url: int) -> int:
    """Return what a member is that is an object, by what its own `url` is."""
    return url + 1 if ADDRESS <= url < _DEEPEST else PLAIN


def _level(name: str, value: Any, deepest: int = _DEEPEST - 1) -> int:
    if value is None:
        return NULL
    if isinstance(value, str):
        return level_of_text(name, value)
    if isinstance(value, dict) and name != "type" and deepest:
        return level_of_object(_level("url", value.get("url"), deepest - 1))
    return PLAIN


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # Half of a surrogate pair, or a number beyond 64 bits: an engine reads them, so this must.
        return json.loads(mended(raw), parse_int=_number, parse_float=_number, strict=False)


def _number(_digits: str) -> int:
    """Return any number: a text would be an address, and Python refuses integers of more than 4,300 digits."""
    return 0
