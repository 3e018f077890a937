"""The Prometheus series of rollouts, their gates, and the journal."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.observe.rollout_counts import RolloutsReading

# Infinite e-values are exported as this: far above every limit, and still a number that Prometheus can add.
_LARGEST: Final = 1e300


def rollout_series(reading: RolloutsReading) -> Iterator[Metric]:
    """Yield every series of rollouts. Only the leader exports gate readings."""
    share = GaugeMetricFamily(
        "loragate_traffic_share",
        "Share of the alias's units that an arm gets, in [0, 1].",
        labels=("alias", "arm", "version"),
    )
    for (alias, arm, version), weight in sorted(reading.weights.items()):
        share.add_metric((alias, arm, version), weight / TOTAL_WEIGHT)
    phase = GaugeMetricFamily(
        "loragate_rollout_phase", "1 for the phase that the alias's open rollout is in.", labels=("alias", "phase")
    )
    for each in reading.rollouts:
        phase.add_metric((each.alias, each.phase), 1.0)
    yield from (share, phase, *_gates(reading), *_ratio(reading), *_counters(reading))
    yield GaugeMetricFamily(
        "loragate_leader", "1 if this gateway advances rollouts, as far as it knows.", value=float(reading.is_leader)
    )
    yield GaugeMetricFamily(
        "loragate_journal_entries", "Number of the journal's newest entry.", value=reading.journal_entries
    )


def _gates(reading: RolloutsReading) -> Iterator[Metric]:
    by_gate = ("alias", "gate")
    verdict = GaugeMetricFamily(
        "loragate_rollout_gate",
        "What a gate of the rollout's stage says: 1 pass, 0 inconclusive, -1 fail.",
        labels=by_gate,
    )
    observed = GaugeMetricFamily(
        "loragate_rollout_gate_observed",
        "What the gate measured of the candidate, mostly a share in [0, 1].",
        labels=by_gate,
    )
    limit = GaugeMetricFamily(
        "loragate_rollout_gate_limit", "What the gate holds it against, in the same unit.", labels=by_gate
    )
    samples = GaugeMetricFamily(
        "loragate_rollout_gate_samples",
        "The candidate's units behind it in this stage; of a gate on pairs, sessions.",
        labels=by_gate,
    )
    e_value = GaugeMetricFamily(
        "loragate_rollout_gate_e_value",
        "Evidence for what a gate says, while it is inconclusive that it fails; valid at every look.",
        labels=by_gate,
    )
    bound = GaugeMetricFamily(
        "loragate_rollout_gate_bound",
        "The e-value from which a gate fails: 1/alpha, shared out over the plan's gates. It passes from 1/alpha on.",
        labels=by_gate,
    )
    values = {Verdict.PASS: 1.0, Verdict.INCONCLUSIVE: 0.0, Verdict.FAIL: -1.0}
    for each in reading.rollouts:
        for found in each.readings or ():
            labels = (each.alias, found.gate)
            verdict.add_metric(labels, values[found.verdict])
            samples.add_metric(labels, found.n)
            if found.observed is not None:
                observed.add_metric(labels, found.observed)
            if found.limit is not None:
                limit.add_metric(labels, found.limit)
            if found.e_value is not None:
                e_value.add_metric(labels, min(found.e_value, _LARGEST))
                if each.bound is not None:
                    bound.add_metric(labels, each.bound)
    yield from (verdict, observed, limit, samples, e_value, bound)


def _ratio(reading: RolloutsReading) -> Iterator[Metric]:
    e_value = GaugeMetricFamily(
        "loragate_sample_ratio_e_value",
        "Evidence that units are not split as the weights say; from 1,000 on the rollout is paused.",
        labels=("alias",),
    )
    p_value = GaugeMetricFamily(
        "loragate_sample_ratio_p_value", "The same by Pearson's chi-square, for one look only.", labels=("alias",)
    )
    for each in reading.rollouts:
        if each.ratio is not None:
            e_value.add_metric((each.alias,), min(each.ratio.e_value, _LARGEST))
            p_value.add_metric((each.alias,), each.ratio.p_value)
    yield from (e_value, p_value)


def _counters(reading: RolloutsReading) -> Iterator[Metric]:
    labels = ("alias", "reason")
    rollbacks = CounterMetricFamily(
        "loragate_rollbacks",
        "Rollbacks by this gateway: by the gate that failed, `operator` or `automation`.",
        labels=labels,
    )
    pages = CounterMetricFamily(
        "loragate_rollout_pages",
        "Times that somebody was needed: by gate, `sample_ratio`, `inconclusive`, `automation`, or `drift` over time.",
        labels=labels,
    )
    for family, counts in ((rollbacks, reading.counts.rollbacks), (pages, reading.counts.pages)):
        for (alias, reason), count in sorted(counts.items()):
            family.add_metric((alias, reason), count)
        yield family
