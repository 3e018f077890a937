"""The redactors: functions of a text that remove what identifies people.

A route's mirror policy names them: built-in ones, `regex:…`, and those that packages register (entry points
`loragate.redactors`). Built-in redactors take time that is linear in the text's length. Others may take any time, and
run where they can be killed (`gateway/mirror/redactor_process.py`). Pure, as far as the packages are.
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

# Letters of every script, to find addresses with internationalised domains, too.
_HOST: Final = re.compile(r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_MAX_LOCAL: Final = 64
# A number with a country's prefix has 8 to 15 digits (E.164), one without has 10 or more. Dates are not numbers.
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?!\d{4}-\d\d-\d\d)"
    r"(?:\+\d(?:[ ().-]{0,2}\d){7,14}|\(?\d(?:[ ().-]{0,2}\d){9,14}|0\d{2,4}/\d{4,9})(?![\w-])"
)
# Digits in a row, or in groups of four with a separator in between.
_CARD: Final = re.compile(
    r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"
    r"|(?<!\d)\d{4}(?:[\s._/-]{1,2}\d{4}){2}[\s._/-]{1,2}\d{1,4}(?:[\s._/-]{1,2}\d{1,3})?(?!\d)"
)
_IPV4: Final = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])")
_URL_CREDENTIALS: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#@'\"<>]++@")
# Runs after the others, because the first digits of a card's number look like a telephone number.
_LAST: Final = frozenset(("phone",))
# The value of each second digit in the Luhn sum.
_LUHN_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_ZERO: Final = ord("0")


class InvalidRedactor(ValueError):
    """There is no redactor of this name; the message lists the possible names."""


class NotRedacted(Exception):
    """A sample or text that must not be kept; `reason` is one word for the counts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _passes_luhn(digits: str) -> bool:
    plain = digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)
    backwards = plain.encode()[::-1]
    single = backwards[::2]
    return (sum(single) - _ZERO * len(single) + sum(backwards[1::2].translate(_LUHN_DOUBLED))) % 10 == 0


def _email(text: str) -> str:
    """Replace addresses: find `@` and a host, then search back for the name before it.

    Trying a match at every letter instead would take up to 64 steps for each.
    """
    parts: list[str] = []
    end = 0
    for found in _HOST.finditer(text):
        first = _local_begin(text, end, found.start())
        if first < found.start():
            parts += text[end:first], "[email]"
            end = found.end()
    return "".join((*parts, text[end:])) if parts else text


def _local_begin(text: str, lowest: int, at: int) -> int:
    """Return the start of the name before the `@` at `at`; `at` if there is none."""
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
    def mask(found: re.Match[str]) -> str:
        return "[card]" if _passes_luhn(re.sub(r"\D", "", found[0])) else found[0]

    return _CARD.sub(mask, text)


def _ipv6(text: str) -> str:
    def mask(found: re.Match[str]) -> str:
        if found[0].count(":") < 2:
            return found[0]
        try:
            ipaddress.IPv6Address(found[0])
        except ValueError:
            return found[0]
        return "[ip]"

    return _IPV6.sub(mask, text)


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
def _entry_points() -> Mapping[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=GROUP)}


def redactor_names() -> frozenset[str]:
    """Return the names of all available redactors, without `regex:…`."""
    return frozenset((*BUILTIN, *_entry_points()))


def check_name(name: str) -> None:
    """Refuse a text that cannot be the name of a redactor. Whether a package provides it is not checked.

    Raises:
        InvalidRedactor: It cannot be one; the message says why.
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
        Exception: The package that provides it cannot be loaded.
    """
    check_name(name)
    if name.startswith(REGEX):
        return partial(pattern_of(name[len(REGEX) :]).replace, by="[redacted]")
    if name in BUILTIN:
        return BUILTIN[name]
    found = _entry_points().get(name)
    if found is None:
        raise InvalidRedactor(
            f"the redactor `{name}` is not redactor_names here; there are {', '.join(sorted(redactor_names()))}"
        )
    loaded: Redactor = found.load()
    return loaded


def redact_text(text: str, names: Sequence[str], begin: Callable[[str], None] | None = None) -> str:
    """Return a text without what the redactors find.

    Args:
        text: Any text.
        names: The redactors, in order.
        begin: Called with each redactor's name before it runs, so that a caller that kills it knows which one ran.

    Raises:
        NotRedacted: One of them does not exist, fails, or does not return a text.
    """
    for name in sorted(names, key=_LAST.__contains__):
        if begin is not None:
            begin(name)
        try:
            text = redactor_of(name)(text)
        except Exception as error:  # noqa: BLE001 (a package's code; its message may quote the text)
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` failed: {type(error).__name__}") from None
        if not isinstance(text, str):
            raise NotRedacted("redactor_failed", f"the redactor `{name[:80]}` returned {type(text).__name__}, not text")
    return text
