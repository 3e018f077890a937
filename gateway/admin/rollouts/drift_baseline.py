"""What traffic to a version was like when it was accepted: how it is made, kept and completed. Pure.

A promotion accepts a version. How long its answers were, how often it refused and what was
asked of it is known then from its own rollout's pairs. How far it is from the base is not,
for there it was compared with another control: that is taken from the first pairs with the
base afterwards, and only then is anything held against the baseline. A version that came
without such a rollout is accepted as those first pairs show it.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from evaluators.judge.over_time import BaselineOf
from evaluators.observation import Kind, ScoredPair
from evaluators.statistics.windows import Window, window_from

# A rollout's default shadow stage has 500 pairs; of fewer sessions than this shares are off by several points.
FEWEST_SESSIONS: Final = 200
OUTPUT_LENGTH: Final = "output_length"
KL: Final = "kl"


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that was told: by which pair, when (Unix seconds), and the sentence."""

    number: int
    at: float
    why: str


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What traffic to a version was like.

    Attributes:
        version, alias: Whose.
        rollout: Whose pairs it was made from; empty: the first pairs with the base.
        at: When it was made, Unix seconds.
        window: What those pairs say, as `Window.to_json` writes it.
        after: The number of the last pair that it was made of: later ones are held against it. 0: it is not complete.
        alarms: What is watched → the alarm that was told. It is not told again until another version is accepted.
        has_estimates: Whether what it says of KL was estimated. Releases before kept a lower bound, which is no measure
            to hold estimates against.
    """

    version: str
    alias: str
    rollout: str = ""
    at: float = 0.0
    window: dict[str, Any] = {}
    after: int = 0
    alarms: dict[str, Noted] = {}
    has_estimates: bool = False

    def read(self) -> Window:
        """Return the window; without KL where that is another measure than today's."""
        window = window_from(self.window) if self.window else Window()
        if self.has_estimates or KL not in window.numbers:
            return window
        known = {name: numbers for name, numbers in window.numbers.items() if name != KL}
        return Window(numbers=MappingProxyType(known), categories=window.categories)


def encode(baseline: Baseline) -> dict[str, Any]:
    """Return a baseline as JSON values."""
    values: dict[str, Any] = msgspec.to_builtins(baseline)
    return values


def decode(body: Mapping[str, Any]) -> Baseline | None:
    """Return the baseline that `encode` wrote; None if it is none that this release knows."""
    try:
        baseline = msgspec.convert(dict(body), type=Baseline)
        baseline.read()
    except (msgspec.ValidationError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return baseline


def sessions_in(window: Window, name: str = OUTPUT_LENGTH) -> int:
    """Return how many sessions of a window have told a number."""
    evidence = window.numbers.get(name)
    return 0 if evidence is None else evidence.n


def make_baseline(pairs: Iterable[ScoredPair], *, version: str, alias: str, rollout: str, at: float) -> Baseline:
    """Return the baseline that the pairs of a version's own rollout make; an empty one if they are too few.

    Args:
        pairs: In order; those that do not compare the version as candidate are left out.
        version, alias, rollout, at: As in `Baseline`.
    """
    gathered = BaselineOf(version)
    for judged in pairs:
        if judged.kind is Kind.CANDIDATE and judged.other == version:
            gathered.add(judged)
    window = gathered.close(float("inf"))
    if sessions_in(window) < FEWEST_SESSIONS:
        return Baseline(version=version, alias=alias, at=at)
    return Baseline(version=version, alias=alias, rollout=rollout, at=at, window=window.to_json(), has_estimates=True)


def complete_baseline(baseline: Baseline, first: Window, after: int) -> Baseline:
    """Return the baseline with what its rollout's pairs could not tell, from the first pairs with the base.

    Args:
        baseline: Not complete.
        first: Of those pairs.
        after: The number of the last of them.
    """
    window = baseline.read()
    if baseline.rollout:
        known = {**window.numbers, **({KL: first.numbers[KL]} if KL in first.numbers else {})}
        first = Window(numbers=MappingProxyType(known), categories=window.categories)
    return msgspec.structs.replace(baseline, window=first.to_json(), after=after, has_estimates=True)
