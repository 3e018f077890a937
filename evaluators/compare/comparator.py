"""The interface of comparators: a pair gives a score in [0, 1] or a reason, and the same pair always gives the same.

A comparator uses no HTTP, no clock and no other pair. Its scores are stored for good, so a change of the computation
must raise the comparator's version: scores of two versions are not added up.

Built-in comparators have one of two shapes, `Similarity` and `Difference`. Both apply the same two rules: a failed
answer is never scored, because failures are counted apart, and an answer that a size limit of Loragate cut off is
scored only if the missing rest does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from evaluators.observation import Ended, Observation, Outcome, Pair, Prompt, Score, Unscored


class Shape(StrEnum):
    """Meaning of a score's number, which determines how it is judged."""

    DIFFERENCE = "difference"  # each arm has its own; `value` is (1 + candidate - control) / 2, 0.5 means no difference
    SIMILARITY = "similarity"  # one number for the pair: 1, or for relative ones 0.5, means the same
    LEVEL = "level"  # one number, 0 means nothing moved (drift)
    PREFERENCE = "preference"  # 1 the candidate wins, 0.5 a tie, 0 it loses (an LLM judge)


class Direction(StrEnum):
    """Whether a higher or a lower number is better."""

    HIGHER_IS_BETTER = "higher_is_better"
    LOWER_IS_BETTER = "lower_is_better"


class Reason(StrEnum):
    """Why a built-in comparator has no number. A closed set, so it may label a metric."""

    FAILED = "failed"  # one of the answers failed; failures are counted apart
    TRUNCATED = "truncated"  # a size limit of Loragate cut an answer off, and the rest of it matters
    EMPTY = "empty"  # no text to look at
    TOO_SHORT = "too_short"  # too little text to say
    TOOL_CALLS = "tool_calls"  # an arm called tools instead of answering
    NO_TOOL_CALLS = "no_tool_calls"  # no arm called a tool
    NO_JSON_ASKED = "no_json_asked"  # the request did not ask for JSON
    BAD_SCHEMA = "bad_schema"  # the request's JSON schema cannot be used
    NO_EXPECTED = "no_expected"  # the request does not say what a right answer holds
    NOT_STREAMED = "not_streamed"  # there are times between tokens in streams only
    UNKNOWN = "unknown"  # the engine did not say
    NOT_INSTALLED = "not_installed"  # an optional library, or a comparator that a route names, is missing here


class Comparator(Protocol):
    """One way to compare two answers. What plugins of the group `loragate.comparators` provide.

    Attributes:
        name: `[a-z0-9_.-]`, at most 64 characters; of a plugin the entry point's name.
        version: Raised with every change of what is computed.
        shape: What the number is.
        direction: Which way is good.
    """

    @property
    def name(self) -> str:
        """Return the name."""

    @property
    def version(self) -> str:
        """Return the version."""

    @property
    def shape(self) -> Shape:
        """Return what the number is."""

    @property
    def direction(self) -> Direction:
        """Return which way is good."""

    def score(self, pair: Pair) -> Outcome:
        """Return the number, or why there is none. May raise: that is a reason as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """A comparator that has one number for both answers.

    Attributes:
        measure: Computes the number in [0, 1], or the reason why there is none; never called with failed answers.
        needs_whole: Whether an answer that a size limit of Loragate cut off is left unscored.
    """

    shape: ClassVar[Shape] = Shape.SIMILARITY
    name: str
    version: str
    measure: Callable[[Pair], float | Reason]
    needs_whole: bool = True
    direction: Direction = Direction.HIGHER_IS_BETTER

    def score(self, pair: Pair) -> Outcome:
        """Return how alike the answers are, or why that cannot be said."""
        found = _obstacle(pair, needs_whole=self.needs_whole) or self.measure(pair)
        if isinstance(found, Reason):
            return Unscored(reason=found.value, version=self.version)
        return Score(value=found, version=self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A comparator that looks at one answer at a time.

    Attributes:
        look: Computes one answer's number in [0, 1], or the reason why there is none; never called with failed answers.
        needs_whole: Whether an answer that a size limit of Loragate cut off is left unscored.
    """

    shape: ClassVar[Shape] = Shape.DIFFERENCE
    name: str
    version: str
    direction: Direction
    look: Callable[[Prompt, Observation], float | Reason]
    needs_whole: bool = True

    def score(self, pair: Pair) -> Outcome:
        """Return both arms' numbers, or why one of them has none."""
        control = _obstacle(pair, needs_whole=self.needs_whole) or self.look(pair.prompt, pair.control)
        if isinstance(control, Reason):
            return Unscored(reason=control.value, version=self.version)
        candidate = self.look(pair.prompt, pair.candidate)
        if isinstance(candidate, Reason):
            return Unscored(reason=candidate.value, version=self.version)
        value = (1 + candidate - control) / 2
        return Score(value=value, version=self.version, control=control, candidate=candidate)


def _obstacle(pair: Pair, *, needs_whole: bool) -> Reason | None:
    ends = {pair.control.ended, pair.candidate.ended}
    if Ended.FAILED in ends:
        return Reason.FAILED
    return Reason.TRUNCATED if needs_whole and Ended.TRUNCATED in ends else None
