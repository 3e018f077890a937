"""The Prometheus gauges of the store, and of the gateways that share it."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReading:
    """This gateway's contact with the store at one moment.

    Attributes:
        age: Seconds since the store last confirmed that the route table is the newest.
        is_away: Whether the store does not answer, or takes no changes.
        state: Version of the desired state that this gateway serves.
        replicas: Gateways that share the store and are alive.
    """

    age: float
    is_away: bool
    state: int
    replicas: int


def store_gauges(reading: StoreReading) -> Iterator[Metric]:
    """Yield the gauges of the store."""
    yield GaugeMetricFamily(
        "loragate_route_table_age_seconds",
        "Seconds since the store last confirmed that the route table is the newest.",
        value=reading.age,
    )
    yield GaugeMetricFamily(
        "loragate_store_up",
        "1 if the store answers and takes changes; without it only changes stop.",
        value=float(not reading.is_away),
    )
    yield GaugeMetricFamily(
        "loragate_state_version", "Version of the desired state that this gateway serves.", value=reading.state
    )
    yield GaugeMetricFamily(
        "loragate_replicas", "Gateways that share the store and live, as last heard.", value=reading.replicas
    )
