"""Prompts, the arms' answers (observations), and comparators' outcomes: immutable values.

An observation records how the answer ended; only a complete answer can be compared fairly. A missing score
is `Unscored` with its reason, never 0 or NaN.

A `ScoredPair` and what it holds are msgspec structs, because stores keep them as JSON. Names of
fields, their order and the tags are the stored format: changing one makes what is stored unreadable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec


class Ended(StrEnum):
    """How an observation ended."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"  # by a size limit of Loragate: the rest of the answer is not known
    FAILED = "failed"


class Kind(StrEnum):
    """Which versions a pair compares."""

    CANDIDATE = "candidate"  # a rollout's control, and its candidate
    BASE = "base"  # for an alias without a rollout: the frozen base as control, the alias's version as candidate
    NOISE = "noise"  # one version twice: any difference is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool: its name, and its arguments as the JSON text that the model wrote."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The content of an OpenAI or Anthropic request, in one form for all APIs.

    Attributes:
        endpoint: The path, such as `/v1/chat/completions`.
        messages: (role, text) of a conversation; empty for a plain completion.
        text: The prompt of a plain completion; None where it is token ids or a conversation.
        schema: The JSON schema that the answer must follow, if one is asked for.
        wants_json: Whether the answer must be JSON.
        tools: Names of the tools that may be called.
        expected: Text that a right answer must contain, by the caller (`metadata.expected`); None if not given.
        temperature: The requested temperature; None means the engine's default.
    """

    endpoint: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    schema: Mapping[str, Any] | None = None
    wants_json: bool = False
    tools: tuple[str, ...] = ()
    expected: str | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One arm's answer.

    Attributes:
        ended: How it ended; with `FAILED`, `error` says why in one word or status.
        text: All text of the first choice, reasoning excluded.
        tool_calls: The calls of the first choice, in order.
        finish_reason: As the engine says, such as `stop` or `length`.
        prompt_tokens, completion_tokens: As the engine counted; None where it did not say.
        prompt_ids, token_ids: The engine's own token ids; None where it did not say.
        ttft_seconds: Time to the first token; None unless it was streamed.
        itl_seconds: Mean time between tokens; None unless the answer was streamed and has at least two tokens.
        duration_seconds: Time from sending the request to the end of the answer.
    """

    ended: Ended = Ended.COMPLETE
    error: str = ""
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    ttft_seconds: float | None = None
    itl_seconds: float | None = None
    duration_seconds: float | None = None

    @property
    def tokens(self) -> int:
        """The sum of prompt and completion tokens; a count that the engine did not report is 0."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One request and two answers to it. In a pair of kind `NOISE` both are of one version.

    `control` is what the control answered and `candidate` what the other version did, whichever of
    them the caller got.
    """

    kind: Kind
    prompt: Prompt
    control: Observation
    candidate: Observation


class Score(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="score"):
    """A comparator's number.

    Attributes:
        value: In [0, 1].
        version: The comparator's; scores of two versions are not added up.
        control, candidate: Each arm's own number in [0, 1], for a comparator that looks at one answer at a
            time; then `value` is (1 + candidate - control) / 2, where 0.5 means no difference.
    """

    value: float
    version: str
    control: float | None = None
    candidate: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "control", "candidate"):
            number = getattr(self, name)
            if number is not None and not 0.0 <= number <= 1.0:  # NaN fails this too
                raise ValueError(f"{name} `{number}` of a score is not in [0, 1]")


class Unscored(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="unscored"):
    """Why a comparator has no number, in one of few words (`empty`, `no_schema`, `failed`, …)."""

    reason: str
    version: str


Outcome = Score | Unscored


# (token text, position, log p served, log p other) of tokens, the largest movers first.
Moved = tuple[tuple[str, int, float, float], ...]


class Drift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="drift"):
    """How far two arms are apart on the same tokens, in nats; see `evaluators/drift/token_kl.py`.

    Attributes:
        n_tokens: Tokens scored under both.
        log_ratio: Mean of log p(served) - log p(other) per token.
        kl: Mean over tokens of an estimate of KL(served‖other) of the two next-token distributions; may be negative.
            None of pairs that were stored before there was one.
        kl_bound: Mean over tokens of a lower bound of that divergence; never negative.
        moved_share: Share of tokens whose log-ratio exceeds 1 nat in size.
        top1_agreement: Share of tokens where both put the same token first.
        top_moved: At most five tokens, the largest movers first. Token texts are words of prompts and replies, which
            follow the route's `capture`.
        temperature: At which the tokens were drawn.
        histogram: Counts of |log-ratio| by `HISTOGRAM_BOUNDS` of token_kl.
        n_bytes: Of the reply's text in UTF-8; None where tokens and text are not known to be the same.
    """

    n_tokens: int
    log_ratio: float
    kl: float | None
    kl_bound: float
    moved_share: float
    top1_agreement: float
    top_moved: Moved = ()
    temperature: float = 1.0
    histogram: tuple[int, ...] = ()
    n_bytes: int | None = None


class NoDrift(msgspec.Struct, frozen=True, kw_only=True, tag="unscored"):
    """Why there is no drift of an answer, in one of few words (`no_tokens`, `lm_head`, `garbled`, …)."""

    reason: str
    version: str


class ScoredPair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stored result of comparing a pair; without texts of prompts and answers unless `capture` is `full`.

    Attributes:
        number: Number of the pair in the store, rising in the order of commits; 0 before it is stored.
        sample: The sample's id.
        alias, rollout, stage: Where the pair belongs; outside of a rollout, rollout is empty and stage is 0.
        kind: Which versions the pair compares.
        control, other: The versions compared, by name.
        served: The arm whose answer the caller received: `control` or `candidate`.
        session: Hash of the conversation or user that the pair belongs to, 16 hex digits.
        task: The caller's name for the kind of request; empty if none was given.
        at: When the caller's request was answered, Unix seconds.
        scored_at: When the pair was compared, Unix seconds.
        scores: Comparator's name → its outcome.
        drift: Drift on the tokens of the control's answer.
        drift_back: Drift on the tokens of the other version's answer, with served and other swapped.
        prompt_tokens, control_tokens, other_tokens: Lengths, as far as known.
        weight: 1 / the pair's chance of being judged by the costlier comparators.
    """

    number: int = 0
    sample: str
    alias: str
    rollout: str = ""
    stage: int = 0
    kind: Kind
    control: str
    other: str
    served: str = "control"
    session: str = ""
    task: str = ""
    at: float = 0.0
    scored_at: float = msgspec.field(default=0.0, name="judged_at")
    scores: Mapping[str, Outcome] = {}
    drift: Drift | NoDrift | None = None
    drift_back: Drift | NoDrift | None = None
    prompt_tokens: int | None = None
    control_tokens: int | None = None
    other_tokens: int | None = None
    weight: float = 1.0
