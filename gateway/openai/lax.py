"""Values as engines take them: vLLM reads a body with pydantic, where `"yes"` and 1.0 are true and `"64"` is a number.

Pure. What decides about a request must read it as the engine will, or a spelling is a way around a limit.
"""

import re
from typing import Any, Final

# pydantic's, in any case; anything else that is no number is an error there.
_TRUE: Final = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE: Final = frozenset(("0", "false", "f", "no", "n", "off"))
# A sign, digits with single `_` between them, zeros behind a point.
_WHOLE: Final = re.compile(r"[+-]?\d+(?:_\d+)*(?:\.0*)?", re.ASCII)
# More digits than any number of tokens has.
_MAX_NUMBER: Final = 24


def is_true(value: Any) -> bool:
    """Whether an engine takes `value` for true."""
    return value is True or (_is_number(value) and value == 1) or _word(value) in _TRUE


def is_stream(value: Any) -> bool:
    """Whether an engine may take `value` of `stream` for true; what it would refuse counts, too."""
    if value is True:
        return True
    if not value:  # left out, null, false, 0; and what is empty is refused
        return False
    return _word(value) not in _FALSE


def is_refused(value: Any) -> bool:
    """Whether an engine takes `value` neither for true nor for false, nor for left out."""
    return not (value is None or is_true(value) or _word(value) in _FALSE or (_is_number(value) and value == 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def number_of(value: Any) -> int | None:
    """Return the whole number that an engine reads in `value`; None if it reads none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= _MAX_NUMBER:
        text = value.strip()  # of every kind of space
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    return None


def _word(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None
