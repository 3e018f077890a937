"""Replies of the admin API about shadow evaluation, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

from pydantic import BaseModel, Field

from evaluators.observation import Kind
from gateway.admin.models.records import CopiedView
from gateway.admin.models.rollouts import ReadingView
from gateway.rollout.rollout import Phase


class FigureView(BaseModel):
    """What one comparator says over the pairs of a comparison."""

    comparator: str = Field(examples=["expected"])
    is_difference: bool = Field(description="Whether each answer has a number of its own; then 0.5 means no difference")
    n: int = Field(description="Pairs that it could score")
    sessions: int = Field(
        description="Sessions of these pairs; each counts once in all means, by the mean of its pairs"
    )
    mean: float = Field(
        description="Mean score over sessions, in [0, 1]; of `kl` and `kl_bound` nats a token, up to 5 of a pair"
    )
    low: float | None = Field(description="95 % interval of the mean at this look, of the same sessions")
    high: float | None
    control: float | None = Field(description="The control's own mean, where each answer has a number of its own")
    candidate: float | None = Field(description="The version's own mean")
    noise: float | None = Field(description="Mean where a version is compared with itself; null: not measured")
    noise_n: int
    excess: float | None = Field(description="How much more the sides differ than a version does from itself")
    unscored: dict[str, int] = Field(description="Pairs without a number, by reason")
    e_value: float | None = Field(
        description="Evidence of a difference: from control, or from noise; null: no noise to hold it against. Capped"
    )
    stands_out: bool | None = Field(
        default=None,
        description="Whether it is among the report's figures that differ for sure: at most 5 % of those that are "
        "marked are so by chance (e-BH over all figures of the report); null: no evidence either way",
    )


class MovedView(BaseModel):
    """A token whose probability moved."""

    token: str
    count: int = Field(description="Pairs where it is among the five moved most")
    log_ratio: float = Field(description="Largest log p(served) - log p(other), in nats, by size")


class DriftView(BaseModel):
    """How far the versions are apart on the same tokens."""

    n: int = Field(description="Pairs that were scored")
    n_tokens: int
    kl: float | None = Field(
        description="Mean over sessions of the estimated KL divergence, nats a token, up to 5 of a pair; null: the "
        "pairs are of a release without it"
    )
    low: float | None = Field(description="95 % interval of that mean at this look, of the same sessions")
    high: float | None
    kl_bound: float = Field(description="Mean over sessions of what the KL divergence is at least, nats a token")
    kl_bound_low: float | None = Field(description="95 % interval of that mean at this look")
    kl_bound_high: float | None
    bits_per_byte: float | None = Field(
        description="The estimate in bits for each byte of the answers' text, of all answers whose bytes are known; it "
        "compares versions with other tokenizers. Null: none is known"
    )
    noise: float | None = Field(description="`kl` of a version with itself")
    quantiles: dict[str, float] = Field(description="Of the pairs' `kl`: `p50`, `p90`, `p99`, `max`; empty without it")
    log_ratio: float = Field(description="Mean log p(served) - log p(other) a token, both answers together")
    moved_share: float = Field(description="Share of tokens that moved by more than 1 nat")
    top1_agreement: float = Field(description="Share of tokens where both put the same token first")
    bounds: list[float] = Field(description="Bounds of `histogram`, in nats")
    histogram: list[int] = Field(description="Tokens by the size of their log-ratio; one more than bounds")
    top_moved: list[MovedView] = Field(description="The tokens moved most; only where the route keeps words")
    unscored: dict[str, int]
    e_values: dict[str, float | None] = Field(description="Of `kl`, `token_flip`, `moved_share`: as a figure's")
    stands_out: dict[str, bool | None] = Field(default={}, description="Of the same: as a figure's")


class JudgeView(BaseModel):
    """What the judge says."""

    n: int
    wins: int = Field(description="The version's")
    ties: int
    losses: int
    win_ratio: float = Field(description="Mean of 1 for a win, 0.5 for a tie, 0 for a loss; weighted where sampled")
    low: float | None
    high: float | None
    noise: float | None = Field(description="Win ratio of a version against itself; a fair judge gives 0.5")
    noise_n: int
    e_value: float | None = Field(description="Evidence that it is not 0.5; null where pairs were sampled unevenly")
    stands_out: bool | None = Field(default=None, description="As a figure's")


class LengthView(BaseModel):
    """How long something was, in tokens."""

    n: int
    mean: float
    p50: float
    p90: float


class TaskView(BaseModel):
    """One kind of request, by the callers' `x-loragate-task`."""

    task: str = Field(description="Empty for requests that named none")
    n: int
    figures: list[FigureView] = Field(description="With `kl` and `kl_bound`, in nats a token")
    control_tokens: LengthView | None
    other_tokens: LengthView | None


class PointView(BaseModel):
    """One pair, for plots."""

    at: float = Field(description="When the caller was answered, Unix seconds")
    task: str
    kl: float | None


class ComparisonView(BaseModel):
    """One version against what it is compared with."""

    kind: Kind
    version: str
    control: str
    n: int
    sessions: int
    first_at: float
    last_at: float
    figures: list[FigureView]
    drift: DriftView | None = Field(description="Null: no pair was scored or tried")
    judge: JudgeView | None
    tasks: list[TaskView]
    prompt_tokens: LengthView | None
    control_tokens: LengthView | None
    other_tokens: LengthView | None
    points: list[PointView] = Field(description="In order; at most 500, evenly thinned")


class EvidenceView(CopiedView):
    """How the evidence for a gate grew."""

    gate: str
    bound: float = Field(description="1/alpha, shared out over all gates: from here on it fails")
    pass_bound: float = Field(description="1/alpha, not shared out: from here on it passes")
    sessions: list[int] = Field(description="After so many sessions")
    e_fail: list[float] = Field(description="Evidence that the limit is exceeded; capped at 1e12")
    e_pass: list[float]


class ShadowedRollout(BaseModel):
    """The alias's open rollout, else its last."""

    id: str
    candidate: str
    control: str
    phase: Phase
    is_open: bool
    stage: int
    gates: list[ReadingView] | None = Field(description="What the gates say, or said last; null: not known")
    evidence: list[EvidenceView]


class FeedbackView(BaseModel):
    """What callers said of one arm in the rollout's stage."""

    arm: str
    n: int
    bad: int


class OverTimeView(CopiedView):
    """How far one thing is from what it was when the version was accepted."""

    version: str
    what: str = Field(description="`task`, `prompt_length`, `output_length`, `refusal` or `kl`")
    n: int = Field(description="Sessions since then")
    psi: float | None = Field(description="Population stability index of the last pairs; null: too few")
    js: float | None = Field(description="Jensen-Shannon divergence, bits")
    evidence: float = Field(description="The detector's sum")
    bound: float = Field(description="Where it raises its alarm")
    run_length: float = Field(description="Sessions between two false alarms, at least, on average")
    alarm_at: float | None = Field(description="When it did, Unix seconds")
    why: str


class QueueReport(CopiedView):
    """Samples in the store, of all aliases."""

    pending: int
    claimed: int
    failed: int
    oldest_seconds: float


class ShadowReport(BaseModel):
    """Everything that shadow evaluation knows of an alias."""

    alias: str
    at: float = Field(description="Unix seconds")
    since: float = Field(description="Pairs judged from then on are in it")
    pairs: int
    is_cut: bool = Field(description="Whether older pairs of this time were left out")
    comparisons: list[ComparisonView]
    rollout: ShadowedRollout | None
    feedback: list[FeedbackView]
    over_time: list[OverTimeView] = Field(description="Known to the leading gateway alone; empty elsewhere")
    queue: QueueReport
    mirror: dict[str, int] = Field(description="What this gateway's mirror did since it started: by outcome and reason")
    calibration: list[str] = Field(description="How fit evaluators find the alias's judge, on noise pairs")
    shed: dict[str, int] = Field(description="What evaluators left alone, by reason, all aliases")
    failed: dict[str, int] = Field(description="What could not be compared, by reason, all aliases")
    spent_tokens: int | None = Field(description="Tokens that the alias's replays cost in the last hour")


class ShadowSummary(BaseModel):
    """One comparison, in a line."""

    alias: str
    version: str
    control: str
    kind: Kind
    n: int
    kl: float | None
    kl_noise: float | None
    last_at: float


class ShadowsView(BaseModel):
    """What is compared now."""

    shadows: list[ShadowSummary]
    queue: QueueReport
