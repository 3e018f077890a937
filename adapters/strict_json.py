"""Parse JSON strictly: no duplicate keys, valid Unicode, numbers in range.

So the same bytes mean the same to every reader, whatever library it uses.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from adapters.problem import render

# A 64-bit number has 20 digits; a longer one is an attack on the parser.
_MAX_DIGITS: Final = 20
# Configs and headers nest about five levels; the bound keeps recursive code from running out of stack.
DEEPEST: Final = 64


class InvalidJson(ValueError):
    """The bytes are not JSON that every reader understands in the same way; the message says why."""


class DuplicateKey(InvalidJson):
    """An object has a key twice; readers differ in which of the two values they take."""


def parse(data: bytes) -> Any:
    """Return the value that `data` encodes.

    Raises:
        InvalidJson: It is not JSON, is nested too deeply, or means different things to different readers.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_number
        )
        if _is_deep(value):
            raise InvalidJson(f"it is nested more than {DEEPEST} times")
        if b"\\u" in data:  # escapes can encode a lone surrogate, which cannot be encoded as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except InvalidJson:
        raise
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except UnicodeError:
        raise InvalidJson("it is not Unicode (UTF-8)") from None
    except ValueError as error:
        raise InvalidJson(f"it is not valid JSON: {str(error)[:80]}") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        below = (inner for each in level for inner in (each.values() if isinstance(each, dict) else each))
        level = [inner for inner in below if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(f"`{render(key)}` is there twice")
            seen.add(key)
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or text == "-0":
        raise InvalidJson(f"the number `{text[:_MAX_DIGITS]}` is out of range")
    return int(text)


def _no_number(text: str) -> Any:
    raise InvalidJson(f"`{text}` is no number in JSON")
