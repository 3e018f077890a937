"""Drift by teacher forcing: compare two versions' probabilities of the same tokens, from `prompt_logprobs`.

Both versions get the same token ids, prompt and reply. In one prefill each, they report how likely every token of the
reply was. Nothing is generated and no text is tokenised again: the ids are the engine's own.

Definition of the numbers:

* Direction: `served` is the version that drew the tokens, `other` the one that did not. Swap them for the
  other direction's tokens; the two are different numbers.
* `kl_bound`: per position, a lower bound of the divergence KL(served‖other) of the two distributions of the next token
  (`divergence.lower_bound`). It is a mean over the *given* prefixes, whatever drew them, so it is a bound at every
  sampling temperature; the prefixes themselves are those of the temperature that was used. What speaks against a
  version is made of it.
* `kl`: per position, an estimate of the same divergence (`divergence.estimate`), which takes the drawn token as a
  sample of what is not told. Where tokens were drawn from `served` at temperature 1 with no top-p, top-k or penalty,
  its expectation is the divergence, and it may be negative, of a token and of a short reply. At lower temperatures the
  tail is drawn too seldom and too little of it is counted, so there a reply's estimate is no less than its
  bound (docs/drift.md has what remains). What speaks for a version is made of it, and people are shown it.
* `log_ratio`: mean of log p(served) - log p(other) of the tokens drawn. Its expectation is that of `kl`, under the same
  conditions, and it varies more. At another temperature the tokens follow the tempered distribution while both
  log-probabilities are raw, so it is not a divergence then (at 0 it is the ratio along the greedy path): it is
  reported with its temperature and not called KL, and no gate reads it.
* Log-probabilities are the model's own, before temperature and penalties: vLLM's `--logprobs-mode
  raw_logprobs`, its default. An engine started with a `processed_*` mode reports processed log-probabilities, and then
  all of these numbers have another meaning.
* Length: each number is a mean over a reply's tokens, so that a reply counts once however long it is; means
  over replies and sessions are made of these, not of tokens.
* The stop token counts where the engine told it among the reply's ids (a reply of our own replay), and does not
  where ids came from text (the caller's reply).
* `n_bytes`: of the reply's text in UTF-8, so that nats a token can be turned into bits a byte, which versions with
  other tokenizers can be compared by. Known where the tokens spell that text and nothing else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from evaluators.drift.divergence import TokenLogprobs, estimate, lower_bound
from evaluators.observation import Drift, NoDrift

VERSION: Final = "1"
# Likeliest tokens that engines are asked for: vLLM's own maximum by default (`--max-logprobs`).
TOP: Final = 20
# Beyond this a reply is as far away as a gate needs to know; 1 nat a token is already another voice.
KL_CAP_NATS: Final = 5.0
# Upper ends of the histogram's buckets, in nats; one more bucket holds the rest. Float32 noise lies in the first.
HISTOGRAM_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# A token counts as moved beyond this: one side finds it e times as likely as the other.
MOVED_NATS: Final = 1.0
MAX_MOVED: Final = 5
# Engines write -inf as -9999 (JSON has none); one impossible token shall not drown a reply.
LOWEST_NATS: Final = -100.0
# Log-probabilities a little above zero are rounding; more is no probability.
_ROUNDING: Final = 1e-3


class _Garbled(ValueError):
    """The engine's `prompt_logprobs` are malformed."""


@dataclass(frozen=True, slots=True)
class _Position:
    """The report of one version's engine for one position."""

    distribution: TokenLogprobs
    first: frozenset[int]  # the likeliest; empty where the side did not tell it
    text: str

    def logprob(self, token: int) -> float:
        return self.distribution.logprobs[token]


def drift_of(
    ids: Sequence[int],
    start: int,
    served: Sequence[Any],
    other: Sequence[Any],
    *,
    top: int = TOP,
    temperature: float | None = None,
    text: str | None = None,
) -> Drift | NoDrift:
    """Return the drift between two versions on the tokens from `start` on.

    Args:
        ids: Prompt and reply.
        start: Where the reply begins.
        served: The `prompt_logprobs` of the version that drew the reply: a list with an entry for each id, the
            first null, the others token id → `{logprob, rank, decoded_token}`.
        other: Those of the other version over the same ids.
        top: How many of the likeliest tokens both were asked for.
        temperature: At which the reply was drawn; None means the engine's default, 1.
        text: Text of the reply; None where it is not known.

    Returns:
        The drift, or why there is none: `no_tokens` (an empty reply) or `garbled` (malformed `prompt_logprobs`).
    """
    start = max(start, 1)  # nothing comes before the first token, so nothing is told of it
    if start >= len(ids):
        return NoDrift(reason="no_tokens", version=VERSION)
    try:
        if len(served) != len(ids) or len(other) != len(ids):
            raise _Garbled("not as many positions as tokens")
        positions = [
            (ids[at], _read(served[at], ids[at], top), _read(other[at], ids[at], top)) for at in range(start, len(ids))
        ]
    except (_Garbled, TypeError, ValueError, KeyError, AttributeError):
        return NoDrift(reason="garbled", version=VERSION)
    n_bytes = None if text is None else _count_bytes([served.text for _, served, _ in positions], text)
    return _summarize(positions, 1.0 if temperature is None else temperature, n_bytes)


def level(kl: float) -> float:
    """Return a divergence in nats as a level in [0, 1]."""
    return min(max(kl, 0.0), KL_CAP_NATS) / KL_CAP_NATS


def bits_per_byte(drifts: Iterable[Drift]) -> float | None:
    """Return the estimated divergence of some replies in bits for each byte of their text.

    All nats of the replies / log 2 / all of their bytes; replies whose estimate or bytes are not known are left out.
    None if none is left.
    """
    known = [each for each in drifts if each.kl is not None and each.n_bytes]
    if not known:
        return None
    nats = math.fsum((each.kl or 0.0) * each.n_tokens for each in known)
    return nats / math.log(2) / sum(each.n_bytes or 0 for each in known)


def remove_words(drift: Drift | NoDrift | None) -> Drift | NoDrift | None:
    """Return the drift without the texts of tokens, because they are words of prompts and replies."""
    if not isinstance(drift, Drift):
        return drift
    return msgspec.structs.replace(drift, top_moved=tuple(("", at, one, two) for _, at, one, two in drift.top_moved))


def _summarize(positions: Sequence[tuple[int, _Position, _Position]], temperature: float, n_bytes: int | None) -> Drift:
    n = len(positions)
    moves = [served.logprob(token) - other.logprob(token) for token, served, other in positions]
    agreements = [bool(served.first & other.first) for _, served, other in positions if served.first and other.first]
    largest = sorted(range(n), key=lambda at: (-abs(moves[at]), at))[:MAX_MOVED]
    bound = math.fsum(lower_bound(served.distribution, other.distribution) for _, served, other in positions) / n
    kl = math.fsum(estimate(served.distribution, other.distribution, token) for token, served, other in positions) / n
    return Drift(
        n_tokens=n,
        log_ratio=math.fsum(moves) / n,
        # At temperature 1 a maximum would be biased upwards; elsewhere the estimate is biased downwards.
        kl=kl if temperature == 1.0 else max(kl, bound),
        kl_bound=bound,
        moved_share=sum(abs(move) > MOVED_NATS for move in moves) / n,
        top1_agreement=sum(agreements) / len(agreements) if agreements else 1.0,
        top_moved=tuple(
            (served.text or other.text, at, served.logprob(token), other.logprob(token))
            for at in largest
            if moves[at]
            for token, served, other in [positions[at]]
        ),
        temperature=temperature,
        histogram=_histogram(moves),
        n_bytes=n_bytes,
    )


def _count_bytes(pieces: Sequence[str], text: str) -> int | None:
    """Return the number of bytes of a reply's text if its tokens spell that text; else None.

    A special token may follow, such as the stop token. Engines report parts of a character as U+FFFD, so the text after
    the first U+FFFD is not compared. White space is ignored, since some tokenizers leave out the first space.
    """
    spelt, _, unknown = "".join("".join(pieces).split()).partition("\ufffd")
    shown = "".join(text.split())
    if not shown or not (shown.startswith(spelt) if unknown else spelt.startswith(shown)):
        return None
    return len(text.encode()) if spelt else None


def _histogram(moves: Sequence[float]) -> tuple[int, ...]:
    counts = [0] * (len(HISTOGRAM_BOUNDS) + 1)
    for move in moves:
        counts[sum(abs(move) > bound for bound in HISTOGRAM_BOUNDS)] += 1
    return tuple(counts)


def _read(position: Mapping[str, Mapping[str, Any]], token: int, top: int) -> _Position:
    if len(position) > top + 1:
        raise _Garbled("more is told than was asked for")
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
    first = frozenset(each for each, logprob in logprobs.items() if logprob == most) if has_first else frozenset()
    # The likeliest `top` and the reply's token are told: where that is one more, it is none of the likeliest.
    likeliest = logprobs.keys() if len(logprobs) <= top else logprobs.keys() - {token}
    return _Position(TokenLogprobs(logprobs, frozenset(likeliest)), first, text)
