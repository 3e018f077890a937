"""Reads values as leniently as engines do: vLLM parses with pydantic, where `"yes"` and 1.0 are true and `"64"` is 64.

Pure. Checks must read a request as the engine will, or an unusual spelling gets around a limit.
"""

import re
from typing import Any, Final

# The strings that pydantic takes for booleans, in any case; other strings are an error there.
_TRUE: Final = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE: Final = frozenset(("0", "false", "f", "no", "n", "off"))
# An integer as pydantic reads it: a sign, digits with single `_` between them, zeros after a point.
_WHOLE: Final = re.compile(r"[+-]?\d+(?:_\d+)*(?:\.0*)?", re.ASCII)
# More characters than any number of tokens has.
_MAX_NUMBER: Final = 24


def is_true(value: Any) -> bool:
    """Whether an engine reads `value` as true."""
    return value is True or (_is_number(value) and value == 1) or _word(value) in _TRUE


def is_stream(value: Any) -> bool:
    """Whether an engine may read the value of `stream` as true; values that it would refuse count as true, too."""
    if value is True:
        return True
    if not value:  # missing, null, false or 0; an empty string, list or object is refused by the engine
        return False
    return _word(value) not in _FALSE


def is_refused(value: Any) -> bool:
    """Whether an engine refuses `value` as a boolean: it is neither true, false nor missing."""
    return not (value is None or is_true(value) or _word(value) in _FALSE or (_is_number(value) and value == 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def number_of(value: Any) -> int | None:
    """Return the integer that an engine reads in `value`; None if it reads none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= _MAX_NUMBER:
        text = value.strip()  # pydantic strips all kinds of white space, too
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    return None


def _word(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None
