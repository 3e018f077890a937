"""The baseline of a version: what its traffic was like when the version was accepted. Pure.

A promotion accepts a version. The lengths of its answers, its rate of refusals and the kinds of
requests are known then from its own rollout's pairs. Its distance from the base model is not known,
since the rollout compared it with another control: the distance is taken from the first pairs with the
base model after the promotion, and only then is traffic compared with the baseline. For a version that
became the control without such a rollout, the whole baseline comes from those first pairs.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from evaluators.judge.over_time import BaselineOf
from evaluators.observation import Kind, ScoredPair
from evaluators.statistics.windows import Window, window_from

# A rollout's default shadow stage has 500 pairs; with fewer sessions than this, shares are off by several points.
FEWEST_SESSIONS: Final = 200
OUTPUT_LENGTH: Final = "output_length"
KL: Final = "kl"


class ReportedAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that was reported: the number of its pair, its time (Unix seconds), and its sentence."""

    number: int
    at: float
    why: str


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics that later traffic to a version is compared with.

    Attributes:
        version, alias: The version, and the alias whose control it is.
        rollout: The rollout whose pairs it was made from; empty if from the first pairs with the base model.
        at: When it was made, Unix seconds.
        window: The statistics of those pairs, as `Window.to_json` writes it.
        after: The number of the last pair that it was made of: later ones are compared with it. 0: it is not complete.
        alarms: Name of a watched statistic → the alarm that was reported. It is not reported again until another
            version is accepted.
        has_estimates: Whether its KL values are estimates. Earlier releases kept a lower bound, which cannot be
            compared with estimates.
    """

    version: str
    alias: str
    rollout: str = ""
    at: float = 0.0
    window: dict[str, Any] = {}
    after: int = 0
    alarms: dict[str, ReportedAlarm] = {}
    has_estimates: bool = False

    def read(self) -> Window:
        """Return the window; without KL if an earlier release stored a lower bound of it."""
        window = window_from(self.window) if self.window else Window()
        if self.has_estimates or KL not in window.numbers:
            return window
        numbers = {name: evidence for name, evidence in window.numbers.items() if name != KL}
        return Window(numbers=MappingProxyType(numbers), categories=window.categories)


def encode(baseline: Baseline) -> dict[str, Any]:
    """Return a baseline as JSON values."""
    values: dict[str, Any] = msgspec.to_builtins(baseline)
    return values


def decode(body: Mapping[str, Any]) -> Baseline | None:
    """Return the baseline that `encode` wrote; None if this release cannot read it."""
    try:
        baseline = msgspec.convert(dict(body), type=Baseline)
        baseline.read()
    except (msgspec.ValidationError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return baseline


def sessions_in(window: Window, name: str = OUTPUT_LENGTH) -> int:
    """Return how many sessions of a window have a value of the statistic `name`."""
    evidence = window.numbers.get(name)
    return 0 if evidence is None else evidence.n


def make_baseline(pairs: Iterable[ScoredPair], *, version: str, alias: str, rollout: str, at: float) -> Baseline:
    """Return the baseline that the pairs of a version's own rollout make; an empty one if they are too few.

    Args:
        pairs: In order; those that do not compare the version as candidate are left out.
        version, alias, rollout, at: As in `Baseline`.
    """
    gathered = BaselineOf(version)
    for scored_pair in pairs:
        if scored_pair.kind is Kind.CANDIDATE and scored_pair.other == version:
            gathered.add(scored_pair)
    window = gathered.close(float("inf"))
    if sessions_in(window) < FEWEST_SESSIONS:
        return Baseline(version=version, alias=alias, at=at)
    return Baseline(version=version, alias=alias, rollout=rollout, at=at, window=window.to_json(), has_estimates=True)


def complete_baseline(baseline: Baseline, first: Window, after: int) -> Baseline:
    """Return the baseline completed with the statistics that only pairs with the base model have.

    Args:
        baseline: A baseline that is not complete.
        first: The window of the first pairs with the base model.
        after: The number of the last of those pairs.
    """
    window = baseline.read()
    if baseline.rollout:
        numbers = {**window.numbers, **({KL: first.numbers[KL]} if KL in first.numbers else {})}
        first = Window(numbers=MappingProxyType(numbers), categories=window.categories)
    return msgspec.structs.replace(baseline, window=first.to_json(), after=after, has_estimates=True)
