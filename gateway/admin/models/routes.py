"""Requests and replies of the admin API about routes, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, TypeAdapter

from gateway.admin.models.records import AsDeclared, AsView
from gateway.records.routes import (
    MAX_ROUTES,
    JudgePolicy,
    MirrorPolicy,
    Previous,
    RouteLimits,
    RoutePolicy,
    RouteRecord,
    Shadow,
)

MAX_REASON: Final = 1_000
# The state counts from 0 by one; PostgreSQL keeps it in 64 bits.
HIGHEST_NUMBER: Final = 2**63 - 2
# Said here, and checked by `adapters.reference`, whose words are better.
ALIAS: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
VERSION: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{6,64}$"}
ALIAS_OR_VERSION: Final[dict[str, Any]] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[0-9a-f]{6,64})?$"}
_JUDGE: Final = AsDeclared(
    JudgePolicy, "JudgeDeclaration", "Which model judges pairs, at an OpenAI-compatible endpoint."
)
_MIRROR: Final = AsDeclared(
    MirrorPolicy,
    "MirrorDeclaration",
    "Which share of requests is mirrored, and what is kept of them.",
    inside=(_JUDGE,),
)
_LIMITS: Final = AsDeclared(
    RouteLimits, "LimitsDeclaration", "What the alias may be asked for, over all keys; null for no limit."
)
_ROUTE: Final = AsDeclared(
    RoutePolicy,
    "RouteDeclaration",
    "One route as it shall be. What is left out is none.",
    inside=(_MIRROR, _LIMITS),
)
# What is wrong with the values is told by `admin/routes/files.py`, all of it at once.
RouteDeclaration = Annotated[Mapping[str, Any], _ROUTE]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RoutesDeclaration(_Strict):
    """Routes as declared, such as routes.yaml holds."""

    routes: list[RouteDeclaration] = Field(max_length=MAX_ROUTES)
    prune: StrictBool | None = Field(None, description="Remove routes that are not declared; else they stay")


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


_JUDGE_VIEW: Final = AsView(
    JudgePolicy, "JudgePolicyView", "Which model judges pairs.", required=JudgePolicy.__struct_fields__
)
_MIRROR_VIEW: Final = AsView(
    MirrorPolicy,
    "MirrorView",
    "Which share of requests is mirrored, and what is kept of them.",
    required=("share", "capture"),
    inside=(_JUDGE_VIEW,),
)
_LIMITS_VIEW: Final = AsView(
    RouteLimits,
    "LimitsView",
    "What the alias may be asked for, over all keys; null for no limit.",
    required=RouteLimits.__struct_fields__,
)
_INSIDE_ROUTES: Final = (
    _MIRROR_VIEW,
    _LIMITS_VIEW,
    AsView(Shadow, "ShadowView", "What an open rollout's stage compares with control."),
    AsView(Previous, "PreviousView", "A former control."),
)
# A field that is added is optional, so that the command line understands gateways that do not have it yet.
_REQUIRED: Final = ("candidate", "weight", "unit", "mirror", "plan", "limits", "notes", "created", "previous")


class RouteInUse(RouteRecord, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route as it is, and which rollout decides its split, if any."""

    rollout: Annotated[str | None, Meta(description="The open rollout, which decides its split")]


RouteRecordView = Annotated[
    RouteRecord,
    AsView(
        RouteRecord,
        "RouteRecordView",
        "A route as it is stored. Shares in basis points, times in Unix seconds.",
        required=_REQUIRED,
        inside=_INSIDE_ROUTES,
    ),
]
RouteView = Annotated[
    RouteInUse,
    AsView(
        RouteInUse,
        "RouteView",
        "A route as it is. Shares in basis points, times in Unix seconds.",
        required=_REQUIRED,
        inside=_INSIDE_ROUTES,
    ),
]


_ONE_ROUTE: Final[TypeAdapter[RouteInUse]] = TypeAdapter(RouteView)


def read_route(answer: object) -> RouteInUse:
    """Return a route from the API's answer.

    Raises:
        ValueError: It is none.
    """
    return _ONE_ROUTE.validate_python(answer)


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
    from_: int = Field(
        validation_alias=AliasChoices("from_", "from"), serialization_alias="from", description="0: before the first"
    )
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
