"""The control port's paths for probes, metrics and the status."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from gateway.admin.models.status import AliveView, ReadyView, StatusView


class Probes:
    """The functions that answer probes, metrics scrapes and the status.

    Args:
        readiness: Returns whether requests can be served, and a line of text for each part that this depends on.
        metrics: Returns all metrics in Prometheus's text format.
        status: Returns the status of engines, workers, store and replicas, as shown to operators.
    """

    def __init__(
        self,
        readiness: Callable[[], tuple[bool, dict[str, str]]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self.readiness = readiness
        self.metrics = metrics
        self.status = status


def add_probes(app: FastAPI, probes: Probes) -> None:
    """Add the paths for probes, metrics and the status to the control plane."""

    @app.get("/healthz", tags=["probes"])
    async def is_alive() -> AliveView:
        """Whether the control plane runs."""
        return AliveView(status="ok")

    not_ready: dict[int | str, dict[str, Any]] = {
        503: {"model": ReadyView, "description": "Requests cannot be served; what is missing"}
    }

    @app.get("/readyz", tags=["probes"], response_model=ReadyView, responses=not_ready)
    async def is_ready() -> Response:
        """Whether requests can be served: 200, or 503 with what is missing."""
        ready, parts = probes.readiness()
        return JSONResponse({"status": "ok" if ready else "not ready", **parts}, 200 if ready else 503)

    @app.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
    async def scrape_metrics() -> Response:
        """All series, in Prometheus's text format."""
        return Response(await probes.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/admin/v1/status", tags=["status"], response_model=StatusView)
    async def show_status() -> dict[str, Any]:
        """Engines, workers, store and replicas, as they are now."""
        return probes.status()
