"""The control port's probes, its scrape, and the status for people."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field


class Probes:
    """What the probes and the scrape ask of the rest.

    Args:
        readiness: Returns whether requests can be served, and a line for each part.
        metrics: Returns the exposition.
        status: Returns everything about engines and workers, for people.
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


class _Growing(BaseModel):
    # A later release may say more, and no client of this one may break on it.
    model_config = ConfigDict(extra="allow")


class AliveView(BaseModel):
    """The control plane runs."""

    status: str = Field(examples=["ok"])


class ReadyView(_Growing):
    """Whether requests can be served, and how each part is."""

    status: str = Field(description="`ok` or `not ready`", examples=["ok"])
    workers: str = Field(examples=["2 of 2 accept connections"])
    engines: str = Field(examples=["1 of 1 up"])
    route_table: str = Field(examples=["version 17, confirmed 0.1 s ago"])
    store: str = Field(examples=["in contact with sqlite"])


class WorkersView(_Growing):
    """The processes that serve the app port."""

    running: int
    wanted: int
    restarts: int
    unresponsive: int = Field(description="Have not answered for 2 s, or cannot read the newest route table")


class StoreView(_Growing):
    """Where the state is kept."""

    address: str = Field(description="Without what proves who we are")
    is_away: bool
    silent_seconds: float = Field(description="For how long it has not said whether our state is the newest")
    state_version: int = Field(description="Of the state that this gateway has")


class ReplicaView(_Growing):
    """One gateway on the same store."""

    name: str
    url: str
    workers: int
    state_version: int = Field(description="Of the state that all its workers serve from")


class CheckView(_Growing):
    """What the last check of a version, or of the base, found on an engine."""

    verdict: str
    where: str
    distance: float
    limit: float
    reason: str


class EngineView(_Growing):
    """One engine as it is now."""

    url: str
    up: bool = Field(description="Whether it may be sent requests: it answers, and serves this gateway's base")
    problem: str | None = Field(
        description="Why it is not used: unreachable, unhealthy, unauthorized, no_models, ended, undecided, "
        "other_base; or, of one that is, why it gets no adapters: several_engines"
    )
    reason: str | None = Field(description="The same in a sentence")
    names: list[str] = Field(description="What it calls its base (--served-model-name)")
    max_model_len: int | None = Field(description="Longest prompt with reply that it takes, in tokens; null: not told")
    versions: list[str] = Field(description="Versions that it has ready")
    slots: int | None = Field(description="For how many adapters it has room; null: not known")
    base: CheckView | None = Field(description="What its last check found of the base")
    failed: dict[str, str] = Field(description="Versions that it does not serve, and why")


class StatusView(_Growing):
    """Everything about this gateway, for people."""

    ready: bool
    app_url: str
    control_url: str
    base: str | None = Field(description="The base model's name; null until an engine has told it")
    base_names: list[str] = Field(description="All names that callers may send for it")
    auth: bool = Field(description="Whether keys are asked for")
    workers: WorkersView
    route_table_version: int
    store: StoreView
    replicas: list[ReplicaView]
    engines: list[EngineView]


def add_probes(app: FastAPI, probes: Probes) -> None:
    """Add the probes, the scrape and the status to the control plane."""

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
