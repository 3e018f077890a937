"""Summary of a period of traffic: sums only, so that windows add up in any order and grouping.

A window keeps the evidence of each number (count, sum, the bets' logs), and the counts of each kind of category.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from evaluators.statistics.betting import BETS, Evidence

# Callers name tasks themselves, so a window keeps so many names of each kind and counts the rest together.
MAX_CATEGORIES: Final = 50
OTHER: Final = "other"

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Numbers in [0, 1] and categories of some sessions.

    Attributes:
        numbers: Name → evidence of its values.
        categories: Name → category → how many.
    """

    numbers: Mapping[str, Evidence] = field(default_factory=lambda: _NONE)
    categories: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: _NONE)

    def add(self, numbers: Mapping[str, float], categories: Mapping[str, str]) -> "Window":
        """Return the window with one more observation, which may lack some numbers or categories.

        Raises:
            ValueError: A number is not in [0, 1].
        """
        evidence = dict(self.numbers)
        for name, value in numbers.items():
            evidence[name] = evidence.get(name, Evidence()).add(value)
        counts = dict(self.categories)
        for name, category in categories.items():
            seen = dict(counts.get(name, _NONE))
            label = category if category in seen or len(seen) < MAX_CATEGORIES else OTHER
            seen[label] = seen.get(label, 0) + 1
            counts[name] = MappingProxyType(seen)
        return Window(numbers=MappingProxyType(evidence), categories=MappingProxyType(counts))

    def merge(self, other: "Window") -> "Window":
        """Return both windows together; merging is associative and commutative."""
        numbers = dict(self.numbers)
        for name, evidence in other.numbers.items():
            numbers[name] = numbers.get(name, Evidence()).merge(evidence)
        categories = dict(self.categories)
        for name, theirs in other.categories.items():
            mine = categories.get(name, _NONE)
            categories[name] = MappingProxyType(
                {each: mine.get(each, 0) + theirs.get(each, 0) for each in {**mine, **theirs}}
            )
        return Window(numbers=MappingProxyType(numbers), categories=MappingProxyType(categories))

    def to_json(self) -> dict[str, Any]:
        """Return the window as JSON values, which `window_from` reads."""
        numbers = {
            name: {"n": each.n, "total": each.total, "up": list(each.up), "down": list(each.down)}
            for name, each in self.numbers.items()
        }
        return {"numbers": numbers, "categories": {name: dict(counts) for name, counts in self.categories.items()}}


def window_from(values: Mapping[str, Any]) -> Window:
    """Return the window from the JSON values of `to_json`.

    Raises:
        ValueError: The window was written with other bets; a baseline must then be set anew.
    """
    numbers = {}
    for name, each in values["numbers"].items():
        if len(each["up"]) != len(BETS) or len(each["down"]) != len(BETS):
            raise ValueError(f"`{name}` was kept with `{len(each['up'])}` bets, not {len(BETS)}: set the baseline anew")
        numbers[name] = Evidence(n=each["n"], total=each["total"], up=tuple(each["up"]), down=tuple(each["down"]))
    categories = {name: MappingProxyType(dict(counts)) for name, counts in values["categories"].items()}
    return Window(numbers=MappingProxyType(numbers), categories=MappingProxyType(categories))
