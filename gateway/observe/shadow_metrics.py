"""The Prometheus series of shadow evaluation: pairs, token drift, scores and noise, the queue, drift over time."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.observe.shadow_counts import KL_BOUNDS, LAG_BOUNDS, BucketCounts, ShadowReading, WindowView

_BY_VERSION: Final = ("alias", "version", "kind")
_LEADER: Final = " Exported by the leader alone."
_WINDOW: Final = " Over the last 1,000 pairs, at most a day old." + _LEADER
# Comparators that have series of their own instead of `loragate_shadow_score`.
_APART: Final = frozenset(("judge", "kl", "kl_bound", "token_flip", "moved_share"))


def shadow_series(reading: ShadowReading) -> Iterator[Metric]:
    """Yield every series of shadow evaluation."""
    yield from _pairs(reading)
    yield from _drift(reading)
    yield from _scores(reading)
    yield from _judge(reading)
    yield from _queue(reading)
    yield from _over_time(reading)


def _pairs(reading: ShadowReading) -> Iterator[Metric]:
    pairs = CounterMetricFamily(
        "loragate_shadow_pairs",
        "Pairs compared: candidate against control, the version against the base, or noise." + _LEADER,
        labels=_BY_VERSION,
    )
    for key, count in sorted(reading.pairs.items()):
        pairs.add_metric(key, count)
    lag = HistogramMetricFamily(
        "loragate_shadow_lag_seconds",
        "From the caller's reply to the finished comparison." + _LEADER,
        labels=("alias",),
    )
    for alias, observed in sorted(reading.lag.items()):
        lag.add_metric((alias,), _cumulative(LAG_BOUNDS, observed), observed.sum)
    yield from (pairs, lag)


def _drift(reading: ShadowReading) -> Iterator[Metric]:
    kl = HistogramMetricFamily(
        "loragate_drift_kl_nats",
        "Estimated KL divergence of a pair, in nats a token; a negative estimate counts as 0." + _LEADER,
        labels=_BY_VERSION,
    )
    for key, observed in sorted(reading.kl.items()):
        kl.add_metric(key, _cumulative(KL_BOUNDS, observed), observed.sum)
    yield kl
    for comparator, name, about in (
        ("kl", "loragate_drift_kl_mean_nats", "Mean of the estimated KL divergence in nats a token."),
        ("kl_bound", "loragate_drift_kl_bound_mean_nats", "Mean of what the KL divergence is at least, nats a token."),
        ("token_flip", "loragate_token_flip_ratio", "Share of tokens where the versions' first choices differ."),
        ("moved_share", "loragate_token_moved_ratio", "Share of tokens whose log-probability moved by over 1 nat."),
    ):
        family = GaugeMetricFamily(name, about + _WINDOW, labels=_BY_VERSION)
        _add(family, reading.windows, comparator)
        yield family


def _add(family: GaugeMetricFamily, windows: Mapping[tuple[str, str, str], WindowView], comparator: str) -> None:
    for key, window in sorted(windows.items()):
        if comparator in window.scores:
            family.add_metric(key, window.scores[comparator])


def _scores(reading: ShadowReading) -> Iterator[Metric]:
    labels = (*_BY_VERSION, "comparator")
    score = GaugeMetricFamily(
        "loragate_shadow_score",
        "Mean score: 1 is equal to the control; for what one answer has or lacks, 0.5 is equal." + _WINDOW,
        labels=labels,
    )
    noise = GaugeMetricFamily(
        "loragate_shadow_noise_floor", "The same where a version is compared with itself." + _WINDOW, labels=labels
    )
    excess = GaugeMetricFamily(
        "loragate_shadow_excess",
        "Noise floor less score, for `kl` mean less noise: above 0 the sides differ more than by chance; for what one "
        "answer has or lacks either sign is a difference." + _WINDOW,
        labels=labels,
    )
    for key, window in sorted(reading.windows.items()):
        for family, values in ((score, window.scores), (noise, window.noise), (excess, window.excess)):
            for comparator, value in sorted(values.items()):
                if family is not score or comparator not in _APART:
                    family.add_metric((*key, comparator), value)
    yield from (score, noise, excess)


def _judge(reading: ShadowReading) -> Iterator[Metric]:
    wins = GaugeMetricFamily(
        "loragate_judge_win_ratio",
        "Mean of the judge: 1 the version wins, 0.5 tie, 0 it loses." + _WINDOW,
        labels=_BY_VERSION,
    )
    fairness = GaugeMetricFamily(
        "loragate_judge_calibration",
        "The same where a version is judged against itself: far from 0.5 the judge is biased." + _WINDOW,
        labels=_BY_VERSION,
    )
    for key, window in sorted(reading.windows.items()):
        if "judge" in window.scores:
            wins.add_metric(key, window.scores["judge"])
        if "judge" in window.noise:
            fairness.add_metric(key, window.noise["judge"])
    flagged = GaugeMetricFamily(
        "loragate_judge_flagged",
        "1 if the alias's judge was found unfit: its opinions count no more." + _LEADER,
        labels=("alias",),
    )
    for alias, is_flagged in sorted(reading.evaluators.flagged.items()):
        flagged.add_metric((alias,), float(is_flagged))
    yield from (wins, fairness, flagged)


def _queue(reading: ShadowReading) -> Iterator[Metric]:
    counts = reading.evaluators
    for name, about, by_reason in (
        (
            "loragate_shadow_shed",
            "Times that a sample was given back, by reason; it is tried again.",
            counts.shed,
        ),
        ("loragate_shadow_failed", "Samples that were dropped for good, by reason.", counts.failed),
    ):
        family = CounterMetricFamily(name, about + _LEADER, labels=("reason",))
        for reason, count in sorted(by_reason.items()):
            family.add_metric((reason,), count)
        yield family
    yield CounterMetricFamily(
        "loragate_shadow_replay_tokens",
        "Tokens that replays and scoring have cost the engines." + _LEADER,
        value=counts.replay_tokens,
    )
    yield GaugeMetricFamily("loragate_evaluators", "Evaluators that live." + _LEADER, value=counts.alive)
    samples = GaugeMetricFamily(
        "loragate_shadow_queue_samples",
        "Samples in the store: pending, claimed, or failed: given up, and kept until they expire." + _LEADER,
        labels=("state",),
    )
    oldest = GaugeMetricFamily("loragate_shadow_queue_age_seconds", "Age of the oldest sample that waits." + _LEADER)
    if reading.queue is not None:
        for state in ("pending", "claimed", "failed"):
            samples.add_metric((state,), getattr(reading.queue, state))
        oldest.add_metric((), reading.queue.oldest_seconds)
    yield from (samples, oldest)


def _over_time(reading: ShadowReading) -> Iterator[Metric]:
    labels = ("alias", "version", "metric")
    psi = GaugeMetricFamily(
        "loragate_drift_psi",
        "Population stability index against the accepted baseline; of k categories, n and m sessions it is "
        "(k - 1)(1/n + 1/m) where nothing has moved, and alarms are told by `loragate_drift_alarm`." + _LEADER,
        labels=labels,
    )
    js = GaugeMetricFamily(
        "loragate_drift_js_bits", "Jensen-Shannon divergence from the accepted baseline." + _LEADER, labels=labels
    )
    evidence = GaugeMetricFamily(
        "loragate_drift_evidence", "The detector's sum; at its bound an alarm is raised." + _LEADER, labels=labels
    )
    bound = GaugeMetricFamily("loragate_drift_bound", "Where the detector raises its alarm." + _LEADER, labels=labels)
    alarm = GaugeMetricFamily(
        "loragate_drift_alarm", "1 once it was raised, until the next version is accepted." + _LEADER, labels=labels
    )
    for each in sorted(reading.drift, key=lambda each: (each.alias, each.version, each.what)):
        key = (each.alias, each.version, each.what)
        for family, value in ((psi, each.psi), (js, each.js)):
            if value is not None:
                family.add_metric(key, value)
        evidence.add_metric(key, each.evidence)
        bound.add_metric(key, each.bound)
        alarm.add_metric(key, float(each.alarm_at is not None))
    yield from (psi, js, evidence, bound, alarm)


def _cumulative(bounds: tuple[float, ...], observed: BucketCounts) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), observed.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
