"""Read single values of a declaration; a wrong value is noted with its place, and a default returned in its stead."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.plan_values import NotReadable, seconds_of, weight_of

# The highest limit of requests or tokens that may be declared: a higher one would never be reached.
HIGHEST_LIMIT: Final = 1_000_000_000
MAX_TIME_SECONDS: Final = 10 * 365 * 86_400
_MAX_NAMES: Final = 50


class Values:
    """Reads values and collects problems.

    In each method, `where` is the value's place in the file, for the text of a problem.

    Attributes:
        problems: A text for each wrong value: its place, the value, and what is allowed.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def share(self, where: str, value: object, default: int = 0) -> int:
        """Return a share in basis points; `default` if it is absent or wrong."""
        if value is None:
            return default
        try:
            points = weight_of(value)
        except NotReadable:
            points = -1
        if not 0 <= points <= TOTAL_WEIGHT:
            self.problem(where, value, f"a share such as 5%, or whole basis points in 0..{TOTAL_WEIGHT}")
            return default
        return points

    def seconds(self, where: str, value: object) -> int | None:
        """Return a time in seconds; None if it is absent or wrong."""
        if value is None:
            return None
        try:
            seconds = seconds_of(value)
        except NotReadable:
            seconds = -1
        if not 0 <= seconds <= MAX_TIME_SECONDS:
            self.problem(where, value, "a time such as 90s, 1h30m or 7d, at most ten years")
            return None
        return seconds

    def limit(self, where: str, value: object) -> int | None:
        """Return a limit, a whole number from 1; None if it is absent or wrong."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= HIGHEST_LIMIT:
            self.problem(where, value, f"a whole number in 1..{HIGHEST_LIMIT}; leave it out for no limit")
            return None
        return value

    def text(self, where: str, value: object, most: int) -> str:
        """Return a text of at most `most` characters; empty if it is absent or wrong."""
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most:
            self.problem(where, value, f"text of at most {most} characters")
            return ""
        return value

    def matching(self, where: str, value: object, pattern: re.Pattern[str], expected: str) -> str:
        """Return a text that matches the whole pattern; empty if it is absent or wrong."""
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.problem(where, "nothing" if value is None else value, expected)
        return ""

    def names(self, where: str, value: object, example: str) -> tuple[str, ...] | None:
        """Return a list of names without repetitions; None if it is absent or not a list of names."""
        if value is None:
            return None
        is_list = isinstance(value, list | tuple) and len(value) <= _MAX_NAMES
        if not is_list or not all(isinstance(each, str) for each in value):  # type: ignore[attr-defined]  # a list
            self.problem(where, value, f"a list of at most {_MAX_NAMES} names such as {example}")
            return None
        names: tuple[str, ...] = tuple(value)  # type: ignore[arg-type]  # a list
        if len(set(names)) < len(names):
            self.problem(where, value, "a list that names each one once")
        return tuple(dict.fromkeys(names))

    def mapping(
        self, where: str, value: object, example: str, allowed_keys: Collection[str]
    ) -> Mapping[Any, Any] | None:
        """Return a mapping, of which unknown keys are noted as problems; None if it is absent or not a mapping."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.problem(where, value, f"a mapping such as {example}")
            return None
        self.check_keys(where, value, allowed_keys)
        return value

    def check_keys(self, where: str, values: Mapping[Any, Any], allowed_keys: Collection[str]) -> None:
        """Note every unknown key as a problem."""
        for key in values:
            if key not in allowed_keys:
                place = f"{where}.{str(key)[:80]}".removeprefix(".")
                self.problems.append(f"{place}: is not known; known are {', '.join(allowed_keys)}")

    def problem(self, where: str, value: object, expected: str) -> None:
        """Note that a value is not what is expected at its place."""
        text = value if isinstance(value, str) else repr(value)
        self.problems.append(f"{where}: `{text[:80]}` is not {expected}")
