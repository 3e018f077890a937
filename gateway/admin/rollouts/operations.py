"""An operator's commands on rollouts: start, approve, pause, resume, promote, abort, roll back.

Each command is one event for the machine in `rollout/machine.py`, applied as one change.
If two commands compete, one is applied, and the other fails with a text that names the author of the first.
Decisions from measurements are made by the leader (`conductor.py`), not here.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.lifecycle import State
from gateway.admin.rollouts.apply import carry_out
from gateway.admin.rollouts.comparable import pairs_problem, share_to_judge
from gateway.admin.rollouts.drift_monitor import DriftWatch
from gateway.admin.rollouts.pair_reader import Watch
from gateway.admin.routes.operations import UnknownRoute
from gateway.admin.state import Conflict, LiveState, Overtaken
from gateway.observe.rollout_counts import RolloutCounts
from gateway.observe.tally import Tally
from gateway.records.routes import RouteRecord
from gateway.rollout.events import Aborted, Approved, Created, Event, Paused, Promoted, Resumed, RolledBack, Started
from gateway.rollout.evidence import StageStanding, counts_of, standing_of, threshold_of
from gateway.rollout.machine import IllegalEvent, advance, create
from gateway.rollout.plan import Plan
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.record import Last, RolloutRecord, StoredRollout
from gateway.rollout.rollout import Rollout
from gateway.rollout.rules import RULES
from gateway.store.rollouts import readable

# The plan if neither the caller nor the route gives one: enough of the traffic in the first step to be decided in
# hours, not days, and little enough to hurt few.
DEFAULT_PLAN: Final = "5 % 10m → 25 % → 50 % → 100 %"
# How often a command is tried again because an unrelated change of the state came first.
TRIES: Final = 20
# Returns the tallies of every worker of every replica, including workers that have ended.
Gather = Callable[[], Awaitable[Sequence[Tally]]]


class UnknownRollout(LookupError):
    """There is no rollout of this id, and no open one of this alias."""


class RolloutOver(Conflict):
    """The rollout has ended, in the phase `phase`."""

    def __init__(self, record: RolloutRecord) -> None:
        self.phase = record.rollout.phase
        super().__init__(f"rollout `{record.rollout.id}` is over (`{self.phase}`); {record.describe_last()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The author and reason of a command, and the rollout's `sequence` for which it was made, if given."""

    by: str
    reason: str
    sequence: int | None = None


class RolloutOperations:
    """Commands on rollouts, the readings of open rollouts' pairs (`watch`), and drift over time (`drift`).

    `name` is a rollout's id, or the alias whose open rollout is meant.

    Each raises UnknownRollout, Conflict and StoreError.

    Args:
        state: The gateway's live state, which commands change.
        gather: Returns the counts of all replicas, one tally for each stage.
        new_id: Makes the id of a rollout.
    """

    def __init__(
        self, state: LiveState, gather: Gather, new_id: Callable[[], str] = lambda: f"ro-{secrets.token_hex(4)}"
    ) -> None:
        self.state = state
        self.gather = gather
        self.watch = Watch(state.store)
        self.drift = DriftWatch(state.store)
        self.counts = RolloutCounts()
        self._new_id = new_id

    async def start(
        self, alias: str, candidate: str, plan: object, order: Actor, *, override: str | None = None
    ) -> RolloutRecord:
        """Begin to roll out a version by a plan.

        Args:
            alias: The alias whose traffic moves to the version.
            candidate: A registered version, in full or as a unique prefix.
            plan: The plan as text or values; None for the route's own plan, else the default one.
            order: The author and the reason.
            override: The reason to start without the audit that the plan requires.

        Raises:
            UnknownRoute, UnknownVersion: The alias or the candidate is not registered.
            InvalidPlan: The plan is invalid; it has each problem.
            Conflict: The alias has an open rollout or a split, or the candidate is not ready or is the control already.
        """
        state, rollout_id = self.state, self._new_id()
        await self.catch_up()
        durations = await self._control_durations(alias)
        for _ in range(TRIES):
            async with state.turn:
                route, version = self._startable(alias, candidate)
                wanted = plan_of(plan, route)
                head = await asyncio.to_thread(state.store.journal_head)
                now = state.now()
                try:
                    created = create(
                        Created(
                            at=now,
                            by=order.by,
                            reason=order.reason,
                            id=rollout_id,
                            alias=alias,
                            control=route.control,
                            candidate=version,
                            plan=wanted,
                        )
                    )
                    started = advance(created.after, Started(at=now, by=order.by, override=override or None))
                except IllegalEvent as error:
                    raise Conflict(str(error)) from None
                drafted = RolloutRecord(
                    rollout=created.after,
                    by=order.by,
                    reason=order.reason,
                    started_at=now,
                    last=Last(at=now, by=order.by, event="Created"),
                    journal_after=head.number if head else 0,
                    judged_share=share_to_judge(route),
                    rules=RULES,
                )
                record = drafted.after(started, threshold_seconds=threshold_of(durations, started.after.current))
                try:
                    await carry_out(state, record, (created, started), self.counts)
                except Overtaken:
                    continue
                return record
        raise _busy()

    def _startable(self, alias: str, candidate: str) -> tuple[RouteRecord, str]:
        """Return the route, and the candidate's full version."""
        state = self.state
        route = state.desired.route(alias)
        if route is None:
            raise UnknownRoute(f"no alias `{alias}`; `loragate routes ls` lists them")
        there = state.desired.rollout(alias)
        if there is not None:
            record = readable(there)
            raise Conflict(
                f"`{alias}` is in rollout `{there.id}` of `{record.rollout.candidate}` already; "
                f"{record.describe_last()}; end that one first"
            )
        if route.weight:
            raise Conflict(
                f"`{alias}` is split by hand: {route.weight} basis points to `{route.candidate}`; "
                f"end that with `loragate routes split {alias}` first"
            )
        entry = state.find(candidate)
        if entry.state is not State.READY:
            raise Conflict(f"`{entry.ref.version}` is {entry.state}, so it cannot be rolled out: {entry.reason}")
        return route, entry.ref.version

    async def _control_durations(self, alias: str) -> list[int]:
        """Return the histogram of the control's request durations on this gateway since its start."""
        route = self.state.desired.route(alias)
        cells = await self.state.workers.collect() if route is not None else []
        return next(
            (
                cell.duration.counts
                for cell in cells
                if route is not None and (cell.alias, cell.version) == (alias, route.control)
            ),
            [],
        )

    async def approve(self, name: str, order: Actor) -> RolloutRecord:
        """Let the stage's `manual` gate pass."""
        return await self._move(
            name, order, lambda rollout, at: Approved(at=at, by=order.by, reason=order.reason, stage=rollout.stage)
        )

    async def pause(self, name: str, order: Actor) -> RolloutRecord:
        """Keep the rollout at its present weight; a gate that fails still rolls it back."""
        return await self._move(name, order, lambda _, at: Paused(at=at, by=order.by, reason=order.reason))

    async def resume(self, name: str, order: Actor) -> RolloutRecord:
        """Begin the paused stage anew."""
        return await self._move(name, order, lambda _, at: Resumed(at=at, by=order.by, reason=order.reason))

    async def promote(self, name: str, order: Actor, *, is_early: bool = False) -> RolloutRecord:
        """Make the candidate the control; `is_early`: even before the plan is complete."""

        def event(rollout: Rollout, at: float) -> Promoted:
            may = rollout.is_complete or is_early
            return Promoted(at=at, by=order.by, override=order.reason if may else None)

        return await self._move(name, order, event)

    async def abort(self, name: str, order: Actor) -> RolloutRecord:
        """End the rollout without a verdict; all traffic goes to the control."""
        return await self._move(
            name, order, lambda _, at: Aborted(at=at, by=order.by, reason=order.reason), insists=True
        )

    async def take_back(self, name: str, order: Actor, to_version: str | None = None) -> RolloutRecord:
        """Roll an open rollout back, to the version that was the control when it began or to another."""

        def event(_: Rollout, at: float) -> RolledBack:
            return RolledBack(at=at, by=order.by, reason=order.reason, to_version=to_version)

        return await self._move(name, order, event, insists=True)

    async def _move(
        self, name: str, order: Actor, event_of: Callable[[Rollout, float], Event], *, insists: bool = False
    ) -> RolloutRecord:
        """Apply one event; `insists`: also if the rollout has moved meanwhile, as an abort or a rollback must."""
        seen = order.sequence
        await self.catch_up()
        for _ in range(TRIES):
            async with self.state.turn:
                record = await self.find_open(name)
                rollout = record.rollout
                if seen is not None and rollout.sequence != seen:
                    raise Conflict(
                        f"rollout `{rollout.id}` has moved on from number {seen}: "
                        f"{record.describe_last()}; look at it again"
                    )
                seen = seen if insists else rollout.sequence
                try:
                    transition = advance(rollout, event_of(rollout, self.state.now()))
                except IllegalEvent as error:
                    raise Conflict(f"{error}; {record.describe_last()}") from None
                moved = record.after(transition)
                try:
                    await carry_out(self.state, moved, (transition,), self.counts)
                except Overtaken:
                    continue
                return moved
        raise _busy()

    async def catch_up(self) -> None:
        """Read the newest state from the store, so that no command is refused because of an outdated one."""
        version = await asyncio.to_thread(self.state.store.version)
        with contextlib.suppress(Conflict):  # a worker lags; it gets the next table
            await self.state.follow(version)

    async def find_open(self, name: str) -> RolloutRecord:
        """Return an open rollout.

        Raises:
            UnknownRollout: There is no rollout of this id or alias.
            RolloutOver: The rollout is over.
        """
        record = await self.find(name)
        if record.rollout.is_over:
            raise RolloutOver(record)
        return record

    async def find(self, name: str) -> RolloutRecord:
        """Return a rollout, open or over; for an alias its open rollout, else its last.

        Raises:
            UnknownRollout: There is no rollout of this id or alias.
        """
        for each in self.state.desired.rollouts:
            if name in (each.id, each.alias):
                return readable(each)
        stored = await self.list_stored()
        found = next((each for each in stored if name in (each.id, each.alias)), None)
        if found is None:
            raise UnknownRollout(
                f"no rollout `{name}`: neither an id nor an alias that has had one; `loragate rollout ls` lists them"
            )
        return readable(found)

    async def standing(self, record: RolloutRecord) -> StageStanding:
        """Return the present state of an open rollout's stage, with its gates' readings.

        Raises:
            StoreError: The pairs or counts could not be read.
        """
        now = self.state.now()
        pairs = await asyncio.to_thread(self.watch.read, record, now)
        return standing_of(record, counts_of(await self.gather(), record.rollout, pairs), now)

    async def list_stored(
        self, alias: str | None = None, limit: int = 1000, before: str | None = None
    ) -> tuple[StoredRollout, ...]:
        """Return rollouts, open and over, the newest first; `before`: only those before the rollout of this id."""
        return await asyncio.to_thread(self.state.store.rollouts, alias, before=before, limit=limit)


def plan_of(plan_values: object, route: RouteRecord) -> Plan:
    """Return the plan that is given, else the route's own, else the default one.

    Raises:
        InvalidPlan: The plan is invalid; it has each problem.
        Conflict: Its gates would wait for pairs that the route's mirror policy does not make.
    """
    plan = parse_plan(next(each for each in (plan_values, route.plan, DEFAULT_PLAN) if each is not None))
    if problem := pairs_problem(plan, route):
        raise Conflict(problem)
    return plan


def _busy() -> Conflict:
    return Conflict("the state changes all the time; nothing was changed, try again")
