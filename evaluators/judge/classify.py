"""Classify a rollout by one criterion: pass, fail or inconclusive, with *observed, limit, n, e*.

The verdict is FAIL when the evidence against "the candidate is no worse than allowed" reaches 1/alpha, PASS when the
evidence against "the candidate is worse than allowed" reaches 1/pass_alpha, and INCONCLUSIVE otherwise. Only one of the
two statements can be true of a candidate, so alpha and pass_alpha bound the chances of ever giving the wrong verdict,
however often the evidence is examined. Evidence may also shrink again: a verdict holds for the moment at which it is
read, so the rollout must act on a FAIL at once.

Each observation is the mean of one session (`sessions.py`). The order of the sessions does not affect the result. Two
streams are kept apart: the pairs of control and candidate, and the noise pairs, which compare one version with itself.

For `kl` a pair yields two numbers (`outcomes.py`), so two tracks of these streams are kept: FAIL is decided by the
lower bound of the divergence, PASS by its estimate. A lower bound never exceeds the true divergence: it cannot fail a
candidate that is within its limit, but it could pass one that is not. An unbiased estimate passes such a candidate with
a chance of at most alpha. If both tracks reach their thresholds, the verdict is FAIL. In a comparison with noise pairs,
FAIL sets the candidate's bound against the noise's estimate: the sign of a difference of two bounds is not known.
A pair's numbers are capped at 5 nats; a negative estimate is raised to 0 only after it was averaged over its session.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log
from types import MappingProxyType
from typing import Final

from evaluators.compare.comparator import Shape
from evaluators.judge.criteria import HIGHER, Criterion
from evaluators.judge.outcomes import KL, NO_ESTIMATE, kl_bound_of, kl_estimate_of, outcome_of, share_of_cap
from evaluators.judge.sessions import IDLE_SECONDS, MAX_PAIRS, Closed, SessionMeans
from evaluators.judge.verdict import Verdict
from evaluators.observation import Kind, Score, ScoredPair, Unscored
from evaluators.statistics.betting import Evidence, log_e_above, log_e_below
from evaluators.statistics.confidence_sequence import bounds
from evaluators.statistics.two_sample import log_e_not_worse, log_e_worse

_MAX_EXPONENT: Final = 700.0  # exp(710) is no float any more
# The reason mentions unscored and late pairs once they are at least this share of all pairs.
MANY: Final = 0.1
_TRIAL, _NOISE = "trial", "noise"
_RELATION: Final = {True: {"fail": "<", "pass": "≥"}, False: {"fail": ">", "pass": "≤"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The verdict on one criterion and the numbers behind it, in the metric's unit.

    Attributes:
        metric: Name of the criterion's metric.
        label: `pass`, `fail` or `inconclusive`.
        reason: The verdict as a sentence for operators: observed, limit, n, e.
        observed: The metric's mean over sessions, or the mean of candidate - control where the metric has a number for
            each arm. For `kl`, the mean estimate. None if no pair has a number.
        bound: For `kl`, the mean over sessions of the divergence's lower bound; None for other metrics.
        limit: The value with which `observed` is compared; None if it depends on noise pairs and none has come yet.
        n: Number of the candidate's sessions that have counted.
        e_fail, e_pass: E-values for failing and for passing, finite; 1/alpha and 1/pass_alpha decide.
        low, high: Confidence interval of the mean, valid at every look at once with a chance of 1 - alpha.
        noise: Mean over the sessions of noise pairs; None without noise pairs.
        noise_n: Number of sessions of noise pairs.
        pairs: Number of the candidate's pairs that have a number, including pairs of open sessions and late pairs.
        unscored: Reason → number of the candidate's pairs that have no number.
        left_out: Number of late pairs, of either stream: their session had counted before they came.
    """

    metric: str
    label: Verdict
    reason: str
    observed: float | None = None
    bound: float | None = None
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


@dataclass(slots=True)
class _Stream:
    """The sessions of one stream that have counted.

    Attributes:
        evidence: Evidence of the sessions' mean goodness.
        weights: Sum of the sessions' mean weights.
    """

    evidence: Evidence = field(default_factory=Evidence)
    weights: float = 0.0

    @property
    def weight(self) -> float:
        """The mean weight of the sessions; 1 without sessions."""
        return self.weights / self.evidence.n if self.evidence.n else 1.0

    def count(self, session: Closed) -> None:
        self.evidence = self.evidence.add(min(1.0, max(0.0, session.mean)))  # a mean may round beyond the ends
        self.weights += session.weight


class _Track:
    """Sessions of the candidate's pairs and of noise pairs, by one kind of number.

    Attributes:
        sessions: The sessions that are still open.
        trial, noise: The sessions of the candidate's pairs and of noise pairs that have counted.
    """

    def __init__(self, idle_seconds: float, most_pairs: int) -> None:
        self.sessions = SessionMeans(idle_seconds, most_pairs)
        self.trial, self.noise = _Stream(), _Stream()

    def add(self, session: Hashable, value: float, at: float, *, is_noise: bool, weight: float = 1.0) -> None:
        self._count(self.sessions.add(session, value, at, stream=_NOISE if is_noise else _TRIAL, weight=weight))

    def close(self, now: float) -> None:
        """Count the sessions for which no pair has come lately."""
        self._count(self.sessions.close(now))

    def _count(self, closed: list[Closed]) -> None:
        for session in closed:
            (self.noise if session.stream == _NOISE else self.trial).count(session)


class CriterionEvidence:
    """Collects the scores of pairs for one criterion; to be used by one writer only."""

    def __init__(
        self, criterion: Criterion, idle_seconds: float = IDLE_SECONDS, *, most_pairs: int = MAX_PAIRS
    ) -> None:
        self.criterion = criterion
        self._settings = (idle_seconds, most_pairs)
        self._versions: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._for = _Track(*self._settings)
        self._against = _Track(*self._settings) if self.criterion.metric == KL else self._for
        self._pairs = 0
        self._unscored: Counter[str] = Counter()
        self._cut = 0
        self._known: Classification | None = None

    def add(self, scored_pair: ScoredPair) -> None:
        """Add one pair; a pair without an outcome for the criterion's metric is ignored."""
        outcome = outcome_of(scored_pair, self.criterion.metric)
        # A divergence may have a bound where it has no estimate; both are of the same version.
        is_kl = self.criterion.metric == KL and KL not in scored_pair.scores and kl_bound_of(scored_pair) is not None
        if outcome is None or ((is_kl or isinstance(outcome, Score)) and not self._is_current(outcome.version)):
            return
        self._known = None
        is_noise = scored_pair.kind is Kind.NOISE
        if is_kl:
            self._add_kl(scored_pair, is_noise=is_noise)
            return
        value = self._goodness(outcome) if isinstance(outcome, Score) else None
        if value is None:
            if not is_noise:
                self._unscored[outcome.reason if isinstance(outcome, Unscored) else "no_candidate"] += 1
            return
        weight = 1.0
        if self.criterion.most_weight is not None:
            weight, value = self._shrink(scored_pair.weight, value)
        self._pairs += not is_noise
        for track in self._tracks():
            track.add(*self._place(scored_pair, value, is_noise=is_noise), is_noise=is_noise, weight=weight)

    def _add_kl(self, scored_pair: ScoredPair, *, is_noise: bool) -> None:
        """Add a pair's divergence: the estimate for PASS; for FAIL the bound, or of noise pairs the estimate."""
        estimate = kl_estimate_of(scored_pair)
        against = estimate if is_noise else kl_bound_of(scored_pair)
        self._pairs += not is_noise
        for track, nats in ((self._for, estimate), (self._against, against)):
            if nats is not None:
                goodness = 1 - share_of_cap(nats)
                track.add(*self._place(scored_pair, goodness, is_noise=is_noise), is_noise=is_noise)
        if estimate is None and not is_noise:
            self._unscored[NO_ESTIMATE] += 1

    def _place(self, scored_pair: ScoredPair, value: float, *, is_noise: bool) -> tuple[Hashable, float, float]:
        """Return the session's key, the number and its time, as `SessionMeans.add` expects them."""
        session = scored_pair.session or scored_pair.sample
        # An e-value made of both streams needs them independent, so a session may belong to only one of them.
        # Other criteria do not combine the streams: there a session has a key of its own in each.
        key = (session, _NOISE) if is_noise and not self.criterion.needs_noise else session
        return key, value, max(scored_pair.at, scored_pair.scored_at)

    def _tracks(self) -> tuple[_Track, ...]:
        return (self._for,) if self._for is self._against else (self._for, self._against)

    def close(self, now: float) -> None:
        """Count the sessions for which no pair has come lately.

        Args:
            now: Unix seconds, as in `ScoredPair.scored_at`.
        """
        before = self._session_counts()
        for track in self._tracks():
            track.close(now)
        if self._session_counts() != before:
            self._known = None

    def _session_counts(self) -> list[int]:
        return [stream.evidence.n for track in self._tracks() for stream in (track.trial, track.noise)]

    def has_counted(self, until: float) -> bool:
        """Whether all sessions that began until `until` have counted; seconds as in `close`."""
        return all(track.sessions.has_counted(until) for track in self._tracks())

    def classify(self) -> Classification:
        """Return the classification by all sessions that have counted so far."""
        if self._known is None:
            self._known = self._compute()
        return self._known

    def _is_current(self, version: str) -> bool:
        """Whether this is the comparator's latest version: only its scores count; the first restarts evidence."""
        if version not in self._versions:
            self._versions.append(version)
            self._begin()
        return version == self._versions[-1]

    def _goodness(self, score: Score) -> float | None:
        criterion = self.criterion
        if criterion.shape is Shape.DIFFERENCE and criterion.limit is not None:
            return None if score.candidate is None else criterion.goodness(score.candidate)
        return score.value if criterion.direction is HIGHER else 1 - score.value

    def _shrink(self, weight: float, value: float) -> tuple[float, float]:
        """Return the weight as a share of the largest allowed one, and the value shrunk to the boundary by it.

        The mean of shrunk values lies on the same side of the boundary as the mean over all pairs, judged or not,
        because the weights correct for the choice of judged pairs. Shrunk values stay in [0, 1], as betting requires.
        """
        most, boundary = self.criterion.most_weight, self.criterion.boundary
        assert most is not None
        assert boundary is not None
        self._cut += weight > most
        share = min(weight, most) / most
        return share, boundary + share * (value - boundary)

    def _log_e_values(self) -> tuple[float, float]:
        criterion, boundary = self.criterion, self.criterion.boundary
        ours, theirs = self._for, self._against
        if boundary is not None:
            return log_e_below(theirs.trial.evidence, boundary), log_e_above(ours.trial.evidence, boundary)
        margin = criterion.margin / criterion.scale
        return (
            log_e_worse(theirs.trial.evidence, theirs.noise.evidence, margin),
            log_e_not_worse(ours.trial.evidence, ours.noise.evidence, margin),
        )

    def _compute(self) -> Classification:
        criterion, trial = self.criterion, self._for.trial
        log_fail, log_pass = self._log_e_values()
        if log_fail >= -log(criterion.alpha):
            label = Verdict.FAIL
        elif log_pass >= -log(criterion.alpha_to_pass) and trial.evidence.n >= criterion.min_samples:
            label = Verdict.PASS
        else:
            label = Verdict.INCONCLUSIVE
        low, high = bounds(trial.evidence, criterion.alpha)
        is_known = trial.evidence.n > 0
        ends = sorted(self._in_unit(end, trial) for end in (low, high))
        e_fail, e_pass = (exp(min(each, _MAX_EXPONENT)) for each in (log_fail, log_pass))
        found = Classification(
            metric=criterion.metric,
            label=label,
            reason="",
            observed=self._mean(trial),
            limit=self._limit(self._mean(self._for.noise)),
            bound=self._mean(self._against.trial) if criterion.metric == KL else None,
            n=(self._against if label is Verdict.FAIL or not is_known else self._for).trial.evidence.n,
            e_fail=e_fail,
            e_pass=e_pass,
            low=ends[0] if is_known else None,
            high=ends[1] if is_known else None,
            noise=self._mean(self._for.noise),
            noise_n=self._for.noise.evidence.n,
            pairs=self._pairs,
            unscored=MappingProxyType(dict(self._unscored)),
            left_out=self._against.sessions.left_out,
        )
        return replace(found, reason=self._reason(found))

    def _mean(self, stream: _Stream) -> float | None:
        mean = stream.evidence.mean
        return None if mean is None else self._in_unit(mean, stream)

    def _in_unit(self, goodness: float, stream: _Stream) -> float:
        """Convert mean goodness to the metric's unit and range, reversing the shrinkage by weights."""
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

    def _reason(self, found: Classification) -> str:
        criterion, label = self.criterion, found.label
        observed, beside = self._numbers(found)
        if observed is None:
            return f"{criterion.metric} not measured yet ({', '.join(['n=0', *self._remarks()])})"
        details = [*beside, f"n={found.n:,}"]
        if criterion.needs_noise:
            details.append(f"noise n={found.noise_n:,}")
        details.append(f"e={found.e_pass if label is Verdict.PASS else found.e_fail:.3g}")
        inside = ", ".join(details + self._remarks())
        if found.limit is None:
            return f"{observed}: no noise pairs to hold it against ({inside})"
        against = self._format(found.limit) + criterion.unit
        if label is Verdict.INCONCLUSIVE:
            return f"{observed} not told apart from {against} ({inside})"
        return f"{observed} {_RELATION[criterion.direction is HIGHER][label]} {against} ({inside})"

    def _numbers(self, found: Classification) -> tuple[str | None, list[str]]:
        """Return the observed value and further details; for `kl`, the deciding one of bound and estimate is first."""
        metric = self.criterion.metric
        estimate = None if found.observed is None else self._format(found.observed)
        bound = None if found.bound is None else f"at least {self._format(found.bound)}"
        if bound is not None and (found.label is Verdict.FAIL or estimate is None):
            return f"{metric} {bound}", [] if estimate is None else [f"estimate {estimate}"]
        return None if estimate is None else f"{metric} {estimate}", [] if bound is None else [bound]

    def _format(self, value: float) -> str:
        return f"{value:+.3f}" if self.criterion.is_relative else f"{value:.3f}"

    def _remarks(self) -> list[str]:
        """Return the caveats that operators must know to read the numbers."""
        remarks = []
        unscored, waiting = self._unscored.total(), self._against.sessions.waiting
        if unscored and unscored >= MANY * (unscored + self._pairs):
            most = ", ".join(f"{reason} {count:,}" for reason, count in self._unscored.most_common(3))
            remarks.append(f"{unscored:,} pairs unscored: {most}")
        late = self._against.sessions.left_out - self._against.sessions.of_other_stream
        if late and late >= MANY * self._pairs:
            remarks.append(f"{late:,} pairs of sessions that had counted")
        if waiting and not self._against.trial.evidence.n:
            remarks.append(f"{waiting:,} pairs of open sessions")
        if self._cut:
            remarks.append(f"{self._cut:,} weights cut")
        if len(self._versions) > 1:
            remarks.append(f"begun anew with version {self._versions[-1]}")
        return remarks
