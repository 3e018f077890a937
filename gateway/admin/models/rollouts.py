"""Requests and replies of the admin API about rollouts and the journal, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from evaluators.judge.verdict import Verdict
from gateway.admin.models.records import CopiedView
from gateway.admin.models.routes import VERSION, RefusalView
from gateway.rollout.rollout import Phase
from gateway.rollout.simulate import Outcome

# What any of these paths may answer instead.
REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": RefusalView, "description": description}
    for status, description in (
        (400, "Malformed"),
        (404, "No such rollout, alias, version, entry or decision"),
        (409, "It does not fit the state as it is; the message says who did what"),
        (422, "Not a plan, or one that cannot be carried out: every problem at once"),
        (503, "The store is away; nothing was changed, or nobody knows yet"),
    )
}
# Kept in the journal for good.
MAX_REASON = 1_000
_REASON = Field(min_length=1, max_length=MAX_REASON, description="Why, for the journal", examples=["better tone"])
_SEQUENCE = Field(
    None, ge=1, description="`sequence` of the rollout that this is meant for; if it has moved on since: 409"
)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewRollout(_Given):
    """A version to be rolled out."""

    candidate: str = Field(
        description="Version, in full or a unique prefix", examples=["support@3f2a9c81d0e4"], json_schema_extra=VERSION
    )
    plan: str | dict[str, Any] | None = Field(
        None,
        description="One line of text, or a mapping with `steps`, `gates`, `alpha`; null: the route's own plan, "
        "else `5 % 10m → 25 % → 50 % → 100 %`",
        examples=["5 % 10m → 25 % 30m → 100 %", {"gates": ["manual"], "steps": [{"weight": "10%", "min_time": "1h"}]}],
    )
    reason: str = _REASON
    override: str | None = Field(
        None, max_length=MAX_REASON, description="Why without the audit that the plan asks for"
    )


class Command(_Given):
    """A command on a rollout."""

    reason: str = _REASON
    sequence: int | None = _SEQUENCE


class Promotion(Command):
    """Make the candidate the control."""

    early: bool = Field(False, description="Before the plan is complete, too")


class Rollback(_Given):
    """Take back what an alias has got last."""

    reason: str = _REASON
    to: str | None = Field(
        None,
        description="Version to go back to; null: the control before",
        examples=["support@9d1c44aa0b17"],
        json_schema_extra=VERSION,
    )
    sequence: int | None = _SEQUENCE


class AccountShareView(CopiedView):
    """What one account has contributed to a gate's counts."""

    account: str = Field(description="The key's account; `others`: all that are too small to be told apart")
    n: int = Field(description="Units of the candidate")
    bad: int = Field(description="Of those, how many had something bad in the sense of the gate")
    control_n: int
    control_bad: int
    units: int = Field(description="Units of both arms")


class ReadingView(CopiedView):
    """What one gate says."""

    gate: str = Field(examples=["error_rate"])
    verdict: Verdict
    reason: str = Field(examples=["error rate 0.00% ≤ control 0.00% + margin 1.00% (n=904 units, control n=17,176, …)"])
    observed: float | None = Field(description="What was measured of the candidate")
    limit: float | None = Field(description="What it is held against")
    n: int = Field(description="The candidate's units behind it; of pairs, sessions")
    e_value: float | None = Field(
        description="Evidence for the verdict (inconclusive: that it fails), valid at every look; null: none is made"
    )
    is_muted: bool = Field(description="Whether it is told and decides nothing")
    is_critical: bool = Field(description="Whether a failure rolls back at once; else it pauses")
    first: int | None = Field(description="Number of the first pair behind it; null of what is not read from pairs")
    last: int | None = Field(description="Number of the last pair behind it")
    against: list[str] = Field(description="Samples that spoke most against the candidate, the worst first")
    accounts: list[AccountShareView] = Field(
        [], description="Of a gate on live traffic: who has contributed how much, the largest first"
    )


def _finite(value: object) -> object:
    return None if value == math.inf else value  # JSON has no infinity


class RatioView(CopiedView):
    """Whether traffic is split as the weights say."""

    verdict: Verdict
    reason: str
    observed: float = Field(description="The candidate's share of the units seen")
    expected: float = Field(description="Its share by the weights")
    n: int = Field(description="Units of both arms")
    e_value: Annotated[float | None, BeforeValidator(_finite)] = Field(
        description="Evidence against the split, valid at every look; null: beyond any number"
    )
    p_value: float = Field(description="Pearson's chi-square; for one look only")


class LastView(CopiedView):
    """The last thing that happened to a rollout."""

    at: float = Field(description="Unix seconds")
    by: str = Field(description="A key's id, `local`, or `automation`")
    event: str = Field(examples=["StepPassed"])
    why: str


class RolloutSummary(BaseModel):
    """A rollout, without its figures."""

    id: str = Field(examples=["ro-5e1f09ab"])
    alias: str
    control: str = Field(description="What callers got when it began")
    candidate: str
    phase: Phase
    is_open: bool
    weight: int = Field(description="The candidate's share, in basis points")
    index: int = Field(description="Which of the plan's stages it stands in, from 0")
    stages: int = Field(description="How many stages the plan has")
    stage: int = Field(description="How many stages have been entered; a resumed one counts anew")
    sequence: int = Field(description="How many transitions there have been; send it with a command")
    reason: str
    started_by: str
    started_at: float = Field(description="Unix seconds")
    entered_at: float = Field(description="When the stage was entered, Unix seconds")
    is_complete: bool = Field(description="Whether every stage of the plan has passed")
    config_hash: str = Field(description="SHA-256 of the plan")
    last: LastView


class RolloutView(RolloutSummary):
    """A rollout, its plan and its figures."""

    home: str = Field(description="What all callers outside of the split get now")
    plan: dict[str, Any] = Field(description="In canonical form: basis points, seconds, shares")
    plan_line: str
    seconds_in_stage: float | None
    samples: int | None = Field(
        description="The candidate's requests in this stage, in shadow its pairs; null: not known"
    )
    gates: list[ReadingView] | None = Field(description="What each gate of the stage says now; null: not known")
    ratio: RatioView | None
    threshold_seconds: float | None = Field(description="Above which a request of this stage is slow")
    waits_for: list[str] = Field(description="What has to happen before it goes on")
    warnings: list[str] = Field(description="Why its gates may never be told anything")
    problem: str | None = Field(description="Why the figures are not known")


class RolloutsView(BaseModel):
    """A page of rollouts, the newest first."""

    rollouts: list[RolloutSummary]
    next: str | None = Field(description="`before` of the next page; null after the last")


class StandBefore(CopiedView):
    """What an alias served before a rollback."""

    control: str
    candidate: str | None
    weight: int = Field(description="Basis points")


class Gateways(BaseModel):
    """How many of the gateways on the store serve a change, a second after it at the latest."""

    serving: int = Field(examples=[3])
    of: int = Field(examples=[3])


class RollbackView(BaseModel):
    """What an alias serves after a rollback."""

    alias: str
    control: str
    before: StandBefore
    rollout: str | None = Field(description="The rollout that was taken back, if any")
    ready_on: list[str] = Field(description="Engines that have the version ready")
    not_ready_on: list[str] = Field(description="Engines that are up and have to load it first")
    gateways: Gateways | None = Field(description="Where it is in force; null if the store did not say")


class EntryView(CopiedView):
    """One journal entry and its place in the chain."""

    number: int
    previous: str
    hash: str
    record: dict[str, Any]


class JournalView(BaseModel):
    """Journal entries, the oldest first."""

    entries: list[EntryView]
    next: int | None = Field(description="`after` of the next page; null after the last")


class HeadView(CopiedView):
    """The newest entry."""

    number: int
    hash: str


class JournalCheck(BaseModel):
    """Whether the chain holds from end to end."""

    status: Literal["whole", "broken"]
    number: int | None = Field(description="Where it breaks")
    reason: str | None
    head: HeadView | None = Field(description="The newest entry, to be noted elsewhere; null in an empty journal")


class DecisionView(BaseModel):
    """What was decided, by whom, and what it rests on."""

    id: str
    alias: str | None
    rollout: str | None
    story: list[str] = Field(description="The same in sentences")
    entries: list[EntryView]
    replay: str | None = Field(
        description="For a rollout: whether its records, replayed, lead to the state that is stored"
    )


class StopView(CopiedView):
    """When a rollout would have stopped under the plan."""

    outcome: Outcome
    pairs: int = Field(description="Compared pairs that it would have taken")
    number: int | None = Field(description="Number of the last of them in the store; null without any")
    at: float | None = Field(description="When that was compared, Unix seconds")
    gate: str | None = Field(description="The gate that stops it, if one does")
    why: str
    gates: list[ReadingView] = Field(validation_alias=AliasChoices("gates", "readings"))


class ReplayedRollout(BaseModel):
    """A past rollout: what would have been, and what was."""

    id: str
    alias: str
    control: str
    candidate: str
    started_at: float = Field(description="Unix seconds")
    stored_pairs: int = Field(description="Pairs of it that there are still, noise included")
    simulated: StopView
    phase: Phase = Field(description="How it really stands, or ended")
    last: LastView


class SimulationView(BaseModel):
    """What a plan's gates make of past rollouts, the newest first."""

    plan: dict[str, Any] = Field(description="In canonical form")
    plan_line: str
    not_replayed: list[str] = Field(description="Gates of the plan that need live traffic or a person")
    rollouts: list[ReplayedRollout]
