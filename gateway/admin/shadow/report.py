"""Make a report of compared pairs: how each version differs, by comparator and by task, with the noise beside it.

Pure: `api.py` reads the store and the clock. Means, intervals and e-values are computed from the same session means
(`intervals.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from evaluators.drift.token_kl import HISTOGRAM_BOUNDS, KL_CAP_NATS, bits_per_byte
from evaluators.judge.outcomes import kl_estimate_of, outcome_of, sides_of
from evaluators.observation import Drift, Kind, NoDrift, Score, ScoredPair, Unscored
from gateway.admin.models.shadow import (
    ComparisonView,
    DriftView,
    FigureView,
    JudgeView,
    LengthView,
    MovedView,
    PointView,
    TaskView,
)
from gateway.admin.shadow.discoveries import mark
from gateway.admin.shadow.intervals import Estimate, e_against, e_against_noise, estimate_of
from gateway.admin.shadow.windows import LEVELS, excess_over, figures_of

T = TypeVar("T")
# Enough for a plot that is 800 points wide.
MAX_POINTS: Final = 500
MAX_MOVED: Final = 5
BOUND: Final = "kl_bound"
# Callers name their tasks, so there may be any number; the report shows those with the most pairs.
MAX_TASKS: Final = 20
# Scores above or below these count as a win or a loss. A judge's verdict is 0, 0.5 or 1; a mean of several may lie
# between.
_WIN, _LOSS = 0.75, 0.25


def comparisons_of(pairs: Sequence[ScoredPair]) -> list[ComparisonView]:
    """Return a view of each comparison in `pairs`, candidates first, with the noise that it is held against.

    Figures that stand out among all of the comparisons are marked.
    """
    groups: dict[tuple[Kind, str, str], list[ScoredPair]] = defaultdict(list)
    for each in pairs:
        groups[each.kind, each.other, each.control].append(each)
    noise = {version: group for (kind, version, _), group in groups.items() if kind is Kind.NOISE}
    order = {Kind.CANDIDATE: 0, Kind.BASE: 1, Kind.NOISE: 2}
    views = [
        _comparison(kind, version, control, group, () if kind is Kind.NOISE else _noise(noise, version, control))
        for (kind, version, control), group in sorted(
            groups.items(), key=lambda item: (order[item[0][0]], -item[1][-1].scored_at)
        )
    ]
    mark(views)
    return views


def _noise(noise: Mapping[str, Sequence[ScoredPair]], version: str, control: str) -> Sequence[ScoredPair]:
    """Return the noise pairs to hold a comparison against: those of the control, else those of the version."""
    return noise.get(control) or noise.get(version) or ()


def _comparison(
    kind: Kind, version: str, control: str, pairs: Sequence[ScoredPair], noise: Sequence[ScoredPair]
) -> ComparisonView:
    return ComparisonView(
        kind=kind,
        version=version,
        control=control,
        n=len(pairs),
        sessions=len({_session(each) for each in pairs}),
        first_at=min(each.at for each in pairs),
        last_at=max(each.at for each in pairs),
        figures=figures(pairs, noise, with_levels=False),
        drift=drift(pairs, noise),
        judge=judge(pairs, noise),
        tasks=tasks(pairs, noise),
        prompt_tokens=lengths(each.prompt_tokens for each in pairs),
        control_tokens=lengths(each.control_tokens for each in pairs),
        other_tokens=lengths(each.other_tokens for each in pairs),
        points=[PointView(at=each.at, task=each.task, kl=kl_estimate_of(each)) for each in thin(pairs, MAX_POINTS)],
    )


def _session(scored_pair: ScoredPair) -> str:
    return scored_pair.session or scored_pair.sample


def figures(pairs: Sequence[ScoredPair], noise: Sequence[ScoredPair], *, with_levels: bool) -> list[FigureView]:
    """Return the figures of each comparator; `with_levels`: also `kl`, `kl_bound`, `token_flip` and `moved_share`."""
    mine, theirs = estimates(pairs), estimates(noise)
    floors = {name: estimate.mean for name, (_, estimate) in theirs.items()}
    excess = excess_over({name: estimate.mean for name, (_, estimate) in mine.items()}, floors)
    unscored = _count_unscored(pairs)
    views = []
    for name, (n, estimate) in sorted(mine.items()):
        if name == "judge" or (name in LEVELS and not with_levels):
            continue
        control, candidate = _arms(pairs, name)
        low, high = estimate.interval()
        floor_n, floor = theirs.get(name, (0, None))
        views.append(
            FigureView(
                comparator=name,
                is_difference=control is not None,
                n=n,
                sessions=estimate.evidence.n,
                mean=estimate.mean,
                low=low,
                high=high,
                control=control,
                candidate=candidate,
                noise=floors.get(name),
                noise_n=floor_n,
                excess=excess.get(name),
                unscored=unscored.get(name, {}),
                e_value=_e_value(name, estimate, floor, is_difference=control is not None),
            )
        )
    return views


def estimates(pairs: Iterable[ScoredPair]) -> dict[str, tuple[int, Estimate]]:
    """Return comparator → the number of pairs that it scored, and the estimate of its mean."""
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for each in pairs:
        for name, value in figures_of(each):
            found[name].append((_session(each), value))
    return {
        name: (len(values), estimate_of(values, largest=KL_CAP_NATS if name in ("kl", BOUND) else 1.0))
        for name, values in found.items()
    }


def _e_value(name: str, estimate: Estimate, noise: Estimate | None, *, is_difference: bool) -> float | None:
    """Return the e-value of a difference between the version and its control.

    A comparator that scores each answer (`is_difference`) is tested against the value of no difference, 0.5; one that
    has a single number for the pair is tested against the noise. None for `kl_bound`, since one lower bound above
    another proves nothing, and where there is no noise.
    """
    if name == BOUND:
        return None
    if is_difference:
        return e_against(estimate, 0.5)
    return None if noise is None else e_against_noise(estimate, noise)


def _arms(pairs: Iterable[ScoredPair], name: str) -> tuple[float | None, float | None]:
    """Return the means over sessions of control and candidate, for a comparator that scores each answer; else None."""
    own = [
        (_session(each), score.control, score.candidate or 0.0)
        for each in pairs
        if isinstance(score := each.scores.get(name), Score) and score.control is not None
    ]
    if not own:
        return None, None
    control = estimate_of((session, value) for session, value, _ in own)
    return control.mean, estimate_of((session, value) for session, _, value in own).mean


def _count_unscored(pairs: Iterable[ScoredPair]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in pairs:
        for name in each.scores:
            if isinstance(outcome := outcome_of(each, name), Unscored):
                counts[name][outcome.reason] += 1
    return {name: dict(by_reason) for name, by_reason in counts.items()}


def drift(pairs: Sequence[ScoredPair], noise: Sequence[ScoredPair]) -> DriftView | None:
    """Return the divergence of the two versions on the tokens of both answers; None if no pair has one."""
    rising = sorted(value for each in pairs if (value := kl_estimate_of(each)) is not None)
    mine, theirs = estimates(pairs), estimates(noise)
    if BOUND not in mine:
        return None
    failed = Counter(each.drift.reason for each in pairs if isinstance(each.drift, NoDrift))
    sides = [side for each in pairs for side in sides_of(each)]
    levels = {name: mine[name][1] for name in LEVELS if name in mine}
    floors = {name: theirs[name][1] if name in theirs else None for name in levels}
    kl, bound, floor = levels.get("kl"), levels[BOUND], floors.get("kl")
    low, high = (None, None) if kl is None else kl.interval()
    bound_low, bound_high = bound.interval()
    return DriftView(
        n=mine[BOUND][0],
        n_tokens=sum(each.n_tokens for each in sides),
        kl=None if kl is None else kl.mean,
        low=low,
        high=high,
        kl_bound=bound.mean,
        kl_bound_low=bound_low,
        kl_bound_high=bound_high,
        bits_per_byte=bits_per_byte(sides),
        noise=None if floor is None else floor.mean,
        quantiles={
            "p50": quantile(rising, 0.5),
            "p90": quantile(rising, 0.9),
            "p99": quantile(rising, 0.99),
            "max": rising[-1],
        }
        if rising
        else {},
        log_ratio=mean(each.log_ratio for each in sides),
        moved_share=levels["moved_share"].mean,
        top1_agreement=1.0 - levels["token_flip"].mean,
        bounds=list(HISTOGRAM_BOUNDS),
        histogram=_histogram(sides),
        top_moved=_largest_moves(sides),
        unscored=dict(failed),
        e_values={name: _e_value(name, levels[name], floors[name], is_difference=False) for name in levels},
    )


def mean_kl(pairs: Iterable[ScoredPair]) -> float | None:
    """Return the mean KL estimate over sessions, in nats a token, each pair's capped at 5; None if no pair has one."""
    found = [(_session(each), value) for each in pairs if (value := kl_estimate_of(each)) is not None]
    return estimate_of(found, largest=KL_CAP_NATS).mean if found else None


def _histogram(drifts: Iterable[Drift]) -> list[int]:
    total = [0] * (len(HISTOGRAM_BOUNDS) + 1)
    for each in drifts:
        if len(each.histogram) == len(total):  # else another release wrote it, with other bounds
            total = [mine + theirs for mine, theirs in zip(total, each.histogram, strict=True)]
    return total


def _largest_moves(drifts: Iterable[Drift]) -> list[MovedView]:
    """Return the tokens whose probability moved most, each once; none if the route does not store words."""
    largest: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for each in drifts:
        for token, _, served, other in each.top_moved:
            if token:
                counts[token] += 1
                if abs(served - other) > abs(largest.get(token, 0.0)):
                    largest[token] = served - other
    most = sorted(largest, key=lambda token: (-abs(largest[token]), token))[:MAX_MOVED]
    return [MovedView(token=token, count=counts[token], log_ratio=largest[token]) for token in most]


def judge(pairs: Sequence[ScoredPair], noise: Sequence[ScoredPair]) -> JudgeView | None:
    """Return the judge's wins, losses and win ratio; None if it has judged no pair."""
    found = [(each, score) for each in pairs if isinstance(score := each.scores.get("judge"), Score)]
    if not found:
        return None
    values = [score.value for _, score in found]
    weights = [each.weight for each, _ in found]
    fair = [(_session(each), score.value) for each in noise if isinstance(score := each.scores.get("judge"), Score)]
    is_sampled = any(weight != 1.0 for weight in weights)
    estimate = estimate_of((_session(each), score.value) for each, score in found)
    # If pairs were drawn with unequal weights, the unweighted mean estimates another quantity, so it has no interval
    # and no e-value here.
    low, high = (None, None) if is_sampled else estimate.interval()
    weighed = sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
    return JudgeView(
        n=len(values),
        wins=sum(value > _WIN for value in values),
        losses=sum(value < _LOSS for value in values),
        ties=sum(_LOSS <= value <= _WIN for value in values),
        win_ratio=weighed if is_sampled else estimate.mean,
        low=low,
        high=high,
        noise=estimate_of(fair).mean if fair else None,
        noise_n=len(fair),
        e_value=None if is_sampled else e_against(estimate, 0.5),
    )


def tasks(pairs: Sequence[ScoredPair], noise: Sequence[ScoredPair]) -> list[TaskView]:
    """Return the figures of each task, those with the most pairs first."""
    by_task, noise_by_task = group_by(pairs, lambda each: each.task), group_by(noise, lambda each: each.task)
    largest = sorted(by_task.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_TASKS]
    return [
        TaskView(
            task=task,
            n=len(group),
            figures=figures(group, noise_by_task.get(task, ()), with_levels=True),
            control_tokens=lengths(each.control_tokens for each in group),
            other_tokens=lengths(each.other_tokens for each in group),
        )
        for task, group in largest
    ]


def group_by(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Return key → its items, in order."""
    groups: dict[str, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return groups


def lengths(counts: Iterable[int | None]) -> LengthView | None:
    """Return the distribution of lengths in tokens; None if none is known."""
    rising = sorted(count for count in counts if count is not None)
    if not rising:
        return None
    return LengthView(n=len(rising), mean=mean(rising), p50=quantile(rising, 0.5), p90=quantile(rising, 0.9))


def mean(values: Iterable[float]) -> float:
    """Return the mean of at least one value."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def quantile(rising: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of at least one rising value do not exceed."""
    return float(rising[min(len(rising) - 1, max(0, -int(-share * len(rising) // 1) - 1))])


def thin(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` of `items`, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[at * (len(items) - 1) // (most - 1)] for at in range(most)]
