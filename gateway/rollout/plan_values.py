"""How plans are written: `10m`, `1 %`, and the whole plan in one line.

    shadow 500 pairs 20 % → 1 % 10 min → 5 % 2000 samples → 25 % → 50 % → 100 %

`->` is as good as `→`. A step without a time takes that of the step before it, the first
one ten minutes. Of shadow the share is that of the requests that are compared; a time is
its least. Samples, gates and all else have the defaults of a plan that is written out.
Here text becomes values; whether they make a plan is decided in `plan_parser.py`.
"""

import re
from decimal import Decimal
from typing import Any, Final

# Long enough for a crash loop or a memory leak's first signs to show; Flagger's examples take 1 to 10 minutes.
DEFAULT_TIME: Final = 600
_BASIS_POINTS: Final = 100  # in a per cent

# A number of nine digits is more than enough, and a longer one costs nothing to refuse.
_NUMBER: Final = r"\d{1,9}(?:\.\d{1,9})?"
_UNITS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_TIME: Final = rf"(?:{_NUMBER} ?(?:sec|s|min|m|h|d))"
_DURATION: Final = re.compile(rf"{_TIME}(?: ?{_TIME})*")
_TIMES: Final = re.compile(rf"({_NUMBER}) ?(sec|s|min|m|h|d)")
_SHARE: Final = re.compile(rf"({_NUMBER}) ?%")
_ARROW: Final = re.compile(r"→|->")
_COUNT: Final = r"\d{1,9}"
_SHADOW: Final = re.compile(rf"shadow ({_COUNT}) pairs?(?: ({_NUMBER} ?%))?(?: ({_TIME}(?: ?{_TIME})*))?")
_STEP: Final = re.compile(rf"({_NUMBER} ?%)(?: ({_TIME}(?: ?{_TIME})*))?(?: ({_COUNT}) samples?)?")


class NotReadable(ValueError):
    """Text or a value that is not written as such things are."""


def seconds_of(value: object) -> int:
    """Return whole seconds from `90s`, `10m`, `10 min`, `1h30m`, `2d`, or a whole number of seconds.

    Raises:
        NotReadable: It is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        seconds = sum(Decimal(number) * _UNITS[unit] for number, unit in _TIMES.findall(value))
        if seconds == int(seconds):
            return int(seconds)
    raise NotReadable("a time such as 90s, 10m, 1h30m or 2d")


def weight_of(value: object) -> int:
    """Return whole basis points from `1%`, `0.25 %`, or a whole number of basis points.

    Raises:
        NotReadable: It is neither, or finer than a basis point.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is not None:
        points = Decimal(found[1]) * _BASIS_POINTS
        if points == int(points):
            return int(points)
    raise NotReadable("a share such as 5%")


def share_of(value: object) -> float:
    """Return a share from `1%` or a number such as 0.01; its range is for the caller to check.

    Raises:
        NotReadable: It is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise NotReadable("a share such as 1% or 0.01")
    return float(Decimal(found[1]) / 100)


def values_of(text: str) -> dict[str, Any]:
    """Return the values of a plan in one line.

    Raises:
        NotReadable: The message quotes every part that cannot be read.
    """
    values: dict[str, Any] = {"steps": []}
    unreadable: list[str] = []
    seconds: str | int = DEFAULT_TIME
    stage: dict[str, Any]
    for at, part in enumerate(" ".join(piece.split()) for piece in _ARROW.split(text)):
        shadow, step = _SHADOW.fullmatch(part), _STEP.fullmatch(part)
        if shadow is not None and at == 0:
            stage = {"pairs": int(shadow[1]), "share": shadow[2], "min_time": shadow[3]}
            values["shadow"] = {name: value for name, value in stage.items() if value is not None}
        elif step is not None:
            seconds = step[2] or seconds
            stage = {"weight": step[1]}
            if step[2] or float(step[1].rstrip(" %")) != 100:  # a promotion inherits no time, and may not be given one
                stage["min_time"] = seconds
            if step[3]:
                stage["min_samples"] = int(step[3])
            values["steps"].append(stage)
        else:
            unreadable.append(f"`{part[:80]}`")
    if unreadable:
        raise NotReadable(
            f"plan: cannot read {', '.join(unreadable)}; write steps such as `1 % 10 min` or "
            "`5 % 1h 2000 samples`, and before them at most a `shadow 500 pairs 10%`, with `→` or `->` between them"
        )
    return values
