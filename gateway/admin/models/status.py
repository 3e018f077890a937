"""Replies of the admin API about the state and health of a gateway, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

from pydantic import BaseModel, ConfigDict, Field


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
