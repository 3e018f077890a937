"""Every Prometheus series of the gateway.

Workers count in cells; this module exports the sums over all workers, so the figures do not depend on the number of
workers. Label values are bounded: aliases, versions, codes, engines.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.observe.engine_counts import QUEUE_BOUNDS, EngineCounts, PlacementCounts
from gateway.observe.ledger import (
    DURATION_BOUNDS,
    ITL_BOUNDS,
    LOAD_BOUNDS,
    OVERHEAD_BOUNDS,
    TTFT_BOUNDS,
    Cell,
    Histogram,
)
from gateway.observe.loads import LoadCounts
from gateway.observe.mirror_counts import MirrorReading
from gateway.observe.mirror_metrics import mirror_series
from gateway.observe.rollout_counts import RolloutsReading
from gateway.observe.rollout_metrics import rollout_series
from gateway.observe.shadow_counts import ShadowReading
from gateway.observe.shadow_metrics import shadow_series
from gateway.observe.store_metrics import StoreReading, store_gauges

_LABELS: Final = ("alias", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Everything that one scrape of `/metrics` exports, read at one moment."""

    cells: tuple[Cell, ...]
    engines: Mapping[str, bool]
    problems: Mapping[str, str]  # engine: why it is not used; engines in use are absent
    adapters: tuple[tuple[str, str, str, bool], ...]  # alias, version, engine, ready
    slots: Mapping[str, tuple[int, int]]  # engine: adapters it may hold, adapters that are ready
    loads: LoadCounts
    workers: int
    ready_workers: int
    unresponsive_workers: int
    worker_restarts: Mapping[str, int]  # by reason
    table_version: int
    store: StoreReading
    rollouts: RolloutsReading
    placement: PlacementCounts
    mirror: MirrorReading = field(default_factory=MirrorReading)
    shadow: ShadowReading = field(default_factory=ShadowReading)


class _FixedMetrics(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def exposition(reading: Scrape) -> bytes:
    """Return a scrape in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _FixedMetrics(
            [
                *_counters(reading.cells),
                *_histograms(reading.cells),
                *_gauges(reading),
                *_loads(reading),
                *_placement(reading),
                *rollout_series(reading.rollouts),
                *mirror_series(reading.mirror),
                *shadow_series(reading.shadow),
            ]
        )
    )
    return generate_latest(registry)


def _counters(cells: tuple[Cell, ...]) -> Iterator[Metric]:
    requests = CounterMetricFamily("loragate_requests", "Requests by HTTP status.", labels=(*_LABELS, "code"))
    errors = CounterMetricFamily(
        "loragate_errors", "Errors by their code, in replies and in streams.", labels=(*_LABELS, "code")
    )
    prompt = CounterMetricFamily("loragate_prompt_tokens", "Prompt tokens, from the replies' usage.", labels=_LABELS)
    generated = CounterMetricFamily(
        "loragate_generation_tokens", "Generated tokens, from the replies' usage.", labels=_LABELS
    )
    estimated = CounterMetricFamily(
        "loragate_estimated_tokens",
        "Tokens that limits were charged by an estimate, as no usage came: the client left, or the engine broke.",
        labels=_LABELS,
    )
    retries = CounterMetricFamily(
        "loragate_retries", "Requests sent to an engine once more before the first byte.", labels=_LABELS
    )
    exposures = CounterMetricFamily(
        "loragate_exposures",
        "Requests that an open rollout has assigned, by the assigned arm.",
        labels=(*_LABELS, "arm"),
    )
    refusals = CounterMetricFamily(
        "loragate_rate_limited",
        "Requests that a limit of a key or an alias kept out, by the limit.",
        labels=("alias", "reason"),
    )
    fields = CounterMetricFamily(
        "loragate_engine_fields_refused",
        "Fields that callers may not send to engines, by what became of it: refused, or dry_run.",
        labels=("alias", "field", "outcome"),
    )
    for cell in cells:
        labels = (cell.alias, cell.version)
        for refused, count in sorted(cell.engine_fields.items()):
            fields.add_metric((cell.alias, *refused.split("/")), count)
        for arm, count in sorted(cell.exposures.items()):
            exposures.add_metric((*labels, arm), count)
        for reason, count in sorted(cell.refusals.items()):
            refusals.add_metric((cell.alias, reason), count)
        for status, count in sorted(cell.statuses.items()):
            requests.add_metric((*labels, str(status)), count)
        for code, count in sorted(cell.errors.items()):
            errors.add_metric((*labels, code), count)
        prompt.add_metric(labels, cell.prompt_tokens)
        generated.add_metric(labels, cell.generation_tokens)
        estimated.add_metric(labels, cell.estimated_tokens)
        retries.add_metric(labels, cell.retries)
    yield from (requests, errors, prompt, generated, estimated, retries, exposures, refusals, fields)


def _histograms(cells: tuple[Cell, ...]) -> Iterator[Metric]:
    declared = (
        (
            "ttft",
            TTFT_BOUNDS,
            "loragate_time_to_first_token_seconds",
            "From a request's last byte to a stream's first content; comments and the role alone are none.",
        ),
        (
            "itl",
            ITL_BOUNDS,
            "loragate_inter_token_latency_seconds",
            "Between two reads of a stream that brought content.",
        ),
        (
            "duration",
            DURATION_BOUNDS,
            "loragate_request_duration_seconds",
            "From a request's last byte to its reply's.",
        ),
        (
            "overhead",
            OVERHEAD_BOUNDS,
            "loragate_overhead_seconds",
            "From a request's last byte until an engine was sent it.",
        ),
        (
            "load_wait",
            LOAD_BOUNDS,
            "loragate_adapter_wait_seconds",
            "How long requests waited for their version to be loaded; those that did not wait are not in it.",
        ),
    )
    for kind, bounds, name, help_text in declared:
        family = HistogramMetricFamily(name, help_text, labels=_LABELS)
        for cell in cells:
            histogram: Histogram = getattr(cell, kind)
            family.add_metric((cell.alias, cell.version), _cumulative(bounds, histogram), histogram.sum)
        yield family


def _loads(reading: Scrape) -> Iterator[Metric]:
    by_engine = ("engine",)
    slots = GaugeMetricFamily("loragate_adapter_slots", "Adapters that the engine may hold.", labels=by_engine)
    resident = GaugeMetricFamily("loragate_adapters_resident", "Adapters that are ready on it.", labels=by_engine)
    for url, (most, ready) in reading.slots.items():
        slots.add_metric((url,), most)
        resident.add_metric((url,), ready)
    yield from (slots, resident)
    loads = CounterMetricFamily(
        "loragate_adapter_loads", "Loads by outcome: ok, refused, unfit, unavailable.", labels=("engine", "outcome")
    )
    seconds = HistogramMetricFamily(
        "loragate_adapter_load_seconds", "Loads, the check of the fingerprint included.", labels=by_engine
    )
    evictions = CounterMetricFamily(
        "loragate_adapter_evictions", "Versions that made room for another.", labels=by_engine
    )
    verdicts = CounterMetricFamily(
        "loragate_fingerprint_checks", "Checks of what engines serve, by verdict.", labels=("engine", "verdict")
    )
    for url, counts in reading.loads.engines.items():
        for outcome, count in sorted(counts.outcomes.items()):
            loads.add_metric((url, outcome), count)
        seconds.add_metric((url,), _cumulative(LOAD_BOUNDS, counts.seconds), counts.seconds.sum)
        evictions.add_metric((url,), counts.evictions)
        for verdict, count in sorted(counts.verdicts.items()):
            verdicts.add_metric((url, verdict), count)
    yield from (loads, seconds, evictions, verdicts)


def _placement(reading: Scrape) -> Iterator[Metric]:
    counts = reading.placement
    ejections = CounterMetricFamily(
        "loragate_engine_ejections",
        "Times that a worker stopped sending an engine requests: connection, lost, status, timeout, silence.",
        labels=("engine", "reason"),
    )
    ejected = GaugeMetricFamily(
        "loragate_engine_ejected", "Workers that send the engine no requests now, or one to try.", labels=("engine",)
    )
    returns = CounterMetricFamily(
        "loragate_engine_returns", "Times that a worker sent an ejected engine requests again.", labels=("engine",)
    )
    faults = CounterMetricFamily(
        "loragate_engine_protocol_faults",
        "Times that what an engine sent was not HTTP, had too many headers, or followed the end of a reply.",
        labels=("engine",),
    )
    for url in reading.engines:
        engine = counts.engines.get(url) or EngineCounts()
        for reason, count in sorted(engine.ejections.items()):
            ejections.add_metric((url, reason), count)
        ejected.add_metric((url,), engine.ejected_now)
        returns.add_metric((url,), engine.returns)
        faults.add_metric((url,), engine.faults)
    yield from (ejections, ejected, returns, faults)
    yield GaugeMetricFamily(
        "loragate_requests_queued", "Requests that wait until an engine has room.", value=counts.queued_now
    )
    yield CounterMetricFamily(
        "loragate_early_heads",
        "Streams whose head went out before an engine had answered, since they had waited so long.",
        value=counts.early_heads,
    )
    refusals = CounterMetricFamily(
        "loragate_queue_refusals",
        "Requests refused because the queue was full, or after a timeout in it.",
        labels=("reason",),
    )
    for reason in ("full", "timeout"):
        refusals.add_metric((reason,), counts.refused.get(reason, 0))
    yield refusals
    wait = HistogramMetricFamily(
        "loragate_queue_wait_seconds", "How long requests were queued that an engine then got; others are not in it."
    )
    wait.add_metric((), _cumulative(QUEUE_BOUNDS, counts.queue_wait), counts.queue_wait.sum)
    yield wait


def _cumulative(bounds: tuple[float, ...], histogram: Histogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _gauges(reading: Scrape) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily("loragate_requests_in_flight", "Requests that an engine has now.", labels=_LABELS)
    for cell in reading.cells:
        in_flight.add_metric((cell.alias, cell.version), cell.in_flight)
    yield in_flight
    engine_up = GaugeMetricFamily("loragate_engine_up", "1 if the engine may be sent requests.", labels=("engine",))
    for url, is_up in reading.engines.items():
        engine_up.add_metric((url,), float(is_up))
    yield engine_up
    problem = GaugeMetricFamily(
        "loragate_engine_problem",
        "1 for why the engine gets no requests: unreachable, unhealthy, unauthorized, no_models, ended, undecided, "
        "other_base; or why it gets no adapters: several_engines.",
        labels=("engine", "reason"),
    )
    for url, reason in reading.problems.items():
        problem.add_metric((url, reason), 1.0)
    yield problem
    ready = GaugeMetricFamily(
        "loragate_adapter_ready", "1 if the engine has the version loaded.", labels=(*_LABELS, "engine")
    )
    for alias, version, engine, is_ready in reading.adapters:
        ready.add_metric((alias, version, engine), float(is_ready))
    yield ready
    yield GaugeMetricFamily("loragate_workers", "Gateway workers that there should be.", value=reading.workers)
    yield GaugeMetricFamily(
        "loragate_workers_ready", "Gateway workers that accept connections.", value=reading.ready_workers
    )
    yield GaugeMetricFamily(
        "loragate_workers_unresponsive",
        "Gateway workers that have not answered for 2 s, or cannot read the newest route table.",
        value=reading.unresponsive_workers,
    )
    restarts = CounterMetricFamily(
        "loragate_worker_restarts",
        "Workers that ended unexpectedly, by reason: ended, chore, silent, message, table.",
        labels=("reason",),
    )
    for reason, count in sorted(reading.worker_restarts.items()):
        restarts.add_metric((reason,), count)
    yield restarts
    yield GaugeMetricFamily(
        "loragate_route_table_version", "Version of the route table in force.", value=reading.table_version
    )
    yield from store_gauges(reading.store)
