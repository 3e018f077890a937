"""What of media stands in messages: addresses that an engine would fetch, tensors, names of what it has cached.

Pure. vLLM fetches `http:`, `https:` and `file:` addresses of pictures, sounds and films from where it stands, which may
be a network that a caller cannot reach; `data:` addresses hold the medium themselves. Only the places that an engine
reads are looked at: a web address in a text, or in a citation, is none.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.receive.wire import mended

# One of them stands in every part that is looked for, if its key is spelt plainly. Letters can be spelt as escapes.
_HINTS: Final = (b'url"', b'embeds"', b'"uuid"')
_SPELT_LETTERS: Final = re.compile(rb"\\u00[4-7]")
_URLS: Final = ("image_url", "audio_url", "video_url", "file_url")
_EMBEDS: Final = ("image_embeds", "audio_embeds", "video_embeds")
_MEDIA: Final = (*_URLS, *_EMBEDS, "input_audio", "image_pil")


def may_hold_media(raw: bytes) -> bool:
    """Whether JSON text is worth a look."""
    return any(hint in raw for hint in _HINTS) or (b"\\u00" in raw and _SPELT_LETTERS.search(raw) is not None)


def media_fields(raw: bytes) -> dict[str, str]:
    """Return rule → field of what stands in messages: `media_urls`, `media_embeds`, `media_uuids`, `prompt_embeds`."""
    found: dict[str, str] = {}
    waiting: list[Any] = [_decoded(raw)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [each for each in value if isinstance(each, list | dict)]
        elif isinstance(value, dict):
            found.update(_of_part(value))
            waiting += [each for each in value.values() if isinstance(each, list | dict)]
    return found


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # Half of a surrogate pair, or a number beyond 64 bits: an engine reads them, so this must.
        return json.loads(mended(raw), parse_int=str, parse_float=str, strict=False)


def _of_part(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _URLS:
        if name in part and _is_elsewhere(part[name]):
            yield "media_urls", name
    source = part.get("source")
    if isinstance(source, dict) and _is_elsewhere(source):  # Anthropic's
        yield "media_urls", "source.url"
    for name in _EMBEDS:
        if part.get(name) is not None:
            yield "media_embeds", name
    if part.get("type") == "prompt_embeds" or part.get("prompt_embeds") is not None:
        yield "prompt_embeds", "prompt_embeds"
    # vLLM takes the cached medium of this name, whoever sent it.
    if part.get("uuid") is not None and any(name in part for name in _MEDIA):
        yield "media_uuids", "uuid"


def _is_elsewhere(value: Any) -> bool:
    address = value.get("url") if isinstance(value, dict) else value
    if isinstance(address, dict):
        address = address.get("url")
    return isinstance(address, str) and address != "" and not address.startswith("data:")
