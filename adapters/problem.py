"""One thing that is wrong with an adapter: what, how much, the limit, and the remedy."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Values are displayed and put into JSON; a hostile one may be megabytes long.
_MAX_VALUE: Final = 120
# How many problems of one kind are reported: a fault in each of 10,000 tensors is one fault.
MAX_OF_A_KIND: Final = 8


class Severity(StrEnum):
    """Whether a problem refuses the adapter, or is only reported."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken rule.

    `code` is stable and may be matched on; `where` names the file, the field or the tensor.
    """

    code: str
    message: str
    value: str | int | float | None = None
    limit: str | int | float | None = None
    remedy: str
    severity: Severity = Severity.ERROR
    where: str = ""

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR


def render(value: object) -> str:
    """Return a value as text that is short enough to print and has no control characters for a terminal."""
    # Cut a long list before it is turned into text, which could take more memory than the adapter.
    head = value[:16] if isinstance(value, list | tuple | str | bytes) and len(value) > _MAX_VALUE else value
    text = str(head)[: _MAX_VALUE + 1]
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else "�" for sign in text)
    return text if len(text) <= _MAX_VALUE and head is value else f"{text[:_MAX_VALUE]}…"


def fold(problems: Iterable[Problem], most: int = MAX_OF_A_KIND) -> tuple[Problem, ...]:
    """Return the problems, at most `most` of one code; the last one says how many more there are."""
    every = tuple(problems)
    total = Counter(problem.code for problem in every)
    seen: Counter[str] = Counter()
    kept: list[Problem] = []
    for problem in every:
        seen[problem.code] += 1
        if seen[problem.code] < most or (seen[problem.code] == most == total[problem.code]):
            kept.append(problem)
        elif seen[problem.code] == most:
            kept.append(_with_rest(problem, total[problem.code] - most))
    return tuple(kept)


def _with_rest(problem: Problem, rest: int) -> Problem:
    return Problem(
        code=problem.code,
        message=f"{problem.message} (and {rest:,} more like this)",
        value=problem.value,
        limit=problem.limit,
        remedy=problem.remedy,
        severity=problem.severity,
        where=problem.where,
    )
