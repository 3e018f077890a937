"""Read the outcome of one pair for a metric.

For `kl` a pair has two numbers: an estimate and a lower bound of the divergence (`evaluators/drift/token_kl.py`). The
estimate is evidence for a candidate and is shown to operators; the lower bound is evidence against a candidate. So a
candidate fails only by drift that is certain, and passes only if its whole drift is likely to be within the limit.
"""

from collections.abc import Callable
from typing import Final

from evaluators.drift.token_kl import KL_CAP_NATS, level
from evaluators.observation import Drift, NoDrift, Outcome, Score, ScoredPair, Unscored

KL: Final = "kl"
CANDIDATE_SERVED: Final = "candidate_served"
# Reason for pairs that were stored by a release that recorded only the bound.
NO_ESTIMATE: Final = "no_estimate"
_TIMED: Final = frozenset(("ttft", "itl"))
_SHARES: Final[dict[str, Callable[[Drift], float]]] = {
    "token_flip": lambda drift: 1 - drift.top1_agreement,
    "moved_share": lambda drift: drift.moved_share,
}


def outcome_of(scored_pair: ScoredPair, metric: str) -> Outcome | None:
    """Return a pair's score for a metric or why it has none; None if the pair was not compared by that metric.

    Drift may be scored on the control's tokens, on the other version's, or on both. With both, their mean counts: each
    misses some kinds of drift, the larger of the two would be biased upwards by noise, and a mean over half a nat
    implies that at least one of them is over half a nat.

    A replayed request differs in timing from the request that the caller was served, whatever the version: it runs
    later, at lower priority than all callers, and finds its prompt in the engine's cache. In noise pairs the control is
    the served answer, so `ttft` and `itl` count only in pairs whose control was served, too.
    """
    outcome = scored_pair.scores.get(metric)
    if outcome is not None:
        if metric in _TIMED and scored_pair.served != "control":
            return Unscored(reason=CANDIDATE_SERVED, version=outcome.version)
        return outcome
    if metric == KL:
        return _kl(scored_pair, kl_estimate_of(scored_pair))
    if metric not in _SHARES:
        return None
    values = [_SHARES[metric](side) for side in sides_of(scored_pair)]
    return Score(value=sum(values) / len(values), version="") if values else _none(scored_pair)


def outcome_against(scored_pair: ScoredPair, metric: str) -> Outcome | None:
    """Return the outcome that is evidence against the other version: for `kl` the lower bound, else as `outcome_of`."""
    if metric != KL or KL in scored_pair.scores:
        return outcome_of(scored_pair, metric)
    return _kl(scored_pair, kl_bound_of(scored_pair))


def kl_estimate_of(scored_pair: ScoredPair) -> float | None:
    """Return a pair's estimated divergence in nats a token, which may be negative; None where there is none."""
    estimates = [side.kl for side in sides_of(scored_pair) if side.kl is not None]
    return sum(estimates) / len(estimates) if estimates else None


def kl_bound_of(scored_pair: ScoredPair) -> float | None:
    """Return the lower bound of a pair's divergence in nats a token; None where drift was not scored."""
    bounds = [side.kl_bound for side in sides_of(scored_pair)]
    return sum(bounds) / len(bounds) if bounds else None


def sides_of(scored_pair: ScoredPair) -> list[Drift]:
    """Return the drift on the control's tokens and on the other's, as far as scored."""
    both = (scored_pair.drift, scored_pair.drift_back)
    return [each for each in both if isinstance(each, Drift) and each.n_tokens > 0]


def share_of_cap(nats: float) -> float:
    """Return nats a token as a share of the cap, at most 1; a negative estimate stays negative."""
    return min(nats, KL_CAP_NATS) / KL_CAP_NATS


def _kl(scored_pair: ScoredPair, nats: float | None) -> Outcome | None:
    if nats is not None:
        return Score(value=level(nats), version="")
    return Unscored(reason=NO_ESTIMATE, version="") if sides_of(scored_pair) else _none(scored_pair)


def _none(scored_pair: ScoredPair) -> Unscored | None:
    sides = [side for side in (scored_pair.drift, scored_pair.drift_back) if side is not None]
    reasons = [side.reason for side in sides if isinstance(side, NoDrift)]
    return Unscored(reason=reasons[0] if reasons else "no_tokens", version="") if sides else None
