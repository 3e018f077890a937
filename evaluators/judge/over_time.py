"""Watch whether a version and its traffic have changed since the version was accepted.

The baseline is a window of pairs from when the version was accepted. Session by session, current traffic is compared
with it: the length of answers, the rate of refusals, the drift from the base model, and the mix of tasks and of prompt
lengths. A number raises an alarm when its mean differs from the baseline's by more than a tolerance, a category when
its share has risen by more than a tolerance (a share that falls makes another rise). All watches of a version together
raise a false alarm at most once in `run_length` sessions on average, as long as the traffic's means stay within the
tolerance. A daily cycle that exceeds the tolerance counts as a change, so take baselines over whole days.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from types import MappingProxyType
from typing import Final

from evaluators.judge.criteria import METRICS
from evaluators.judge.outcomes import outcome_of
from evaluators.judge.sessions import IDLE_SECONDS, SessionMeans
from evaluators.observation import Kind, Score, ScoredPair
from evaluators.statistics.betting import Evidence
from evaluators.statistics.confidence_sequence import bounds
from evaluators.statistics.detector import RUN_LENGTH, Detector, run_length_of_each
from evaluators.statistics.distances import jensen_shannon, psi
from evaluators.statistics.windows import OTHER, Window

# Lengths are watched by their logarithm up to this many tokens: twice as long is one step of 17, at any length.
MAX_TOKENS: Final = 2**17
# Changes of a mean that are no news, in the units of `numbers_of`: lengths by a factor of 1.5, 5 refusals
# in a hundred, 0.1 nats, and 10 points of a category's share.
TOLERANCES: Final[Mapping[str, float]] = MappingProxyType(
    {"output_length": log2(1.5) / 17, "refusal": 0.05, "kl": 0.1 / METRICS["kl"].scale}
)
CATEGORY_TOLERANCE: Final = 0.10
# Chance that a limit is too narrow because the baseline happened to lie low or high.
BASELINE_ALPHA: Final = 0.01
# With fewer sessions a baseline says too little to watch against.
LEAST_SESSIONS: Final = 100


def numbers_of(scored_pair: ScoredPair, version: str) -> dict[str, float]:
    """Return a pair's numbers for one version's answers, in [0, 1]; drift only of pairs with the base model."""
    is_other = scored_pair.other == version
    if not is_other and scored_pair.control != version:
        return {}
    tokens = scored_pair.other_tokens if is_other else scored_pair.control_tokens
    numbers = {} if tokens is None else {"output_length": min(1.0, log2(1 + tokens) / log2(1 + MAX_TOKENS))}
    refusal = scored_pair.scores.get("refusal")
    if isinstance(refusal, Score):
        share = refusal.candidate if is_other else refusal.control
        numbers |= {} if share is None else {"refusal": share}
    kl = outcome_of(scored_pair, "kl") if scored_pair.kind is Kind.BASE and is_other else None
    if isinstance(kl, Score):
        numbers["kl"] = kl.value
    return numbers


def categories_of(scored_pair: ScoredPair) -> dict[str, str]:
    """Return the categories of a pair's request: its task, and the size of its prompt in powers of four."""
    categories = {"task": scored_pair.task or "none"}
    if scored_pair.prompt_tokens is not None:
        power = max(0, scored_pair.prompt_tokens).bit_length() // 2
        categories["prompt_length"] = f"<{4 ** (power + 1) // 2}"
    return categories


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A detected change of one number or one category's share.

    Attributes:
        what: Name of the number, or `task:NAME`, `prompt_length:BIN`.
        direction: `up` or `down`.
        limit: The limit that the mean has crossed, in [0, 1].
        baseline: The mean in the baseline.
        n: Sessions since the watch began, or since its last alarm.
    """

    what: str
    direction: str
    limit: float
    baseline: float
    n: int

    @property
    def reason(self) -> str:
        """The alarm as a sentence for operators."""
        sign = ">" if self.direction == "up" else "<"
        return f"{self.what} {sign} {self.limit:.3f} (baseline {self.baseline:.3f}, n={self.n:,} sessions)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Distance of the current mix of one kind of category from the baseline's mix."""

    psi: float
    jensen_shannon: float


_SessionValues = tuple[dict[str, float], dict[str, str]]


class BaselineOf:
    """Builds a version's baseline window from pairs; to be used by one writer only.

    Attributes:
        window: The sessions that have counted.
    """

    def __init__(self, version: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.version = version
        self._sessions = _Sessions(version, idle_seconds)
        self.window = Window()

    def add(self, scored_pair: ScoredPair) -> None:
        self._count(self._sessions.add(scored_pair))

    def close(self, now: float) -> Window:
        """Count idle sessions, and return the window so far."""
        self._count(self._sessions.close(now))
        return self.window

    def _count(self, sessions: list[_SessionValues]) -> None:
        for numbers, categories in sessions:
            self.window = self.window.add(numbers, categories)


class OverTime:
    """Compares a version's traffic with its baseline; to be used by one writer only.

    Attributes:
        current: The window of sessions counted since the start, or since the last `begin_window`.
    """

    def __init__(
        self, version: str, baseline: Window, *, run_length: float = RUN_LENGTH, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.version = version
        self.baseline = baseline
        self.current = Window()
        self._sessions = _Sessions(version, idle_seconds)
        watches = [watch for name in TOLERANCES for watch in _number_watches(name, baseline)]
        watches += [watch for name in baseline.categories for watch in _category_watches(name, baseline)]
        length = run_length_of_each(run_length, len(watches))
        self._watches = [(watch, Detector(watch.limit, length)) for watch in watches]

    def add(self, scored_pair: ScoredPair) -> list[Alarm]:
        """Take one pair, and return the alarms that it raises."""
        return self._count(self._sessions.add(scored_pair))

    def close(self, now: float) -> list[Alarm]:
        """Count idle sessions, and return the alarms that they raise."""
        return self._count(self._sessions.close(now))

    def evidence(self) -> dict[str, tuple[float, float]]:
        """Return, for each number and kind of category, the largest detector sum and the sum that raises an alarm."""
        evidence: dict[str, tuple[float, float]] = {}
        for watch, detector in self._watches:
            before = evidence.get(watch.name, (0.0, 0.0))[0]
            evidence[watch.name] = (max(before, detector.value), detector.run_length)
        return evidence

    def begin_window(self) -> Window:
        """Return the present window and begin another; the watches go on."""
        window, self.current = self.current, Window()
        return window

    def distances(self) -> dict[str, Distance]:
        """Return how far each kind of category is from the baseline's mix."""
        distances = {}
        for name, before in self.baseline.categories.items():
            now = self.current.categories.get(name, {})
            distances[name] = Distance(psi=psi(before, now), jensen_shannon=jensen_shannon(before, now))
        return distances

    def _count(self, sessions: list[_SessionValues]) -> list[Alarm]:
        alarms = []
        for numbers, categories in sessions:
            self.current = self.current.add(numbers, categories)
            for watch, detector in self._watches:
                value, seen = watch.value(numbers, categories), detector.n + 1
                if value is not None and detector.add(value):
                    alarms.append(watch.alarm(seen))
        return alarms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """One mean that may rise above a limit; a mean that may fall is watched as 1 - mean."""

    name: str
    category: str | None = None
    known: frozenset[str] = frozenset()
    is_down: bool = False
    limit: float
    baseline: float

    def value(self, numbers: Mapping[str, float], categories: Mapping[str, str]) -> float | None:
        """Return a session's value for this watch, higher is worse; None if the session has none."""
        if self.category is not None:
            seen = categories.get(self.name)
            return None if seen is None else float((seen if seen in self.known else OTHER) == self.category)
        value = numbers.get(self.name)
        return None if value is None else (1 - value if self.is_down else value)

    def alarm(self, n: int) -> Alarm:
        """Return the alarm that this watch raises after `n` sessions."""
        return Alarm(
            what=self.name if self.category is None else f"{self.name}:{self.category}",
            direction="down" if self.is_down else "up",
            limit=1 - self.limit if self.is_down else self.limit,
            baseline=self.baseline,
            n=n,
        )


def _number_watches(name: str, baseline: Window) -> list[_Watch]:
    evidence = baseline.numbers.get(name, Evidence())
    if evidence.mean is None or evidence.n < LEAST_SESSIONS:
        return []
    low, high = bounds(evidence, BASELINE_ALPHA)
    mean, tolerance = evidence.mean, TOLERANCES[name]
    above, below = max(high, mean + tolerance), min(low, mean - tolerance)
    watches = [_Watch(name=name, limit=above, baseline=mean)] if above < 1 else []
    return watches + ([_Watch(name=name, is_down=True, limit=1 - below, baseline=mean)] if below > 0 else [])


def _category_watches(name: str, baseline: Window) -> list[_Watch]:
    counts = baseline.categories[name]
    n = sum(counts.values())
    if n < LEAST_SESSIONS:
        return []
    watches = []
    for category in sorted({*counts, OTHER}):
        share = counts.get(category, 0) / n
        seen = Evidence().add(1.0, counts.get(category, 0)).add(0.0, n - counts.get(category, 0))
        limit = max(bounds(seen, BASELINE_ALPHA)[1], share + CATEGORY_TOLERANCE)
        if limit < 1:
            watches.append(_Watch(name=name, category=category, known=frozenset(counts), limit=limit, baseline=share))
    return watches


class _Sessions:
    """Reduces pairs to one observation a session: the mean of each number, and the categories of its first pair."""

    def __init__(self, version: str, idle_seconds: float) -> None:
        self._version = version
        self._firsts = SessionMeans(idle_seconds, most_pairs=1)
        self._means = {name: SessionMeans(idle_seconds) for name in TOLERANCES}

    def add(self, scored_pair: ScoredPair) -> list[_SessionValues]:
        """Add one pair, and return the session values that are complete with it."""
        session, at = scored_pair.session or scored_pair.sample, max(scored_pair.at, scored_pair.scored_at)
        session_values: list[_SessionValues] = []
        if self._firsts.add(session, 0.0, at):
            session_values.append(({}, categories_of(scored_pair)))
        for name, value in numbers_of(scored_pair, self._version).items():
            session_values += [({name: closed.mean}, {}) for closed in self._means[name].add(session, value, at)]
        return session_values

    def close(self, now: float) -> list[_SessionValues]:
        """Return the session values that are complete because their session is idle at `now`."""
        return [({name: closed.mean}, {}) for name, means in self._means.items() for closed in means.close(now)]
