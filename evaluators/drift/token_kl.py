"""Drift by teacher forcing: what two versions make of the same tokens, from an engine's `prompt_logprobs`.

Both versions are given the same ids, prompt and reply, and tell in one prefill each how likely every token
of the reply was. Nothing is generated and no text is turned into tokens again: the ids are the engine's own.

What is estimated, precisely:

* Direction: `served` is the version that drew the tokens, `other` the one that did not. Swap them for the
  other direction's tokens; the two are different numbers.
* `kl`: per position, the divergence KL(served‖other) of the two distributions of the next token, coarsened to
  the tokens that *both* sides tell and one bucket for the rest. Coarsening can only lose divergence (the
  data-processing inequality), so this is a lower bound, and it is never negative. It is a mean over the
  *given* prefixes, whatever drew them, so it means the same at every sampling temperature; the prefixes
  themselves are those of the temperature that was used.
* `log_ratio`: mean of log p(served) - log p(other) of the tokens drawn. Where they were drawn from `served` at
  temperature 1 with no top-p, top-k or penalty, its expectation is KL(served‖other) per token. At another
  temperature the tokens follow the tempered distribution while both log-probabilities are raw, so it is
  not a divergence then (at 0 it is the ratio along the greedy path, and may be negative): it is
  reported with its temperature and not called KL, and no gate reads it.
* Log-probabilities are the model's own, before temperature and penalties: vLLM's `--logprobs-mode
  raw_logprobs`, its default. An engine started with a `processed_*` mode tells others, and then both mean
  something else.
* Length: each number is a mean over a reply's tokens, so that a reply counts once however long it is; means
  over replies and sessions are made of these, not of tokens.
* The stop token counts where the engine told it among the reply's ids (a reply of our own replay), and does not
  where ids came from text (the caller's reply).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from evaluators.observation import Drift, Unscored

VERSION: Final = "1"
# Beyond this a reply is as far away as a gate needs to know; 1 nat a token is already another voice.
KL_CAP_NATS: Final = 5.0
# Upper ends of the histogram's buckets, in nats; one more bucket holds the rest. Float32 noise lies in the first.
HISTOGRAM_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# A token counts as moved beyond this: one side finds it e times as likely as the other.
MOVED_NATS: Final = 1.0
MOST_MOVED: Final = 5
# Engines write -inf as -9999 (JSON has none); one impossible token shall not drown a reply.
LOWEST_NATS: Final = -100.0
# Float32 sums of probabilities are right to about this, so a smaller rest is not known.
SMALLEST_REST: Final = 1e-6
# Log-probabilities a little above zero are rounding; more is no probability.
_ROUNDING: Final = 1e-3


class _Garbled(ValueError):
    """What the engine told is not what it must be."""


@dataclass(frozen=True, slots=True)
class _Told:
    """One position as one side tells it."""

    logprobs: Mapping[int, float]
    top: frozenset[int]  # the likeliest; empty where the side did not tell it
    text: str


def drift_of(
    ids: Sequence[int], start: int, served: Sequence[Any], other: Sequence[Any], *, temperature: float | None = None
) -> Drift | Unscored:
    """Compare what two versions tell of the tokens from `start` on.

    Args:
        ids: Prompt and reply.
        start: Where the reply begins.
        served: The `prompt_logprobs` of the version that drew the reply: a list with an entry for each id, the
            first null, the others token id → `{logprob, rank, decoded_token}`.
        other: Those of the other version over the same ids.
        temperature: At which the reply was drawn; None means the engine's default, 1.

    Returns:
        The drift, or why there is none: `no_tokens` (an empty reply) or `garbled` (the engine told nonsense).
    """
    start = max(start, 1)  # nothing comes before the first token, so nothing is told of it
    if start >= len(ids):
        return Unscored(reason="no_tokens", version=VERSION)
    try:
        if len(served) != len(ids) or len(other) != len(ids):
            raise _Garbled("not as many positions as tokens")
        told = [
            (ids[at], _read(served[at], ids[at]), _read(other[at], ids[at])) for at in range(start, len(ids))
        ]  # fmt: skip
    except (_Garbled, TypeError, ValueError, KeyError, AttributeError):
        return Unscored(reason="garbled", version=VERSION)
    return _summed(told, 1.0 if temperature is None else temperature)


def level(kl: float) -> float:
    """Return a divergence in nats as a level in [0, 1]."""
    return min(kl, KL_CAP_NATS) / KL_CAP_NATS


def without_words(drift: Drift | Unscored | None) -> Drift | Unscored | None:
    """Return the same without the texts of tokens, which are words of prompts and replies."""
    if not isinstance(drift, Drift):
        return drift
    return replace(drift, top_moved=tuple(("", at, one, two) for _, at, one, two in drift.top_moved))


def _summed(told: Sequence[tuple[int, _Told, _Told]], temperature: float) -> Drift:
    moves = [served.logprobs[token] - other.logprobs[token] for token, served, other in told]
    agreements = [bool(served.top & other.top) for _, served, other in told if served.top and other.top]
    largest = sorted(range(len(told)), key=lambda at: (-abs(moves[at]), at))[:MOST_MOVED]
    return Drift(
        n_tokens=len(told),
        log_ratio=math.fsum(moves) / len(told),
        kl=math.fsum(coarse_kl(served.logprobs, other.logprobs) for _, served, other in told) / len(told),
        moved_share=sum(abs(move) > MOVED_NATS for move in moves) / len(told),
        top1_agreement=sum(agreements) / len(agreements) if agreements else 1.0,
        top_moved=tuple(
            (served.text or other.text, at, served.logprobs[token], other.logprobs[token])
            for at in largest if moves[at]
            for token, served, other in [told[at]]
        ),
        temperature=temperature,
        histogram=_histogram(moves),
    )  # fmt: skip


def coarse_kl(served: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Return KL(served‖other) in nats of two distributions of which only some log-probabilities are told.

    Tokens that one side does not tell are in both sides' rest; 0 where no token is told by both.
    """
    both = served.keys() & other.keys()
    parts: list[float] = []
    rest_served = rest_other = 1.0
    for token in both:
        p = math.exp(served[token])
        parts.append(p * (served[token] - other[token]))
        rest_served -= p
        rest_other -= math.exp(other[token])
    if rest_served > SMALLEST_REST:
        parts.append(rest_served * math.log(rest_served / max(rest_other, SMALLEST_REST)))
    return max(0.0, math.fsum(parts))


def _histogram(moves: Sequence[float]) -> tuple[int, ...]:
    counts = [0] * (len(HISTOGRAM_BOUNDS) + 1)
    for move in moves:
        counts[sum(abs(move) > bound for bound in HISTOGRAM_BOUNDS)] += 1
    return tuple(counts)


def _read(position: Mapping[str, Mapping[str, Any]], token: int) -> _Told:
    logprobs: dict[int, float] = {}
    text = ""
    has_first = len(position) > 1  # more than the reply's token: then the likeliest are among them
    for key, entry in position.items():
        each = int(key)
        if entry["logprob"] is None:  # NaN, which JSON has not
            raise _Garbled("a log-probability is no number")
        logprob = float(entry["logprob"])
        if not logprob <= _ROUNDING:  # NaN fails this too
            raise _Garbled("a log-probability is above zero")
        logprobs[each] = min(0.0, max(logprob, LOWEST_NATS))
        has_first = has_first or entry.get("rank") == 1
        if each == token:
            text = str(entry.get("decoded_token") or "")
    if token not in logprobs:
        raise _Garbled("the token itself is missing")
    most = max(logprobs.values())
    top = frozenset(each for each, logprob in logprobs.items() if logprob == most) if has_first else frozenset()
    return _Told(logprobs, top, text)
