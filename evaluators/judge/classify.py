"""One criterion and the pairs that came: pass, fail or inconclusive, with *observed, limit, n, e*.

FAIL when the evidence against "the candidate is no worse than allowed" reaches 1/alpha, PASS when the
evidence against "it is worse than allowed" reaches 1/pass_alpha, INCONCLUSIVE else. Only one of the two can
be true of a candidate, so these are the chances of ever saying the wrong one, however often one looks.
Evidence may also fall again: a verdict is of now, and whoever acts on a FAIL acts at once.

Numbers are means of sessions (`sessions.py`) in the order in which they were closed; the order has no part in
the result. Two streams are kept: the candidate's pairs, and noise pairs of one version with itself.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, log
from types import MappingProxyType
from typing import Final

from evaluators.compare.comparator import Shape
from evaluators.drift.token_kl import KL_CAP_NATS
from evaluators.judge.criteria import HIGHER, Criterion
from evaluators.judge.sessions import IDLE_SECONDS, MOST_PAIRS, Closed, SessionMeans
from evaluators.observation import Drift, Judged, Kind, Outcome, Score, Unscored
from evaluators.statistics.betting import Evidence, log_e_above, log_e_below
from evaluators.statistics.confidence_sequence import bounds
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse

_LARGEST_EXPONENT: Final = 700.0  # exp(710) is no float any more
# Told in the reason from this share of pairs on.
MANY: Final = 0.1
_TRIAL, _NOISE = "trial", "noise"
_RELATION: Final = {True: {"fail": "<", "pass": "≥"}, False: {"fail": ">", "pass": "≤"}}


class Label(StrEnum):
    """What is said of a criterion."""

    PASS = "pass"  # noqa: S105 - a label, not a password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What the pairs so far say of one criterion; numbers are in the metric's unit.

    Attributes:
        metric: The criterion's.
        label: `pass`, `fail` or `inconclusive`.
        reason: The sentence for people: observed, limit, n, e.
        observed: Mean over sessions: the metric's, or candidate - control of one that compares the arms' own.
        limit: What it is held against; None before the first noise pair where noise pairs tell it.
        n: Sessions of the candidate that have counted.
        e_fail, e_pass: E-values for failing and for passing, finite; 1/alpha and 1/pass_alpha decide.
        low, high: Where the mean is at every look at once, with a chance of 1 - alpha.
        noise: Mean over sessions of noise pairs; None without.
        noise_n: Sessions of noise pairs.
        pairs: The candidate's pairs with a number, waiting ones and left out ones included.
        unscored: Reason → the candidate's pairs without a number.
        left_out: Pairs of sessions that had counted already, of either stream.
    """

    metric: str
    label: Label
    reason: str
    observed: float | None = None
    limit: float | None = None
    n: int = 0
    e_fail: float = 1.0
    e_pass: float = 1.0
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    noise_n: int = 0
    pairs: int = 0
    unscored: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    left_out: int = 0


def outcome_of(judged: Judged, metric: str) -> Outcome | None:
    """Return what a pair says of a metric; None if nobody asked.

    Drift may be scored on the control's tokens, the other's, or both. Then the mean of both counts: each has
    its own blind spot, the greater of two would be biased upwards by noise, and a mean over half a nat says that
    one of them is.

    What an evaluator asks again takes another time than what a caller was served, whatever the version: it comes
    later, behind all callers, and finds its prompt in a cache. Noise pairs have the served answer in control's place,
    so times count only where the candidate's pairs have, too.
    """
    told = judged.scores.get(metric)
    if told is not None:
        if metric in _TIMED and judged.served != "control":
            return Unscored(reason=CANDIDATE_SERVED, version=told.version)
        return told
    if metric not in _LEVELS:
        return None
    sides = [side for side in (judged.drift, judged.drift_back) if side is not None]
    values = [_LEVELS[metric](side) for side in sides if isinstance(side, Drift) and side.n_tokens > 0]
    if values:
        return Score(value=sum(values) / len(values), version="")
    reasons = [side.reason for side in sides if isinstance(side, Unscored)]
    return Unscored(reason=reasons[0] if reasons else "no_tokens", version="") if sides else None


_TIMED: Final = frozenset(("ttft", "itl"))
CANDIDATE_SERVED: Final = "candidate_served"
_LEVELS: Final[Mapping[str, Callable[[Drift], float]]] = {
    "kl": lambda drift: min(max(drift.kl, 0.0), KL_CAP_NATS) / KL_CAP_NATS,
    "token_flip": lambda drift: 1 - drift.top1_agreement,
    "moved_share": lambda drift: drift.moved_share,
}


@dataclass(slots=True)
class _Stream:
    """The sessions of one stream that have counted.

    Attributes:
        evidence: Of their mean goodness.
        weights: Sum of their mean weights.
    """

    evidence: Evidence = field(default_factory=Evidence)
    weights: float = 0.0

    @property
    def weight(self) -> float:
        """The mean weight; 1 of nothing."""
        return self.weights / self.evidence.n if self.evidence.n else 1.0

    def count(self, session: Closed) -> None:
        """Add a session, once."""
        self.evidence = self.evidence.add(min(1.0, max(0.0, session.mean)))  # a mean may round beyond the ends
        self.weights += session.weight


class CriterionEvidence:
    """Gathers what pairs say of one criterion; one writer."""

    def __init__(
        self, criterion: Criterion, *, idle_seconds: float = IDLE_SECONDS, most_pairs: int = MOST_PAIRS
    ) -> None:
        self.criterion = criterion
        self._settings = (idle_seconds, most_pairs)
        self._versions: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._sessions = SessionMeans(*self._settings)
        self._trial, self._noise = _Stream(), _Stream()
        self._pairs = 0
        self._unscored: Counter[str] = Counter()
        self._cut = 0
        self._known: Classification | None = None

    def add(self, judged: Judged) -> None:
        """Take one pair; a pair that says nothing of the criterion's metric changes nothing."""
        outcome = outcome_of(judged, self.criterion.metric)
        if outcome is None or (isinstance(outcome, Score) and not self._is_current(outcome.version)):
            return
        self._known = None
        is_noise = judged.kind is Kind.NOISE
        value = self._goodness(outcome) if isinstance(outcome, Score) else None
        if value is None:
            if not is_noise:
                self._unscored[outcome.reason if isinstance(outcome, Unscored) else "no_candidate"] += 1
            return
        weight = 1.0
        if self.criterion.most_weight is not None:
            weight, value = self._weighed(judged.weight, value)
        self._pairs += not is_noise
        session = judged.session or judged.sample
        # Where both streams meet in one e-value a session belongs to one of them; else they do not touch.
        key = (session, _NOISE) if is_noise and not self.criterion.needs_noise else session
        at = max(judged.at, judged.judged_at)
        self._count(self._sessions.add(key, value, at, stream=_NOISE if is_noise else _TRIAL, weight=weight))

    def close(self, now: float) -> None:
        """Count the sessions for which no pair has come lately.

        Args:
            now: Unix seconds, as in `Judged.judged_at`.
        """
        self._count(self._sessions.close(now))

    def has_counted(self, until: float) -> bool:
        """Whether all sessions that began by then have counted; seconds as in `close`."""
        return self._sessions.has_counted(until)

    def classify(self) -> Classification:
        """Return what the sessions that have counted say."""
        if self._known is None:
            self._known = self._classified()
        return self._known

    def _is_current(self, version: str) -> bool:
        """Whether scores of a comparator's version count: those of the one that appeared last, from its first on."""
        if version not in self._versions:
            self._versions.append(version)
            self._begin()
        return version == self._versions[-1]

    def _goodness(self, score: Score) -> float | None:
        criterion = self.criterion
        if criterion.shape is Shape.DIFFERENCE and criterion.limit is not None:
            return None if score.candidate is None else criterion.goodness(score.candidate)
        return score.value if criterion.direction is HIGHER else 1 - score.value

    def _weighed(self, weight: float, value: float) -> tuple[float, float]:
        """Return the weight as a share of the largest one, and the value drawn towards the boundary by that share.

        The mean of what comes is on the same side of the boundary as the mean over all pairs, chosen or not, because
        the weights undo the choice; and it is in [0, 1], as bets need it.
        """
        most, boundary = self.criterion.most_weight, self.criterion.boundary
        assert most is not None
        assert boundary is not None
        self._cut += weight > most
        share = min(weight, most) / most
        return share, boundary + share * (value - boundary)

    def _count(self, closed: list[Closed]) -> None:
        for session in closed:
            self._known = None
            (self._noise if session.stream == _NOISE else self._trial).count(session)

    def _log_e_values(self) -> tuple[float, float]:
        criterion, boundary = self.criterion, self.criterion.boundary
        trial, noise = self._trial.evidence, self._noise.evidence
        if boundary is not None:
            return log_e_below(trial, boundary), log_e_above(trial, boundary)
        margin = criterion.margin / criterion.scale
        return log_e_worse(trial, noise, margin), log_e_not_worse(trial, noise, margin)

    def _classified(self) -> Classification:
        criterion, trial = self.criterion, self._trial.evidence
        log_fail, log_pass = self._log_e_values()
        if log_fail >= -log(criterion.alpha):
            label = Label.FAIL
        elif log_pass >= -log(criterion.alpha_to_pass) and trial.n >= criterion.min_samples:
            label = Label.PASS
        else:
            label = Label.INCONCLUSIVE
        low, high = bounds(trial, criterion.alpha)
        ends = sorted(self._in_unit(end, self._trial) for end in (low, high))
        e_fail, e_pass = (exp(min(each, _LARGEST_EXPONENT)) for each in (log_fail, log_pass))
        observed, noise = self._mean(self._trial), self._mean(self._noise)
        limit = self._limit(noise)
        return Classification(
            metric=criterion.metric, label=label, observed=observed, limit=limit, n=trial.n,
            e_fail=e_fail, e_pass=e_pass, low=ends[0] if trial.n else None, high=ends[1] if trial.n else None,
            noise=noise, noise_n=self._noise.evidence.n,
            pairs=self._pairs, unscored=MappingProxyType(dict(self._unscored)), left_out=self._sessions.left_out,
            reason=self._reason(label, observed, limit, e_pass if label is Label.PASS else e_fail),
        )  # fmt: skip

    def _mean(self, stream: _Stream) -> float | None:
        mean = stream.evidence.mean
        return None if mean is None else self._in_unit(mean, stream)

    def _in_unit(self, goodness: float, stream: _Stream) -> float:
        """Turn mean goodness into the metric's unit, the pull of weights undone; within what the metric can be."""
        boundary = self.criterion.boundary
        if self.criterion.most_weight is not None and boundary is not None:
            goodness = boundary + (goodness - boundary) / stream.weight
        return self.criterion.in_unit(min(1.0, max(0.0, goodness)))

    def _limit(self, noise: float | None) -> float | None:
        criterion = self.criterion
        if criterion.boundary is not None:
            return criterion.in_unit(criterion.boundary)
        if noise is None:
            return None
        return noise - criterion.margin if criterion.direction is HIGHER else noise + criterion.margin

    def _reason(self, label: Label, observed: float | None, limit: float | None, e_value: float) -> str:
        criterion, n = self.criterion, self._trial.evidence.n
        details = [f"n={n:,}", f"e={e_value:.3g}"]
        if criterion.needs_noise:
            details.insert(1, f"noise n={self._noise.evidence.n:,}")
        details += self._remarks()
        if observed is None:
            return f"{criterion.metric} not measured yet ({', '.join(['n=0', *self._remarks()])})"
        told = f"{criterion.metric} {self._told(observed)}"
        if limit is None:
            return f"{told}: no noise pairs to hold it against ({', '.join(details)})"
        against = self._told(limit) + criterion.unit
        if label is Label.INCONCLUSIVE:
            return f"{told} not told apart from {against} ({', '.join(details)})"
        return f"{told} {_RELATION[criterion.direction is HIGHER][label]} {against} ({', '.join(details)})"

    def _told(self, value: float) -> str:
        return f"{value:+.3f}" if self.criterion.is_relative else f"{value:.3f}"

    def _remarks(self) -> list[str]:
        """What a reader must know beside the numbers."""
        told = []
        unscored, waiting = self._unscored.total(), self._sessions.waiting
        if unscored and unscored >= MANY * (unscored + self._pairs):
            most = ", ".join(f"{reason} {count:,}" for reason, count in self._unscored.most_common(3))
            told.append(f"{unscored:,} pairs unscored: {most}")
        late = self._sessions.left_out - self._sessions.of_other_stream
        if late and late >= MANY * self._pairs:
            told.append(f"{late:,} pairs of sessions that had counted")
        if waiting and not self._trial.evidence.n:
            told.append(f"{waiting:,} pairs of open sessions")
        if self._cut:
            told.append(f"{self._cut:,} weights cut")
        if len(self._versions) > 1:
            told.append(f"begun anew with version {self._versions[-1]}")
        return told
