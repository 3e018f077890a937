"""The admin API's paths for shadow evaluation: the list of comparisons, and the report of one alias."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from fastapi import Path as InPath

from evaluators.judge.outcomes import kl_estimate_of
from evaluators.observation import Kind, ScoredPair
from gateway.admin.models.records import view_of
from gateway.admin.models.rollouts import REFUSALS
from gateway.admin.models.shadow import (
    ComparisonView,
    FeedbackView,
    OverTimeView,
    QueueReport,
    ShadowedRollout,
    ShadowReport,
    ShadowSummary,
    ShadowsView,
)
from gateway.admin.operations import Operations
from gateway.admin.rollouts.operations import UnknownRollout
from gateway.admin.routes.operations import UnknownRoute, is_name
from gateway.admin.shadow.metrics_collector import calibrations, queue_view, sum_by_reason
from gateway.admin.shadow.report import comparisons_of, mean_kl
from gateway.observe.mirror_counts import MirrorCounts
from gateway.rollout.gates.evidence_curve import EvidenceCurve, trace_evidence
from gateway.rollout.record import RolloutRecord
from gateway.store.evaluators import Evaluators
from gateway.store.feedback import Feedbacks
from gateway.store.pairs import PAGE, Pairs
from gateway.store.samples import Depth, Samples

# The pairs of a report, the newest: more would hardly change its figures, and these take about a second to read.
MAX_PAIRS: Final = 5_000
# The pages that are read to recompute a rollout's evidence: a hundred thousand pairs, which take some seconds.
MAX_PAGES: Final = 100
DAY_SECONDS: Final = 86_400
# Pairs count up to this long after a rollout's end, for requests that were under way then.
_LATE_SECONDS: Final = 3_600.0
YEAR_SECONDS: Final = 366 * DAY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """The values that a report needs from the store."""

    pairs: int
    comparisons: list[ComparisonView]
    depth: Depth
    alive: Mapping[str, Mapping[str, Any]]
    spent: int
    feedback: Mapping[str, tuple[int, int]]
    evidence: EvidenceCurve | None


def add_shadow(app: FastAPI, operations: Operations) -> None:
    """Add the paths for shadow evaluation to the control plane."""
    state = operations.state

    @app.get("/admin/v1/shadow", tags=["shadow"], responses=REFUSALS)
    async def list_shadows() -> ShadowsView:
        """What was compared in the last day: each version and what it is held against, of the last 5,000 pairs."""

        def read() -> tuple[list[ShadowSummary], Depth]:
            newest = Pairs(state.store).newest(None, state.now() - DAY_SECONDS, MAX_PAIRS)
            return summaries(newest), Samples(state.store).depth()

        found, depth = await asyncio.to_thread(read)
        return ShadowsView(shadows=found, queue=QueueReport.model_validate(queue_view(depth, state.now())))

    @app.get("/admin/v1/shadow/{alias}", tags=["shadow"], responses=REFUSALS)
    async def show_shadow(
        *,
        alias: Annotated[str, InPath(description="The name that clients send as `model`", examples=["support"])],
        since_seconds: Annotated[
            int, Query(ge=1, le=YEAR_SECONDS, description="Pairs whose requests were answered since so long")
        ] = DAY_SECONDS,
        rollout: Annotated[
            str | None, Query(description="Whose gates are shown; without it the open rollout's, else the last one's")
        ] = None,
    ) -> ShadowReport:
        """Everything that shadow evaluation knows of an alias: scores and drift by task, noise, gates, the queue."""
        if not is_name(alias) or state.desired.route(alias) is None:
            raise UnknownRoute(f"no alias `{alias[:100]}`; `loragate routes ls` lists them")
        record = await _find_record(operations, alias, rollout)
        now = state.now()
        read = await asyncio.to_thread(_read, operations, alias, now - since_seconds, record)
        return ShadowReport(
            alias=alias,
            at=now,
            since=now - since_seconds,
            pairs=read.pairs,
            is_cut=read.pairs == MAX_PAIRS,
            comparisons=read.comparisons,
            rollout=_rollout(record, read.evidence) if record is not None else None,
            feedback=[FeedbackView(arm=arm, n=n, bad=bad) for arm, (n, bad) in sorted(read.feedback.items())],
            over_time=[
                OverTimeView.model_validate(each)
                for each in operations.rollouts.drift.standing()
                if each.alias == alias
            ],
            queue=QueueReport.model_validate(queue_view(read.depth.by_alias.get(alias, Depth()), now)),
            mirror=mirror_lines(operations.mirrored(), alias),
            calibration=calibrations(read.alive, alias),
            shed=sum_by_reason(read.alive, "shed"),
            failed=sum_by_reason(read.alive, "failed"),
            spent_tokens=read.spent,
        )


async def _find_record(operations: Operations, alias: str, rollout: str | None) -> RolloutRecord | None:
    """Return the rollout whose gates the report shows; None if the alias has had none.

    Raises:
        UnknownRollout: The requested rollout does not exist, or belongs to another alias.
    """
    try:
        found = await operations.rollouts.find(rollout or alias)
    except UnknownRollout:
        if rollout is None:
            return None
        raise
    if found.rollout.alias != alias:
        raise UnknownRollout(f"rollout `{found.rollout.id}` is of `{found.rollout.alias}`, not of `{alias}`")
    return found


def _read(operations: Operations, alias: str, since: float, record: RolloutRecord | None) -> _Read:
    store = operations.state.store
    pairs, samples = Pairs(store), Samples(store)
    feedback: dict[str, tuple[int, int]] = {}
    evidence = None
    if record is not None:
        rollout = record.rollout
        feedback = Feedbacks(store).counts(rollout.id, rollout.stage)
        evidence = trace_evidence(
            rollout, _read_rollout_pairs(pairs, record), operations.state.now(), record.judged_share
        )
    newest = pairs.newest(alias, since, MAX_PAIRS)
    return _Read(
        pairs=len(newest),
        comparisons=comparisons_of(newest),
        depth=samples.depth(),
        alive=Evaluators(store).alive(),
        spent=samples.tokens_spent(alias),
        feedback=feedback,
        evidence=evidence,
    )


def _read_rollout_pairs(pairs: Pairs, record: RolloutRecord) -> Iterator[ScoredPair]:
    """Yield the pairs of a rollout's alias since it began, page by page, in the order of their numbers."""
    alias = record.rollout.alias
    end = record.last.at + _LATE_SECONDS if record.rollout.is_over else math.inf
    first = pairs.between(alias, record.started_at, end, 1)
    if not first:
        return
    # Begin a page earlier: a pair that was answered a little later may have been compared, and numbered, first.
    number = max(0, first[0].number - PAGE)
    for _ in range(MAX_PAGES):
        page = pairs.since(number, PAGE, alias)
        yield from page
        if len(page) < PAGE or page[0].at > end:
            return
        number = page[-1].number


def _rollout(record: RolloutRecord, evidence: EvidenceCurve | None) -> ShadowedRollout:
    rollout = record.rollout
    return view_of(
        ShadowedRollout,
        rollout,
        is_open=not rollout.is_over,
        stage=evidence.stage if evidence is not None else rollout.stage,
        gates=evidence.readings if evidence is not None else None,
        evidence=evidence.curves if evidence is not None else (),
    )


def mirror_lines(counts: MirrorCounts, alias: str) -> dict[str, int]:
    """Return the counts of mirrored requests by outcome, for people; skipped and dropped ones are of all aliases."""
    lines = {f"{kind} sampled": count for kind, count in sorted(counts.sampled.get(alias, {}).items())}
    lines |= {f"skipped ({reason}, all aliases)": count for reason, count in sorted(counts.skipped.items())}
    return lines | {f"dropped ({reason}, all aliases)": count for reason, count in sorted(counts.dropped.items())}


def summaries(pairs: list[ScoredPair]) -> list[ShadowSummary]:
    """Return a summary of each comparison in `pairs`, by alias; noise is shown beside the comparisons."""
    groups: dict[tuple[str, str, str, Kind], list[ScoredPair]] = {}
    noise: dict[tuple[str, str], list[ScoredPair]] = {}
    for each in pairs:
        if each.kind is not Kind.NOISE:
            groups.setdefault((each.alias, each.other, each.control, each.kind), []).append(each)
        elif kl_estimate_of(each) is not None:
            noise.setdefault((each.alias, each.other), []).append(each)
    found = []
    for (alias, version, control, kind), group in sorted(groups.items()):
        floor = noise.get((alias, control)) or noise.get((alias, version)) or ()
        found.append(
            ShadowSummary(
                alias=alias,
                version=version,
                control=control,
                kind=kind,
                n=len(group),
                kl=mean_kl(group),
                kl_noise=mean_kl(floor),
                last_at=max(each.at for each in group),
            )
        )
    return found
