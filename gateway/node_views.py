"""The node's views of itself: readiness (`/readyz`), metrics, and status."""

from typing import TYPE_CHECKING, Any

from adapters.fingerprint import BASE
from gateway.mirror.node_side import mirror_reading
from gateway.observe.metrics import Scrape, exposition
from gateway.observe.store_metrics import StoreReading
from gateway.workers.slot import REASONS

if TYPE_CHECKING:
    from gateway.node import Node


def readiness(node: "Node") -> tuple[bool, dict[str, str]]:
    """Return whether the gateway can serve requests, and a line about each part."""
    up = len(node.engines.up())
    unresponsive = node.pool.unresponsive
    note = f", {unresponsive} not responding" if unresponsive else ""
    parts = {
        "workers": f"{node.pool.ready} of {node.pool.size} accept connections{note}",
        "engines": f"{up} of {len(node.engines.watches)} up" + node.engines.other_base_note(),
        "route_table": f"version {node.state.table_version}, confirmed {node.contact.silent_seconds:.1f} s ago",
        "store": node.contact.standing(),
    }
    # An unresponsive worker may serve from an old table, for 5 s at most: meanwhile requests should go elsewhere.
    is_ready = node.pool.ready > 0 and up > 0 and not unresponsive
    if node.is_stopping:
        return False, {"gateway": "stopping", **parts}
    return is_ready, parts


async def metrics(node: "Node") -> bytes:
    """Return all metrics, in Prometheus's text format."""
    cells = await node.pool.collect()
    watches = node.engines.watches
    aliases = {route.control: route.alias for route in node.state.desired.routes}
    versions = [(aliases.get(entry.ref.version, entry.ref.name), entry.ref.version) for entry in node.state.catalog]
    reading = Scrape(
        cells=tuple(cells),
        engines={watch.status.url: watch.status.is_up for watch in watches},
        problems={watch.status.url: each.kind for watch in watches if (each := watch.problem) is not None},
        adapters=tuple(
            (alias, version, watch.status.url, version in watch.loader.ready)
            for alias, version in versions
            for watch in watches
        ),
        slots={watch.status.url: (watch.loader.slots, len(watch.loader.ready)) for watch in watches},
        loads=node.loads,
        placement=node.pool.placement,
        workers=node.pool.size,
        ready_workers=node.pool.ready,
        unresponsive_workers=node.pool.unresponsive,
        worker_restarts={reason: node.pool.restarts[reason] for reason in REASONS},
        table_version=node.state.table_version,
        rollouts=node.conductor.reading(),
        store=StoreReading(
            age=node.contact.silent_seconds,
            is_away=node.contact.is_away,
            state=node.state.desired.version,
            replicas=len(node.contact.last_beat.alive),
        ),
        mirror=mirror_reading(node.mirror, node.feedback, node.pool.mirror),
        shadow=node.shadow.reading(),
    )
    return exposition(reading)


def status(node: "Node") -> dict[str, Any]:
    """Return the gateway's state for `loragate status`."""
    ready, _ = readiness(node)
    base = node.engines.base()
    return {
        "ready": ready,
        "app_url": node.app_url,
        "control_url": node.control_url,
        "base": base.name if base else None,
        "base_names": list(base.names) if base else [],
        "auth": node.settings.auth,
        "workers": {
            "running": node.pool.ready,
            "wanted": node.pool.size,
            "restarts": node.pool.restarts.total(),
            "unresponsive": node.pool.unresponsive,
        },
        "route_table_version": node.state.table_version,
        "store": {
            "address": node.store.database.label,
            "is_away": node.contact.is_away,
            "silent_seconds": round(node.contact.silent_seconds, 1),
            "state_version": node.state.desired.version,
        },
        "replicas": [
            {"name": each.name, "url": each.url, "workers": each.workers, "state_version": each.state}
            for each in node.contact.last_beat.alive
        ],
        "engines": [
            {
                "url": watch.status.url,
                **watch.describe(),
                "versions": sorted(watch.loader.ready),
                "slots": watch.loader.slots,
                "base": watch.loader.checker.last(BASE),
                "failed": {version: failure.reason for version, failure in sorted(watch.loader.failed.items())},
            }
            for watch in node.engines.watches
        ],
    }
