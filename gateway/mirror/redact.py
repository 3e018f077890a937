"""Take what identifies people out of copied requests, before anything of them is stored.

Redactors are functions of text, named in a route's mirror policy: built-in ones, `regex:…`, and
those that packages register (entry points `loragate.redactors`). They see every text of a request
and of its reply, not names of models and schemas. A text that a redactor changes is not the text
that was answered, so the reply goes and both versions are asked anew. What cannot be checked is
dropped: nothing is ever kept unredacted.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Final

import msgspec

from gateway.mirror.sample import Sample

Redactor = Callable[[str], str]

GROUP: Final = "loragate.redactors"
REGEX: Final = "regex:"
LONGEST_REGEX: Final = 1_000
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")

_EMAIL: Final = re.compile(r"[A-Za-z0-9_%+-][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
# With a country's prefix 8 to 15 digits (E.164), without one 10 and more; a date is none.
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?!\d{4}-\d\d-\d\d)(?:\+\d(?:[ ().-]{0,2}\d){7,14}|\(?\d(?:[ ().-]{0,2}\d){9,14})(?![\w-])"
)
_CARD: Final = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_IPV4: Final = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])")
_URL_CREDENTIALS: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#@'\"<>]{1,256}@")
_LUHN_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

# Top-level fields of a request that hold no words of people: names, schemas, numbers.
_STRUCTURE: Final = frozenset(
    ("model", "tools", "tool_choice", "functions", "function_call", "response_format", "text", "structured_outputs",
     "guided_json", "guided_regex", "guided_grammar", "guided_choice", "stop", "stream_options", "include",
     "reasoning", "thinking", "service_tier", "encoding_format", "chat_template")
)  # fmt: skip
# Fields anywhere whose values are names or data.
_NO_TEXT: Final = frozenset(
    ("id", "role", "type", "tool_call_id", "call_id", "tool_use_id", "item_id", "response_id", "data", "media_type",
     "detail", "format", "model", "object", "finish_reason", "stop_reason", "status", "system_fingerprint")
)  # fmt: skip
# Fields that may hold data as a URL; elsewhere what begins with `data:` is what somebody wrote.
_URLS: Final = frozenset(("url", "image_url", "audio_url", "video_url", "file_url", "file_data"))


class InvalidRedactor(ValueError):
    """There is no redactor of this name; the message says what may be named."""


class NotRedacted(Exception):
    """A sample that must not be kept; `reason` is a word for the counts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _passes_luhn(digits: str) -> bool:
    doubled = sum(_LUHN_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def _email(text: str) -> str:
    return _EMAIL.sub("[email]", text) if "@" in text else text  # to look is far cheaper than to search


def _card(text: str) -> str:
    def judged(found: re.Match[str]) -> str:
        return "[card]" if _passes_luhn(re.sub(r"[ -]", "", found[0])) else found[0]

    return _CARD.sub(judged, text)


def _ipv6(text: str) -> str:
    def judged(found: re.Match[str]) -> str:
        if found[0].count(":") < 2:
            return found[0]
        try:
            ipaddress.IPv6Address(found[0])
        except ValueError:
            return found[0]
        return "[ip]"

    return _IPV6.sub(judged, text)


BUILTIN: Final[Mapping[str, Redactor]] = MappingProxyType(
    {
        "email": _email,
        "phone": partial(_PHONE.sub, "[phone]"),
        "card": _card,
        "ipv4": partial(_IPV4.sub, "[ip]"),
        "ipv6": _ipv6,
        "url_credentials": partial(_URL_CREDENTIALS.sub, r"\1[credentials]@"),
    }
)


@cache
def _registered() -> Mapping[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=GROUP)}


def installed() -> frozenset[str]:
    """Return the names of all redactors there are, `regex:…` aside."""
    return frozenset((*BUILTIN, *_registered()))


def check_name(name: str) -> None:
    """Refuse what no redactor can be called; whether a package brings it is not looked into.

    Raises:
        InvalidRedactor: Why not.
    """
    if name.startswith(REGEX):
        pattern = name[len(REGEX) :]
        if not pattern or len(pattern) > LONGEST_REGEX:
            raise InvalidRedactor(
                f"`{name[:80]}` has a pattern of {len(pattern)} characters; give 1 to {LONGEST_REGEX}"
            )
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidRedactor(f"`{name[:80]}` is no regular expression ({error})") from None
    elif not _NAME.fullmatch(name):
        raise InvalidRedactor(
            f"`{name[:80]}` is no redactor; it may be {', '.join(BUILTIN)}, `regex:…`, or one that a package registers"
        )


@cache
def redactor_of(name: str) -> Redactor:
    """Return a redactor.

    Raises:
        InvalidRedactor: There is none of this name.
        Exception: The package that brings it cannot be loaded.
    """
    check_name(name)
    if name.startswith(REGEX):
        return partial(re.compile(name[len(REGEX) :]).sub, "[redacted]")
    if name in BUILTIN:
        return BUILTIN[name]
    found = _registered().get(name)
    if found is None:
        raise InvalidRedactor(
            f"the redactor `{name}` is not installed here; there are {', '.join(sorted(installed()))}"
        )
    loaded: Redactor = found.load()
    return loaded


def redact_text(text: str, names: Sequence[str]) -> str:
    """Return a text without what the redactors find.

    Raises:
        NotRedacted: One of them does not exist, fails, or returns no text.
    """
    for name in names:
        try:
            text = redactor_of(name)(text)
        except Exception as error:  # noqa: BLE001 (others' code; its message may quote the text)
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` failed: {type(error).__name__}") from None
        if not isinstance(text, str):
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` returned {type(text).__name__}, not text")
    return text


def redact(sample: Sample, names: Sequence[str]) -> Sample:
    """Return a sample as it may be kept.

    If a redactor changes any text of it, its reply is emptied and it is marked as redacted.

    Raises:
        NotRedacted: It must not be kept: a redactor fails, or its texts cannot be looked into.
    """
    if not names:
        return sample
    try:
        request = json.loads(sample.body, object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError):
        raise NotRedacted("not_redactable", "a request is no JSON that can be read") from None
    if _is_token_ids(request.get("prompt")):
        raise NotRedacted("not_redactable", "a prompt of token ids cannot be looked into")
    walker = _Walker(names)
    clean = {key: value if key in _STRUCTURE else walker.value(value, key) for key, value in request.items()}
    if walker.has_changed:
        body = json.dumps(clean, separators=(",", ":")).encode()
        return msgspec.structs.replace(sample, body=body, reply=b"", redacted=True)
    for text in texts_of(sample.reply, is_stream=sample.is_stream):
        if redact_text(text, names) != text:
            return msgspec.structs.replace(sample, reply=b"", redacted=True)
    return sample


def _no_name_twice(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says a name twice: all but the last value would be kept without being looked into."""
    values = dict(fields)
    if len(values) < len(fields):
        raise ValueError
    return values


def _is_token_ids(prompt: object) -> bool:
    while isinstance(prompt, list) and prompt:
        prompt = prompt[0]
    return isinstance(prompt, int)


class _Walker:
    """Rebuilds JSON values with all texts redacted, keys left alone."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.has_changed = False

    def value(self, value: Any, key: str = "", *, in_arguments: bool = False) -> Any:
        """Return a value redacted; `key` is the field that it stands in."""
        if isinstance(value, str):
            if key == "arguments":
                return self._arguments(value)
            is_data = key in _NO_TEXT or (key in _URLS and value.startswith("data:"))
            return value if is_data and not in_arguments else self._text(value)
        if isinstance(value, list):
            return [self.value(each, key, in_arguments=in_arguments) for each in value]
        if isinstance(value, dict):
            # What a tool is called with may use any name, and write a number as one.
            is_call = value.get("type") == "tool_use"
            return {
                name: self.value(each, name, in_arguments=in_arguments or (is_call and name == "input"))
                for name, each in value.items()
            }
        if in_arguments and isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            clean = self._text(text)
            return value if clean == text else clean
        return value

    def _arguments(self, text: str) -> str:
        """Return the arguments of a tool's call, which are JSON in a text; any other text as a text."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return self._text(text)
        before, self.has_changed = self.has_changed, False
        clean = self.value(values, in_arguments=True)
        changed, self.has_changed = self.has_changed, self.has_changed or before
        return json.dumps(clean) if changed else text

    def _text(self, text: str) -> str:
        clean = redact_text(text, self._names)
        self.has_changed = self.has_changed or clean != text
        return clean


def texts_of(reply: bytes, *, is_stream: bool) -> list[str]:
    """Return the texts of a reply, those of a stream put together from its events.

    Raises:
        NotRedacted: It cannot be read.
    """
    joined: dict[tuple[Any, ...], list[str]] = {}
    for event in _events(reply) if is_stream else (reply,):
        try:
            values = json.loads(event)
        except (ValueError, RecursionError):
            raise NotRedacted("not_redactable", "a reply is no JSON that can be read") from None
        for place, text in _leaves(values, (), ""):
            joined.setdefault(place, []).append(text)
    return ["".join(parts) for parts in joined.values()]


def _events(stream: bytes) -> Iterator[bytes]:
    for line in stream.splitlines():
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data and data != b"[DONE]":
                yield data


def _leaves(value: Any, place: tuple[Any, ...], key: str) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield every text with its place: the fields on the way, and the `index` of each choice or call."""
    if isinstance(value, str):
        if key not in _NO_TEXT:
            yield place, value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, (*place, number), key)
    elif isinstance(value, dict):
        index = value.get("index")
        if isinstance(index, int):
            place = (*place, f"#{index}")
        for name, each in value.items():
            yield from _leaves(each, (*place, name), name)
