"""Records of a route, its policies and its versions: each field with its type, notation and description.

Files, the API's description, the store and answers are all derived from these records. A field that people write has
a `Declared` note; its description in answers is its `Meta`.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.decide.assign import DEFAULT_SOURCES, SOURCES, TOTAL_WEIGHT, Split, check_sources
from gateway.decide.engine_fields import check_rules
from gateway.decide.sample import DEFAULT_NOISE_SHARE
from gateway.records.declared import Declared

# Bounded because every worker receives the whole route table with every change.
MAX_ROUTES: Final = 10_000
MAX_NOTES: Final = 10_000
MAX_RUBRIC: Final = 10_000
# The number of former controls that an alias remembers; a rollback reaches back no further.
MAX_HISTORY: Final = 100
_ALIAS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{6,64}")
_URL: Final = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]{1,255}(?:/[A-Za-z0-9._~/%-]{0,255})?")
_MODEL: Final = re.compile(r"[^\s\x00-\x1f]{1,200}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_COMPARATOR: Final = re.compile(r"(?:score:)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
Capture = Literal["full", "metrics_only", "off"]


def check_limit(owner: str, name: str, value: int | None) -> None:
    """Refuse a limit below 1.

    Raises:
        ValueError: The limit is below 1; None means no limit.
    """
    if value is not None and value < 1:
        raise ValueError(f"{owner} has {name} `{value}`; give at least 1, or leave it out for no limit")


def _check_share(what: str, value: int) -> None:
    if not 0 <= value <= TOTAL_WEIGHT:
        raise ValueError(f"the {what} share `{value}` is not in 0..{TOTAL_WEIGHT} basis points")


class Previous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that was an alias's control, and until when (Unix seconds)."""

    version: str
    until: int


class JudgePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model judges pairs of an alias.

    Attributes:
        url: The URL of an OpenAI-compatible endpoint with `/v1`; it may be that of a gateway.
        model: The name to ask for there.
        key_env: The environment variable that holds the evaluator's key for it; empty for none.
        rubric: What a good answer is, in words; empty for the built-in one.
        share: Basis points of the pairs that are judged.
        pairs_per_hour: The most pairs to judge in an hour; None for no limit.
    """

    url: Annotated[
        str,
        Declared(
            kind="url",
            pattern=_URL,
            example="a URL such as https://HOST/v1, without a user and a query",
            examples=("http://127.0.0.1:8080/v1",),
            words="",
        ),
    ]
    model: Annotated[str, Declared(kind="match", pattern=_MODEL, example="a model's name", words="")]
    key_env: Annotated[
        str,
        Declared(
            kind="match",
            pattern=_VARIABLE,
            example="an environment variable's name",
            about="The evaluator's environment variable with the key",
            words="",
        ),
    ] = ""
    rubric: Annotated[
        str, Declared(kind="text", longest=MAX_RUBRIC, about="What a good answer is, in words", words="")
    ] = ""
    share: Annotated[
        int,
        Meta(description="Basis points of the pairs"),
        Declared(kind="share", about="Of the pairs, as `20%`, or whole basis points"),
    ] = TOTAL_WEIGHT
    pairs_per_hour: Annotated[int | None, Declared(kind="limit", words="{} pairs/h")] = None

    def __post_init__(self) -> None:
        _check_share("judged", self.share)
        check_limit("a judge", "pairs_per_hour", self.pairs_per_hour)


class MirrorPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of an alias's requests that is copied for evaluators, and how the copies are treated.

    Attributes:
        share: Basis points of the requests.
        capture: Where texts are kept: `full` in the store until they expire, `metrics_only` only in this gateway's
            memory; `off` copies no request, not even for a rollout.
        noise_share: Basis points of the copies that are compared with the same version again; in a rollout's stage
            see `gateway/decide/sample.py`.
        tokens_per_hour: The tokens that evaluators may spend on the alias in an hour; None for no limit.
        retention_seconds: How long the store keeps copies; 0 keeps them until they are judged, None uses the setting.
        redact: Names of redactors, applied before anything is stored; `gateway/mirror/redact.py`.
        judge: Which model judges pairs; None for none.
        comparators: Names of the comparators to run; None for all.
    """

    share: Annotated[
        int,
        Meta(description="Basis points"),
        Declared(
            kind="share",
            about="As `2%`, or whole basis points",
            examples=("2%",),
            missing="say which share of requests, such as 2%",
            is_always_written=True,
        ),
    ] = 0
    capture: Annotated[Capture, Declared(kind="choice", is_always_written=True)] = "full"
    noise_share: Annotated[
        int,
        Meta(description="Basis points of the copies; of those in a rollout see `shadow`"),
        Declared(
            kind="share",
            about="Of the copies, how many are compared with the same version again; a rollout's stage has as many as "
            "its gates and the route's judge read",
            examples=("10%",),
            words="noise {}",
        ),
    ] = DEFAULT_NOISE_SHARE
    tokens_per_hour: Annotated[
        int | None, Declared(kind="limit", about="What evaluators may spend in an hour", words="{} tokens/h")
    ] = None
    retention_seconds: Annotated[
        int | None,
        Declared(
            kind="time",
            key="retention",
            about="How long texts are kept, as `7d` or seconds; 0: until they were judged",
            examples=("7d",),
            words="kept {}",
        ),
    ] = None
    redact: Annotated[
        tuple[str, ...],
        Declared(
            kind="names",
            example="[email, phone]",
            about="Redactors, applied before anything is stored",
            examples=(["email", "phone"],),
            longest=40,
            words="without {}",
        ),
    ] = ()
    judge: Annotated[
        JudgePolicy | None, Declared(kind="policy", example="{url: http://127.0.0.1:8080/v1, model: base}")
    ] = None
    comparators: Annotated[
        tuple[str, ...] | None,
        Declared(
            kind="names",
            example="[exact, chrf]",
            pattern=_COMPARATOR,
            about="Comparators that are run; all if left out",
            words="by {}",
            no_names="no comparator",
        ),
    ] = None

    def __post_init__(self) -> None:
        _check_share("mirrored", self.share)
        _check_share("noise", self.noise_share)
        check_limit("a mirror", "tokens_per_hour", self.tokens_per_hour)
        if self.retention_seconds is not None and self.retention_seconds < 0:
            raise ValueError(f"a mirror has retention_seconds `{self.retention_seconds}`; give 0 or more")


class Shadow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The comparison that a rollout's stage needs: this candidate with control."""

    candidate: str
    share: Annotated[int, Meta(description="Basis points of the requests")]
    needs_noise: Annotated[bool, Meta(description="Whether one of its gates is held against noise pairs")] = False

    def __post_init__(self) -> None:
        _check_share("shadowed", self.share)


class RouteLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of an alias over all keys; None where there is no limit."""

    requests_per_minute: Annotated[int | None, Declared(kind="limit", examples=(600,), words="{} requests/min")] = None
    tokens_per_minute: Annotated[int | None, Declared(kind="limit", examples=(100_000,), words="{} tokens/min")] = None
    max_in_flight: Annotated[int | None, Declared(kind="limit", examples=(50,), words="{} in flight")] = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_limit("a route", name, getattr(self, name))


class RoutePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declared route of one alias: its split, with the weight in basis points, and the policies for its requests.

    `unit` lists where to look for the unit of assignment; the first one found is used. `plan` is the plan of the next
    rollout, as `plan.canonical` writes it.
    """

    alias: Annotated[
        str,
        Declared(
            kind="alias",
            pattern=_ALIAS,
            about="The name that clients send as `model`",
            examples=("support",),
            missing="it is the name that clients send as `model`",
        ),
    ]
    control: Annotated[
        str,
        Declared(
            kind="version",
            pattern=_VERSION,
            about="The version that callers get, in full or a unique prefix",
            examples=("support@3f2a9c81d0e4",),
            missing="every route has a control",
        ),
    ]
    candidate: Annotated[
        str | None, Declared(kind="version", about="The version on trial", examples=("support@9b11c0de77aa",))
    ] = None
    weight: Annotated[
        int,
        Declared(
            kind="share", about="The candidate's share of units, as `5%`, or whole basis points", examples=("5%",)
        ),
    ] = 0
    unit: Annotated[
        tuple[str, ...],
        Declared(
            kind="sources",
            about=f"Where the unit is looked for, first found first used: {', '.join(SOURCES)}, `header:NAME`, "
            "`body:PATH`; after `trusted:` only of keys above the role `app`",
            examples=(["header", "user", "key"],),
        ),
    ] = DEFAULT_SOURCES
    mirror: Annotated[MirrorPolicy | None, Declared(kind="policy", example="{share: 2%, capture: metrics_only}")] = None
    plan: Annotated[
        dict[str, Any] | None,
        Meta(description="In canonical form: basis points, seconds, shares"),
        Declared(
            kind="plan",
            about="What the next rollout does: one line, or steps with gates",
            examples=("1% 10m → 5% → 25% → 100%",),
        ),
    ] = None
    limits: Annotated[
        RouteLimits | None, Declared(kind="policy", example="{requests_per_minute: 600, max_in_flight: 50}")
    ] = None
    engine_fields: Annotated[
        dict[str, str | int],
        Meta(description="Rules for fields that engines are sent"),
        Declared(
            kind="field_rules",
            about="Rules for fields that engines are sent: `allow`, `deny` or the largest number",
            examples=({"media_urls": "allow"},),
        ),
    ] = {}
    notes: Annotated[
        str, Declared(kind="text", longest=MAX_NOTES, about=f"A remark, at most {MAX_NOTES} characters")
    ] = ""


class RouteRecord(RoutePolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stored route of one alias: the declared policy, and values that the gateway adds.

    People declare `mirror`. A rollout's stage that needs pairs sets `shadow`; then the candidate and share of `shadow`
    are used together with the other fields of `mirror`.
    """

    shadow: Shadow | None = None
    salt: Annotated[str, Meta(description="Decides with the unit which arm serves; no secret")]
    created: Annotated[int, Meta(description="Since when its control is this one")] = 0
    previous: Annotated[tuple[Previous, ...], Meta(description="Former controls and until when, the newest first")] = ()

    def __post_init__(self) -> None:
        Split(self.control, self.candidate, self.weight)  # raises ValueError if requests cannot be assigned by it
        check_sources(self.unit)
        check_rules(self.engine_fields)

    def with_control(self, version: str, now: int) -> "RouteRecord":
        """Return the route with all its traffic on `version`; its present control is added to `previous`."""
        previous = tuple(each for each in self.previous if each.version not in (version, self.control))
        if self.control and self.control != version:
            previous = (Previous(version=self.control, until=now), *previous)
        return msgspec.structs.replace(
            self,
            control=version,
            candidate=None,
            weight=0,
            created=now,
            previous=previous[:MAX_HISTORY],
            shadow=None,
        )


class RouteVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a route, from the change that made it to the next.

    `number` counts an alias's versions from 1. `state` is the version of the whole state that introduced it, `at` the
    time in Unix seconds. `route` is None if the change removed the alias.
    """

    alias: str
    number: int
    state: int
    at: int
    route: RouteRecord | None
    by: str = ""
    reason: str = ""
