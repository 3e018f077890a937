"""What the admin API's paths for routes take and give, described for those who generate a client."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from gateway.admin.routes.files import MAX_NOTES, MAX_ROUTES, Declaration, parse_routes
from gateway.decide.assign import SOURCES

MAX_REASON: Final = 1_000
# The state counts from 0 by one; PostgreSQL keeps it in 64 bits.
HIGHEST_NUMBER: Final = 2**63 - 2
# Said here, and checked by `adapters.reference`, whose words are better.
ALIAS: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
VERSION: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{6,64}$"}
ALIAS_OR_VERSION: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[0-9a-f]{6,64})?$"}
# For who reads the description; what is wrong is told by `admin/routes/files.py`, all of it at once.
_NAME: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_VERSION: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{6,64}$"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JudgeDeclaration(_Strict):
    """Which model judges pairs, at an OpenAI-compatible endpoint."""

    url: StrictStr = Field(examples=["http://127.0.0.1:8080/v1"])
    model: StrictStr
    key_env: StrictStr | None = Field(None, description="The evaluator's environment variable with the key")
    rubric: StrictStr | None = Field(None, description="What a good answer is, in words")
    share: StrictInt | StrictStr | None = Field(None, description="Of the pairs, as `20%`, or whole basis points")
    pairs_per_hour: StrictInt | None = None


class MirrorDeclaration(_Strict):
    """Which share of requests is mirrored, and what is kept of them."""

    share: StrictInt | StrictStr = Field(description="As `2%`, or whole basis points", examples=["2%"])
    capture: Literal["full", "metrics_only", "off"] = "full"
    noise_share: StrictInt | StrictStr | None = Field(
        None,
        examples=["10%"],
        description="Of the copies, how many are compared with the same version again; a rollout's stage has as many "
        "as its gates and the route's judge read",
    )
    tokens_per_hour: StrictInt | None = Field(None, description="What evaluators may spend in an hour")
    retention: StrictInt | StrictStr | None = Field(
        None, description="How long texts are kept, as `7d` or seconds; 0: until they were judged", examples=["7d"]
    )
    redact: list[StrictStr] | None = Field(
        None, description="Redactors, applied before anything is stored", examples=[["email", "phone"]]
    )
    judge: JudgeDeclaration | None = None
    comparators: list[StrictStr] | None = Field(None, description="Comparators that are run; all if left out")


class LimitsDeclaration(_Strict):
    """What the alias may be asked for, over all keys; null for no limit."""

    requests_per_minute: StrictInt | None = Field(None, examples=[600])
    tokens_per_minute: StrictInt | None = Field(None, examples=[100_000])
    max_in_flight: StrictInt | None = Field(None, examples=[50])


class RouteDeclaration(_Strict):
    """One route as it shall be. What is left out is none."""

    alias: StrictStr = Field(
        description="The name that clients send as `model`", examples=["support"], json_schema_extra=_NAME
    )
    control: StrictStr = Field(
        description="The version that callers get, in full or a unique prefix",
        examples=["support@3f2a9c81d0e4"],
        json_schema_extra=_VERSION,
    )
    candidate: StrictStr | None = Field(None, description="The version on trial", examples=["support@9b11c0de77aa"])
    weight: StrictInt | StrictStr | None = Field(
        None, description="The candidate's share of units, as `5%`, or whole basis points", examples=["5%"]
    )
    unit: list[StrictStr] | None = Field(
        None,
        description=f"Where the unit is looked for, first found first used: {', '.join(SOURCES)}, `header:NAME`, "
        "`body:PATH`; after `trusted:` only of keys above the role `app`",
        examples=[["header", "user", "key"]],
    )
    mirror: MirrorDeclaration | None = None
    plan: StrictStr | dict[str, Any] | None = Field(
        None,
        description="What the next rollout does: one line, or steps with gates",
        examples=["1% 10m → 5% → 25% → 100%"],
    )
    limits: LimitsDeclaration | None = None
    engine_fields: dict[str, StrictStr | StrictInt] | None = Field(
        None,
        description="Rules for fields that engines are sent: `allow`, `deny` or the largest number",
        examples=[{"media_urls": "allow"}],
    )
    notes: StrictStr | None = Field(None, description=f"A remark, at most {MAX_NOTES} characters")


class RoutesDeclaration(_Strict):
    """Routes as declared, such as routes.yaml holds."""

    routes: list[RouteDeclaration] = Field(max_length=MAX_ROUTES)
    prune: StrictBool | None = Field(None, description="Remove routes that are not declared; else they stay")

    def read(self) -> Declaration:
        """Return what is declared.

        Raises:
            InvalidRoutes: Every problem at once.
        """
        return parse_routes(self.model_dump(exclude_unset=True, include={"routes", "prune"}))


class RoutesApplication(RoutesDeclaration):
    """Routes to be applied, and why."""

    reason: str = Field("", max_length=MAX_REASON, description="For the history and the journal")


class Revert(_Strict):
    """Which version to go back to, and why."""

    number: int = Field(ge=1, le=HIGHEST_NUMBER, description="A version's number, as the history lists them")
    reason: str = Field("", max_length=MAX_REASON, description="For the history and the journal")


class NewSplit(_Strict):
    """A candidate version and its share of the units, in basis points."""

    candidate: str | None = Field(
        None, description="Version, in full or a unique prefix; null ends the split", json_schema_extra=VERSION
    )
    weight: int = Field(0, ge=0, le=10_000, description="Basis points, 0 to 10,000")


class FieldView(BaseModel):
    """One field that changes."""

    field: str
    before: Any
    after: Any


class ChangeView(BaseModel):
    """What happens to one alias, and what that means for its traffic."""

    alias: str
    action: Literal["add", "change", "remove"]
    fields: list[FieldView]
    meaning: list[str]


class PlanView(BaseModel):
    """What applying changes."""

    version: int = Field(description="The state's version that it was made from: send it as `If-Match`")
    changes: list[ChangeView]
    warnings: list[str] = Field(description="What is allowed and may not be meant")
    conflicts: list[str] = Field(description="Why it cannot be applied to the state as it is")
    unchanged: list[str] = Field(description="Aliases that are as declared")
    left_alone: list[str] = Field(description="Aliases that are not declared, and stay")


class AppliedView(BaseModel):
    """What was done."""

    plan: PlanView
    version: int = Field(description="The state's version now")
    checked: bool = Field(description="Whether `If-Match` made sure that it was the state that was planned for")


class JudgePolicyView(BaseModel):
    """Which model judges pairs."""

    url: str
    model: str
    key_env: str
    rubric: str
    share: int = Field(description="Basis points of the pairs")
    pairs_per_hour: int | None


class ShadowView(BaseModel):
    """What an open rollout's stage compares with control."""

    candidate: str
    share: int = Field(description="Basis points of the requests")
    needs_noise: bool = Field(False, description="Whether one of its gates is held against noise pairs")


class MirrorView(BaseModel):
    """Which share of requests is mirrored, and what is kept of them."""

    share: int = Field(description="Basis points")
    capture: Literal["full", "metrics_only", "off"]
    noise_share: int = Field(1_000, description="Basis points of the copies; of those in a rollout see `shadow`")
    tokens_per_hour: int | None = None
    retention_seconds: int | None = None
    redact: list[str] = []
    judge: JudgePolicyView | None = None
    comparators: list[str] | None = None


class LimitsView(BaseModel):
    """What the alias may be asked for, over all keys; null for no limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_in_flight: int | None


class PreviousView(BaseModel):
    """A former control."""

    version: str
    until: int


class RouteRecordView(BaseModel):
    """A route as it is stored. Shares in basis points, times in Unix seconds."""

    alias: str
    control: str
    candidate: str | None
    weight: int
    unit: list[str]
    mirror: MirrorView | None
    plan: dict[str, Any] | None = Field(description="In canonical form: basis points, seconds, shares")
    limits: LimitsView | None
    engine_fields: dict[str, str | int] = Field({}, description="Rules for fields that engines are sent")
    notes: str
    shadow: ShadowView | None = None
    salt: str = Field(description="Decides with the unit which arm serves; no secret")
    created: int = Field(description="Since when its control is this one")
    previous: list[PreviousView] = Field(description="Former controls and until when, the newest first")


class RouteView(RouteRecordView):
    """A route as it is. Shares in basis points, times in Unix seconds."""

    rollout: str | None = Field(description="The open rollout, which decides its split")


class RoutesView(BaseModel):
    """A page of routes in the order of their aliases, and the state's version."""

    version: int = Field(description="If it is another on the next page, the state has changed between them")
    routes: list[RouteView]
    next: str | None = Field(description="`after` of the next page; null after the last")


class RouteVersionView(BaseModel):
    """A route as it was from one change to the next; `route` is null where the alias was removed."""

    number: int
    state: int = Field(description="The state's version that brought it")
    at: int
    by: str
    reason: str
    route: RouteRecordView | None


class HistoryItem(RouteVersionView):
    """A version, and what changed with it."""

    changes: list[FieldView]


class HistoryView(BaseModel):
    """Versions of a route, the newest first."""

    alias: str
    versions: list[HistoryItem]
    next: int | None = Field(description="`before` of the next page; null after the last")


class DifferenceView(BaseModel):
    """What changed between two versions of a route."""

    alias: str
    from_: int = Field(serialization_alias="from", description="0: before the first")
    to: int
    changes: list[FieldView]


class RefusalReason(BaseModel):
    """Why not."""

    model_config = ConfigDict(extra="allow")  # a later release may say more
    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field at fault, where one is")
    code: str = Field(description="Stable: programs may decide by it", examples=["conflict"])
    problems: list[str | dict[str, Any]] | None = Field(
        None, description="Of adapters, plans and routes that are refused: every problem"
    )
    reason: str | None = Field(None, description="Of recipes that are refused: a stable code")
    remedy: str | None = Field(None, description="Of recipes that are refused: what to do instead")


class RefusalView(BaseModel):
    """Why not, in OpenAI's error shape."""

    error: RefusalReason
