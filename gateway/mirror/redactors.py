"""Which redactors there are: functions of text that take out what identifies people.

Named in a route's mirror policy: built-in ones, `regex:…`, and those that packages register (entry points
`loragate.redactors`). Built-in ones take time that grows with the text's length; those of others may take
any, and run where they can be ended (`gateway/mirror/redactor_process.py`). Pure, as far as packages are.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from gateway.mirror.patterns import InvalidPattern, pattern_of

Redactor = Callable[[str], str]

GROUP: Final = "loragate.redactors"
REGEX: Final = "regex:"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")

# Letters of every script, so that addresses of internationalised domains are found as well.
_HOST: Final = re.compile(r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_MAX_LOCAL: Final = 64
# With a country's prefix 8 to 15 digits (E.164), without one 10 and more; a date is none.
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?!\d{4}-\d\d-\d\d)"
    r"(?:\+\d(?:[ ().-]{0,2}\d){7,14}|\(?\d(?:[ ().-]{0,2}\d){9,14}|0\d{2,4}/\d{4,9})(?![\w-])"
)
# Digits as they come, or in groups of four with any separator between them.
_CARD: Final = re.compile(
    r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"
    r"|(?<!\d)\d{4}(?:[\s._/-]{1,2}\d{4}){2}[\s._/-]{1,2}\d{1,4}(?:[\s._/-]{1,2}\d{1,3})?(?!\d)"
)
_IPV4: Final = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])")
_URL_CREDENTIALS: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#@'\"<>]++@")
# Run after the others: to a pattern of telephones a card's first digits are one.
_LAST: Final = frozenset(("phone",))
# What each second digit counts.
_LUHN_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_ZERO: Final = ord("0")


class InvalidRedactor(ValueError):
    """There is no redactor of this name; the message says what may be named."""


class NotRedacted(Exception):
    """A sample that must not be kept; `reason` is a word for the counts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _passes_luhn(digits: str) -> bool:
    plain = digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)
    backwards = plain.encode()[::-1]
    single = backwards[::2]
    return (sum(single) - _ZERO * len(single) + sum(backwards[1::2].translate(_LUHN_DOUBLED))) % 10 == 0


def _email(text: str) -> str:
    """Look for `@` and a host, then back for the name before it: to try at every letter takes 64 steps for each."""
    parts: list[str] = []
    end = 0
    for found in _HOST.finditer(text):
        first = _local_begin(text, end, found.start())
        if first < found.start():
            parts += text[end:first], "[email]"
            end = found.end()
    return "".join((*parts, text[end:])) if parts else text


def _local_begin(text: str, lowest: int, at: int) -> int:
    """Return where the name before the `@` at `at` begins; `at` if there is none."""
    lowest = max(lowest, at - _MAX_LOCAL)
    first = at
    if at and text[at - 1] == '"':
        opening = text.rfind('"', max(lowest - 2, 0), at - 1)
        return opening if opening >= 0 and "\n" not in text[opening:at] else at
    while first > lowest and (text[first - 1].isalnum() or text[first - 1] in "_.%+-"):
        first -= 1
    while first < at and text[first] == ".":
        first += 1
    return first


def _card(text: str) -> str:
    def judged(found: re.Match[str]) -> str:
        return "[card]" if _passes_luhn(re.sub(r"\D", "", found[0])) else found[0]

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
        try:
            pattern_of(name[len(REGEX) :])
        except InvalidPattern as error:
            raise InvalidRedactor(f"`{name[:80]}` {error}") from None
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
        return partial(pattern_of(name[len(REGEX) :]).replaced, by="[redacted]")
    if name in BUILTIN:
        return BUILTIN[name]
    found = _registered().get(name)
    if found is None:
        raise InvalidRedactor(
            f"the redactor `{name}` is not installed here; there are {', '.join(sorted(installed()))}"
        )
    loaded: Redactor = found.load()
    return loaded


def redact_text(text: str, names: Sequence[str], begin: Callable[[str], None] | None = None) -> str:
    """Return a text without what the redactors find.

    Args:
        text: Anything.
        names: The redactors, in order.
        begin: Told which redactor begins, so that whoever ends it knows which it was.

    Raises:
        NotRedacted: One of them does not exist, fails, or returns no text.
    """
    for name in sorted(names, key=_LAST.__contains__):
        if begin is not None:
            begin(name)
        try:
            text = redactor_of(name)(text)
        except Exception as error:  # noqa: BLE001 (others' code; its message may quote the text)
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` failed: {type(error).__name__}") from None
        if not isinstance(text, str):
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` returned {type(text).__name__}, not text")
    return text
