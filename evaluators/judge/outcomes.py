"""What one pair says of a metric.

Of `kl` it says two things: an estimate, and what the divergence is at least (`evaluators/drift/token_kl.py`). What
speaks for a candidate, and what people are shown, is the estimate; what speaks against one is the bound. So a
candidate fails only for what is certain of its drift, and passes only if all of it is likely to be within the limit.
"""

from collections.abc import Callable
from typing import Final

from evaluators.drift.token_kl import KL_CAP_NATS, level
from evaluators.observation import Drift, NoDrift, Outcome, Score, ScoredPair, Unscored

KL: Final = "kl"
CANDIDATE_SERVED: Final = "candidate_served"
# Of a pair that was stored by a release that told the bound alone.
NO_ESTIMATE: Final = "no_estimate"
_TIMED: Final = frozenset(("ttft", "itl"))
_SHARES: Final[dict[str, Callable[[Drift], float]]] = {
    "token_flip": lambda drift: 1 - drift.top1_agreement,
    "moved_share": lambda drift: drift.moved_share,
}


def outcome_of(judged: ScoredPair, metric: str) -> Outcome | None:
    """Return what a pair says of a metric; None if nobody asked.

    Drift may be scored on the control's tokens, the other's, or both. Then the mean of both counts: each has
    its own blind spot, the greater of two would be biased upwards by noise, and a mean over half a nat says that
    one of them is.

    What an evaluator asks again takes another time than what a caller was served, whatever the version: it comes
    later, behind all callers, and finds its prompt in a cache. Noise pairs have the served answer in control's place,
    so times count only where the candidate's pairs have, too.
    """
    told = judged.scores.get(metric)
    if told is not None:
        if metric in _TIMED and judged.served != "control":
            return Unscored(reason=CANDIDATE_SERVED, version=told.version)
        return told
    if metric == KL:
        return _kl(judged, kl_estimate_of(judged))
    if metric not in _SHARES:
        return None
    values = [_SHARES[metric](side) for side in sides_of(judged)]
    return Score(value=sum(values) / len(values), version="") if values else _none(judged)


def outcome_against(judged: ScoredPair, metric: str) -> Outcome | None:
    """Return what of a pair speaks against its other version: of `kl` what it is at least, else what it says."""
    if metric != KL or KL in judged.scores:
        return outcome_of(judged, metric)
    return _kl(judged, kl_bound_of(judged))


def kl_estimate_of(judged: ScoredPair) -> float | None:
    """Return a pair's estimated divergence in nats a token, which may be negative; None where there is none."""
    known = [side.kl for side in sides_of(judged) if side.kl is not None]
    return sum(known) / len(known) if known else None


def kl_bound_of(judged: ScoredPair) -> float | None:
    """Return what a pair's divergence is at least, in nats a token; None where it was not scored."""
    known = [side.kl_bound for side in sides_of(judged)]
    return sum(known) / len(known) if known else None


def sides_of(judged: ScoredPair) -> list[Drift]:
    """Return the drift on the control's tokens and on the other's, as far as scored."""
    both = (judged.drift, judged.drift_back)
    return [each for each in both if isinstance(each, Drift) and each.n_tokens > 0]


def share_of_cap(nats: float) -> float:
    """Return nats a token as a share of what a pair counts at most; a negative estimate stays negative."""
    return min(nats, KL_CAP_NATS) / KL_CAP_NATS


def _kl(judged: ScoredPair, nats: float | None) -> Outcome | None:
    if nats is not None:
        return Score(value=level(nats), version="")
    return Unscored(reason=NO_ESTIMATE, version="") if sides_of(judged) else _none(judged)


def _none(judged: ScoredPair) -> Unscored | None:
    sides = [side for side in (judged.drift, judged.drift_back) if side is not None]
    reasons = [side.reason for side in sides if isinstance(side, NoDrift)]
    return Unscored(reason=reasons[0] if reasons else "no_tokens", version="") if sides else None
