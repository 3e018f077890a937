"""The Prometheus series of the gateway's side of mirroring: copies and feedback.

What evaluators do with copies is exported by `shadow_metrics.py`.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.observe.mirror_counts import MirrorReading


def mirror_series(reading: MirrorReading) -> Iterator[Metric]:
    """Yield the series of copies and of feedback."""
    counts = reading.counts
    sampled = CounterMetricFamily(
        "loragate_mirror_sampled",
        "Requests copied for evaluators, by what they are compared with.",
        labels=("alias", "kind"),
    )
    for alias, kinds in sorted(counts.sampled.items()):
        for kind, count in sorted(kinds.items()):
            sampled.add_metric((alias, kind), count)
    yield sampled
    for name, by_reason, help_text in (
        ("skipped", counts.skipped, "Requests picked to be copied that make no pair, by the reason."),
        ("dropped", counts.dropped, "Copies that were lost, by the reason; their callers noticed nothing."),
    ):
        family = CounterMetricFamily(f"loragate_mirror_{name}", help_text, labels=("reason",))
        for reason, count in sorted(by_reason.items()):
            family.add_metric((reason,), count)
        yield family
    yield CounterMetricFamily("loragate_mirror_stored", "Copies handed to evaluators.", value=counts.stored)
    yield CounterMetricFamily(
        "loragate_mirror_redacted", "Copies whose texts were changed before anything was stored.", value=counts.redacted
    )
    yield GaugeMetricFamily("loragate_mirror_held", "Copies that wait in this gateway.", value=reading.held_items)
    yield GaugeMetricFamily("loragate_mirror_held_bytes", "What they take in its memory.", value=reading.held_bytes)
    feedback = CounterMetricFamily(
        "loragate_feedback", "Feedback on replies: attached, unknown_request, not_yours, dropped.", labels=("outcome",)
    )
    for outcome, count in sorted(counts.feedback.items()):
        feedback.add_metric((outcome,), count)
    yield feedback
