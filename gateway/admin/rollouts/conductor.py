"""Advance rollouts, once a second, on the one gateway that leads.

At each look the leader renews its leadership, and other gateways try to get it. Counts come from all replicas, and
`rollout/evidence.py` and `rollout/automation.py` decide from them. Each step is written with the leader's fence, so a
gateway that has lost the leadership without knowing it cannot change anything. While the store
is unreachable, no decision is made: the weights stay, and rollouts take longer. Compared pairs are
read by `admin/rollouts/pair_reader.py` before each decision.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from adapters.lifecycle import State
from gateway.admin.rollouts.apply import carry_out, desired_after, route_after
from gateway.admin.rollouts.operations import RolloutOperations
from gateway.admin.route_journal import digests_of, route_records
from gateway.admin.state import Conflict, Overtaken
from gateway.observe.rollout_counts import RolloutSeries, RolloutsReading
from gateway.observe.tally import Tally
from gateway.rollout.automation import read_gates
from gateway.rollout.events import AUTOMATION, Aborted, Event, RolledBack, StepPassed
from gateway.rollout.evidence import (
    NO_PAIRS,
    StageCounts,
    StagePairs,
    counts_of,
    facts_of,
    judge_stage,
    next_stage,
    period_of,
    ratio_of,
    threshold_of,
)
from gateway.rollout.machine import advance
from gateway.rollout.record import RolloutRecord, UnreadableRollout
from gateway.rollout.rollout import Phase
from gateway.store.errors import Fenced, StoreError, StoreUnreadable
from gateway.store.rollouts import readable

log = logging.getLogger("loragate.rollouts")

# A third of the leader's lease, so that one late look does not lose the leadership.
LOOK_SECONDS: Final = 1.0
# Seconds between looks at drift over time: traffic drifts over hours.
DRIFT_SECONDS: Final = 10.0
DRIFT: Final = "drift"
# How long the leader's readings are exported: a leader that is stuck must not show old figures as new.
FRESH_SECONDS: Final = 30.0


class Lead(Protocol):
    """Whether this gateway leads (`store.leader.Leader`)."""

    fence: int | None

    def step(self) -> int | None:
        """Renew the leadership or try to get it; returns the fence to write with, or None."""

    def resign(self) -> None:
        """Give the leadership up."""


class Conductor:
    """Advances rollouts while this gateway leads.

    Args:
        rollouts: Commands on rollouts, and the state.
        leader: Whether this gateway leads; asked in a thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self, rollouts: RolloutOperations, leader: Lead, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rollouts = rollouts
        self._leader = leader
        self._clock = clock
        self._views: dict[str, tuple[float, RolloutSeries]] = {}
        self._entries = 0
        self._drift_at = -DRIFT_SECONDS
        self._trouble = ""

    @property
    def is_leader(self) -> bool:
        """Whether this gateway leads, as far as it knows; False while the store is unreachable."""
        return self._leader.fence is not None and not self._trouble

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:  # one rollout's fault must not end a gateway that serves
                    log.exception("rollouts cannot be looked at; this is a bug")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await asyncio.to_thread(self._leader.resign)

    async def look(self) -> None:
        """Renew or seek the leadership, and advance every open rollout if this gateway leads."""
        try:
            fence, self._entries = await asyncio.to_thread(self._stand)
            if fence is not None:
                records, damage = self._open_records()
                pairs = await asyncio.to_thread(self.rollouts.watch.look, records, self.rollouts.state.now())
                tallies = await self.rollouts.gather() if records else ()
                for each in records:
                    await self._advance(each.rollout.id, tallies, pairs.get(each.rollout.id, NO_PAIRS), fence)
                await self._watch_drift(fence)
                if damage is not None:
                    raise damage
            else:
                self.rollouts.watch.stand_back()
                self.rollouts.drift.stand_back()
        except Fenced as error:
            log.warning("%s", error)
            await asyncio.to_thread(self._leader.resign)
        except StoreError as error:
            if not self._trouble:
                log.warning("rollouts are not advanced until the store can be used again: %s", error)
            self._trouble = str(error)
            return
        self._trouble = ""

    def _stand(self) -> tuple[int | None, int]:
        fence = self._leader.step()
        head = self.rollouts.state.store.journal_head()
        return fence, head.number if head is not None else 0

    def _open_records(self) -> tuple[list[RolloutRecord], StoreUnreadable | None]:
        """Return the open rollouts that can be read, and the error of one that cannot, which stops no other."""
        records: list[RolloutRecord] = []
        damage = None
        for each in self.rollouts.state.desired.rollouts:
            if isinstance(each, UnreadableRollout):
                damage = StoreUnreadable(each.problem)
            else:
                records.append(each)
        return records, damage

    async def _watch_drift(self, fence: int) -> None:
        """Journal and page each alarm of drift over time once; see `admin/rollouts/drift_monitor.py`."""
        state, drift = self.rollouts.state, self.rollouts.drift
        if self._clock() - self._drift_at < DRIFT_SECONDS:
            return
        self._drift_at = self._clock()
        for each in await asyncio.to_thread(drift.look, state.desired.routes, state.now()):
            entry = {
                "kind": DRIFT,
                "alias": each.alias,
                "version": each.version,
                "at": state.now(),
                "who": AUTOMATION,
                "why": each.report.why,
                "what": each.what,
                "n": each.n,
                "limit": each.limit,
                "baseline": each.baseline,
                "pair": each.report.number,
                "digests": digests_of(state.catalog, (each.version,)),
            }
            try:
                async with state.turn:
                    await state.change(
                        state.desired, by=AUTOMATION, reason=each.report.why, journal=(entry,), fence=fence
                    )
            except Overtaken:
                continue  # reported at the next look
            except Conflict as error:  # it is stored, and a worker lags
                log.info("the drift alarm of `%s`: %s", each.alias, error)
            self.rollouts.counts.pages[each.alias, DRIFT] += 1
            log.error("`%s` on `%s`: %s", each.alias, each.version, each.report.why)
            await asyncio.to_thread(drift.mark_reported, each)

    async def _advance(self, rollout_id: str, tallies: Sequence[Tally], pairs: StagePairs, fence: int) -> None:
        state = self.rollouts.state
        async with state.turn:
            # The record is read again: a command may have changed it while counts were gathered.
            found = next((each for each in state.desired.rollouts if each.id == rollout_id), None)
            if found is None:
                return
            record = readable(found)
            counts = counts_of(tallies, record.rollout, pairs)
            self._note(record, counts)
            try:
                await self._step(record, counts, fence)
            except Conflict as error:  # another change was first, or a worker lags: tried again at the next look
                log.info("rollout %s: %s", rollout_id, error)

    async def _step(self, record: RolloutRecord, counts: StageCounts, fence: int) -> None:
        state, rollout = self.rollouts.state, record.rollout
        event = self._without_counts(record) or judge_stage(record, counts, state.now())
        if event is not None:
            transition = advance(rollout, event)
            has_ended = isinstance(event, StepPassed)
            moved = record.after(
                transition,
                # The control's requests of the stage that ends: the latest from before the stage that begins.
                threshold_seconds=(
                    threshold_of(counts.control.durations, next_stage(rollout)) or record.threshold_seconds
                ),
                period=period_of(counts, rollout, record.periods) if has_ended else None,
            )
            await carry_out(state, moved, (transition,), self.rollouts.counts, fence=fence)
            return
        await self._repair(record, counts, fence)

    def _without_counts(self, record: RolloutRecord) -> Event | None:
        """Return the event that must happen regardless of counts, or None."""
        state, rollout = self.rollouts.state, record.rollout
        now = state.now()
        if state.desired.route(rollout.alias) is None:
            return Aborted(at=now, by=AUTOMATION, reason=f"the alias `{rollout.alias}` is gone")
        entry = state.catalog.entries.get(rollout.candidate)
        is_tried = rollout.phase in (Phase.SHADOW, Phase.CANARY, Phase.PAUSED)
        if is_tried and (entry is None or entry.state is not State.READY):
            why = "is not registered any more" if entry is None else f"is {entry.state}: {entry.reason}"
            return RolledBack(at=now, by=AUTOMATION, reason=f"`{rollout.candidate}` {why}")
        return None

    async def _repair(self, record: RolloutRecord, counts: StageCounts, fence: int) -> None:
        """Store a latency threshold that can be computed by now, or restore a split that another gateway changed."""
        state, rollout = self.rollouts.state, record.rollout
        stage = rollout.current
        if record.threshold_seconds is None:
            seconds = threshold_of(counts.control.durations, stage)
            if seconds is not None:
                await self._set_threshold(record, seconds, sum(counts.control.durations), fence)
                return
        route = state.desired.route(rollout.alias)
        if route is not None and route_after(route, rollout, int(state.now())) != route:
            reason = f"the split was not that of rollout `{rollout.id}`"
            desired = desired_after(state.desired, record, int(state.now()))
            records = route_records(
                state.desired, desired, by=AUTOMATION, reason=reason, at=state.now(), catalog=state.catalog
            )
            log.warning("`%s`: %s; the rollout's split is restored", rollout.alias, reason)
            await state.change(desired, by=AUTOMATION, reason=reason, journal=records, fence=fence)

    async def _set_threshold(self, record: RolloutRecord, seconds: float, n: int, fence: int) -> None:
        state, rollout = self.rollouts.state, record.rollout
        updated = record.with_threshold(seconds)
        reason = f"no requests were counted before the stage; of {n:,} of the control within it"
        entry = {
            "kind": "threshold",
            "rollout": rollout.id,
            "alias": rollout.alias,
            "at": state.now(),
            "who": AUTOMATION,
            "why": reason,
            "stage": rollout.stage,
            "before": None,
            "after": seconds,
            "n": n,
            "config_hash": rollout.plan.config_hash,
        }
        await state.change(
            state.desired.with_rollout(updated), by=AUTOMATION, reason=reason, journal=(entry,), fence=fence
        )

    def _note(self, record: RolloutRecord, counts: StageCounts) -> None:
        """Keep the gates' readings for the metrics."""
        rollout = record.rollout
        facts = facts_of(counts, record)
        view = RolloutSeries(
            alias=rollout.alias,
            phase=rollout.phase,
            stage=rollout.stage,
            readings=read_gates(rollout, facts, self.rollouts.state.now()),
            ratio=ratio_of(counts, record),
            bound=1.0 / rollout.plan.alpha_per_gate,
        )
        self._views[rollout.id] = (self._clock(), view)

    def reading(self) -> RolloutsReading:
        """Return the values that the metrics of rollouts export."""
        desired = self.rollouts.state.desired
        weights = {}
        for route in desired.routes:
            weights[route.alias, "control", route.control] = 10_000 - route.weight
            if route.candidate is not None:
                weights[route.alias, "candidate", route.candidate] = route.weight
        self._views = {each.id: self._views[each.id] for each in desired.rollouts if each.id in self._views}
        views = []
        for each in desired.rollouts:
            if isinstance(each, UnreadableRollout):  # the log names it at each look
                continue
            rollout = each.rollout
            at, view = self._views.get(each.id, (0.0, None))
            if view is None or not self.is_leader or self._clock() - at > FRESH_SECONDS:
                view = RolloutSeries(alias=rollout.alias, phase=rollout.phase, stage=rollout.stage)
            views.append(view)
        return RolloutsReading(
            weights=weights,
            rollouts=tuple(views),
            counts=self.rollouts.counts,
            is_leader=self.is_leader,
            journal_entries=self._entries,
        )
