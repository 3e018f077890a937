"""Take what identifies people out of copied requests, before anything of them is stored.

Redactors see every text of a request and of its reply, whatever its field is called: names of fields,
numbers, data that is text, comments of a stream. A text that a redactor changes is not the text that was
answered, so the reply goes and both versions are asked anew. Where another text would make another request
(a schema, an id, a stop word), and where nobody can look (token ids), the copy is dropped: nothing is ever
kept unredacted. Images, sound and other bytes that are no text are left as they are. Pure.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

import msgspec

from gateway.mirror.redact_fields import DATA, EXPLAINS, FIXED, NAMES, NUMBERS, PROTOCOL, SAMPLES, VALUES
from gateway.mirror.redactors import BUILTIN, NotRedacted, redact_text
from gateway.mirror.reply_texts import no_name_twice, texts_of
from gateway.mirror.spellings import plain_spelling
from gateway.records.sample import Sample

# Whoever redacts needs these, too.
__all__ = ("BUILTIN", "NotRedacted", "redact", "redact_text")


class _Place(Enum):
    """What may be done with a text."""

    WORDS = "words"  # replaced, but for the names and ids among them
    VALUES = "values"  # replaced, and numbers too: anybody may call a field here as he likes
    FIXED = "fixed"  # another text would be another request


_TOKENS: Final = frozenset(("prompt_token_ids", "token_ids", "prompt_embeds"))
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]{8,}={0,2}\s*")
# Of a data URL: no type means text.
_TEXT_TYPE: Final = re.compile(r"(?:text/|application/(?:json|xml|[\w.+-]*\+(?:json|xml))|image/svg|;|$)")

_USUAL_HEAD: Final = re.compile(r"data:[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40};base64")
# Of a data URL's beginning: spaces before it and `data:`.
_MAX_SCHEME: Final = 32

Begin = Callable[[str], None]


def redact(sample: Sample, names: Sequence[str], begin: Begin | None = None) -> Sample:
    """Return a sample as it may be kept.

    If a redactor changes any text of it, its reply is emptied and it is marked as redacted.

    Args:
        sample: As it was copied.
        names: The redactors.
        begin: Told which redactor begins.

    Raises:
        NotRedacted: It must not be kept: a redactor fails, or its texts cannot be looked into or replaced.
    """
    if not names:
        return sample
    try:
        request = json.loads(sample.body, object_pairs_hook=no_name_twice)
    except (ValueError, RecursionError):
        raise NotRedacted("not_redactable", "a request is no JSON that can be read") from None
    if not isinstance(request, dict):
        raise NotRedacted("not_redactable", "a request is no JSON object")
    if any(_holds_token_ids(request.get(name)) for name in ("prompt", "input")):
        raise NotRedacted("not_redactable", "a prompt of token ids cannot be looked into")
    walker = _Walker(names, begin)
    told = {name: text for name in ("request_id", "task") if (text := getattr(sample, name)) and walker.changes(text)}
    sample = msgspec.structs.replace(sample, **dict.fromkeys(told, "")) if told else sample
    try:
        clean = walker.request(request)
        if walker.has_changed:
            body = json.dumps(clean, separators=(",", ":")).encode()
            return msgspec.structs.replace(sample, body=body, reply=b"", redacted=True)
        is_clean = not any(map(walker.changes, texts_of(sample.reply, is_stream=sample.is_stream)))
    except RecursionError:
        raise NotRedacted("not_redactable", "a request is nested too deeply to be looked into") from None
    return sample if is_clean else msgspec.structs.replace(sample, reply=b"", redacted=True)


def _holds_token_ids(prompt: object) -> bool:
    if isinstance(prompt, list):
        return any(
            isinstance(each, int | float) or (isinstance(each, list) and _holds_token_ids(each)) for each in prompt
        )
    return False


class _Walker:
    """Rebuilds JSON values with all texts redacted."""

    def __init__(self, names: Sequence[str], begin: Begin | None) -> None:
        self._names = names
        self._begin = begin
        self._known: set[str] = set(PROTOCOL)  # names that may stay
        self.has_changed = False

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request's fields redacted."""
        clean: dict[str, Any] = {}
        for name, value in request.items():
            self._name(name, value)
            if name == "model" or (name in NUMBERS and _is_number(value)):
                clean[name] = value
            elif name in FIXED or (name == "text" and not isinstance(value, str)):
                clean[name] = self._value(value, name, _Place.FIXED)
            else:
                clean[name] = self._value(value, name, _Place.VALUES if name in VALUES else _Place.WORDS)
        return clean

    def changes(self, text: str) -> bool:
        """Whether a redactor finds anything in a text."""
        return self._redacted(text) != text

    def _name(self, name: str, value: Any) -> None:
        """Look into the name of a field, and whether its value can be looked into.

        Raises:
            NotRedacted: One of them cannot be kept.
        """
        if name in _TOKENS and value:
            raise NotRedacted("not_redactable", f"`{name}` cannot be looked into")
        self._stays(name, "the name of a field")

    def _value(self, value: Any, key: str, place: _Place) -> Any:
        if isinstance(value, str):
            return self._string(value, key, place)
        if isinstance(value, list):
            return [self._value(each, key, place) for each in value]
        if isinstance(value, dict):
            return self._object(value, place)
        if _is_number(value):
            return self._number(value, key, place)
        return value

    def _number(self, value: float, key: str, place: _Place) -> Any:
        is_whole = isinstance(value, int) or value.is_integer()
        text = str(int(value) if is_whole else value)
        if place is _Place.FIXED:
            if key in SAMPLES:
                self._stays(text, f"`{key}`")
            return value
        if not is_whole and place is _Place.WORDS:
            return value
        clean = self._text(text)
        return value if clean == text else clean

    def _object(self, value: dict[str, Any], place: _Place) -> dict[str, Any]:
        # What a tool is called with may use any name, and write a number as one.
        is_call = value.get("type") == "tool_use"
        clean: dict[str, Any] = {}
        for name, each in value.items():
            self._name(name, each)
            is_values = is_call and name == "input" and place is _Place.WORDS
            clean[name] = self._value(each, name, _Place.VALUES if is_values else place)
        return clean

    def _string(self, text: str, key: str, place: _Place) -> str:
        if text[:_MAX_SCHEME].lstrip().lower().startswith("data:"):
            head, _, data = text.partition(",")
            kind = head.strip().lower()
            if kind.endswith("base64") and ";" in kind:
                is_text = _TEXT_TYPE.match(kind[len("data:") :]) is not None
                if not _USUAL_HEAD.fullmatch(head):  # it may have parameters, which are words
                    head = self._stays(head, f"`{key}`") if place is _Place.FIXED else self._text(head)
                return f"{head},{self._data(data, key, place, is_text=is_text)}"
        if key in DATA and _BASE64.fullmatch(text):
            return self._data(text, key, place, is_text=False)
        if place is _Place.FIXED:
            return self._text(text) if key in EXPLAINS else self._stays(text, f"`{key}`")
        if place is _Place.WORDS and key in NAMES:
            return self._stays(text, f"`{key}`")
        return self._arguments(text) if key == "arguments" else self._text(text)

    def _data(self, data: str, key: str, place: _Place, *, is_text: bool) -> str:
        """Return data in base64, redacted if it is a text."""
        text = _decoded(data)
        if text is None:
            if is_text:
                raise NotRedacted("not_redactable", f"the text in `{key}` is not in UTF-8, or not in base64")
            return data
        clean = self._stays(text, f"`{key}`") if place is _Place.FIXED else self._text(text)
        return data if clean == text else base64.b64encode(clean.encode(errors="replace")).decode()

    def _arguments(self, text: str) -> str:
        """Return the arguments of a tool's call, which are JSON in a text; any other text as a text."""
        try:
            values = json.loads(text, object_pairs_hook=no_name_twice)
        except (ValueError, RecursionError):
            return self._text(text)
        before, self.has_changed = self.has_changed, False
        clean = self._value(values, "", _Place.VALUES)
        changed, self.has_changed = self.has_changed, self.has_changed or before
        return json.dumps(clean) if changed else text

    def _stays(self, text: str, what: str) -> str:
        """Return a text that cannot be replaced.

        Raises:
            NotRedacted: It would have to be.
        """
        if text not in self._known:
            if self.changes(text):
                raise NotRedacted("not_redactable", f"{what} holds what is to be redacted, and cannot be replaced")
            self._known.add(text)
        return text

    def _text(self, text: str) -> str:
        clean = self._redacted(text)
        self.has_changed = self.has_changed or clean != text
        return clean

    def _redacted(self, text: str) -> str:
        clean = redact_text(text, self._names, self._begin)
        plain = plain_spelling(clean)
        if plain == clean:
            return clean
        found = redact_text(plain, self._names, self._begin)
        return clean if found == plain else found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decoded(data: str) -> str | None:
    """Return the text that data in base64 is; None if it is none."""
    try:
        packed = "".join(data.split()).replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
