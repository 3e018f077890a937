"""Redact captured requests before anything of them is stored.

Redactors see every text of a request and of its reply, whatever its field is called: names of fields, numbers, text in
base64, comments of a stream. If a redactor changes a text, the reply answered another text than the one that is kept.
So the reply is deleted, and evaluators ask both versions anew. Where another text would make a different request (a
schema, an id, a stop word), and where redactors cannot look (token ids), the whole copy is dropped: nothing is ever
kept unredacted. Images, sound and other bytes that are not text are kept as they are. Pure.
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

# Re-exported for modules that redact.
__all__ = ("BUILTIN", "NotRedacted", "redact", "redact_text")


class _Place(Enum):
    """What a redactor may do with a text."""

    WORDS = "words"  # may be replaced, except for names and ids
    VALUES = "values"  # may be replaced, numbers too: callers choose the fields' names here
    FIXED = "fixed"  # may not be replaced: another text would make a different request


_TOKENS: Final = frozenset(("prompt_token_ids", "token_ids", "prompt_embeds"))
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]{8,}={0,2}\s*")
# The types of data URLs that hold text; a URL without a type holds text, too.
_TEXT_TYPE: Final = re.compile(r"(?:text/|application/(?:json|xml|[\w.+-]*\+(?:json|xml))|image/svg|;|$)")

_USUAL_HEAD: Final = re.compile(r"data:[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40};base64")
# Characters at the beginning of a text in which `data:` is looked for, spaces before it included.
_MAX_SCHEME: Final = 32

Begin = Callable[[str], None]


def redact(sample: Sample, names: Sequence[str], begin: Begin | None = None) -> Sample:
    """Return a sample as it may be kept.

    If a redactor changes any of its texts, its reply is emptied and it is marked as redacted.

    Args:
        sample: As it was captured.
        names: The redactors.
        begin: Called with each redactor's name before it runs.

    Raises:
        NotRedacted: It must not be kept: a redactor fails, or a text cannot be searched or replaced.
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
    found = {name: text for name in ("request_id", "task") if (text := getattr(sample, name)) and walker.changes(text)}
    sample = msgspec.structs.replace(sample, **dict.fromkeys(found, "")) if found else sample
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
        self._known: set[str] = set(PROTOCOL)  # texts that may be kept: the protocols' own, and checked ones
        self.has_changed = False

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request with its fields redacted."""
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
        """Whether a redactor changes a text."""
        return self._redact(text) != text

    def _name(self, name: str, value: Any) -> None:
        """Check that a field's name may be kept and that redactors can read its value.

        Raises:
            NotRedacted: They cannot.
        """
        if name in _TOKENS and value:
            raise NotRedacted("not_redactable", f"`{name}` cannot be looked into")
        self._keep(name, "the name of a field")

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
                self._keep(text, f"`{key}`")
            return value
        if not is_whole and place is _Place.WORDS:
            return value
        clean = self._text(text)
        return value if clean == text else clean

    def _object(self, value: dict[str, Any], place: _Place) -> dict[str, Any]:
        # Callers choose the names of a tool call's arguments, and may write personal numbers as JSON numbers.
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
                if not _USUAL_HEAD.fullmatch(head):  # it may have parameters, which callers choose
                    head = self._keep(head, f"`{key}`") if place is _Place.FIXED else self._text(head)
                return f"{head},{self._data(data, key, place, is_text=is_text)}"
        if key in DATA and _BASE64.fullmatch(text):
            return self._data(text, key, place, is_text=False)
        if place is _Place.FIXED:
            return self._text(text) if key in EXPLAINS else self._keep(text, f"`{key}`")
        if place is _Place.WORDS and key in NAMES:
            return self._keep(text, f"`{key}`")
        return self._arguments(text) if key == "arguments" else self._text(text)

    def _data(self, data: str, key: str, place: _Place, *, is_text: bool) -> str:
        """Return data in base64; redacted if it decodes to text."""
        text = _decode_base64(data)
        if text is None:
            if is_text:
                raise NotRedacted("not_redactable", f"the text in `{key}` is not in UTF-8, or not in base64")
            return data
        clean = self._keep(text, f"`{key}`") if place is _Place.FIXED else self._text(text)
        return data if clean == text else base64.b64encode(clean.encode(errors="replace")).decode()

    def _arguments(self, text: str) -> str:
        """Return a tool call's arguments redacted. They are JSON in a text; if not, they are redacted as plain text."""
        try:
            values = json.loads(text, object_pairs_hook=no_name_twice)
        except (ValueError, RecursionError):
            return self._text(text)
        before, self.has_changed = self.has_changed, False
        clean = self._value(values, "", _Place.VALUES)
        changed, self.has_changed = self.has_changed, self.has_changed or before
        return json.dumps(clean) if changed else text

    def _keep(self, text: str, what: str) -> str:
        """Return a text that may not be replaced.

        Raises:
            NotRedacted: A redactor finds something in it.
        """
        if text not in self._known:
            if self.changes(text):
                raise NotRedacted("not_redactable", f"{what} holds what is to be redacted, and cannot be replaced")
            self._known.add(text)
        return text

    def _text(self, text: str) -> str:
        clean = self._redact(text)
        self.has_changed = self.has_changed or clean != text
        return clean

    def _redact(self, text: str) -> str:
        clean = redact_text(text, self._names, self._begin)
        plain = plain_spelling(clean)
        if plain == clean:
            return clean
        found = redact_text(plain, self._names, self._begin)
        return clean if found == plain else found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decode_base64(data: str) -> str | None:
    """Return the text that base64 data holds; None if it is not base64 or not UTF-8."""
    try:
        packed = "".join(data.split()).replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
