"""`rollback ALIAS`: one command that undoes an alias's last change of version, without loading an adapter.

An open rollout is rolled back. A split made by hand loses its candidate. Otherwise
the alias gets the newest of its former controls that is registered and ready. Former
controls are kept loaded inside the rollback window, so that the next request is served.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from adapters.lifecycle import State
from gateway.admin.rollouts.apply import OPERATOR, log, route_back_to
from gateway.admin.rollouts.operations import TRIES, Actor, RolloutOperations, RolloutOver
from gateway.admin.route_journal import member, route_record
from gateway.admin.routes.operations import UnknownRoute
from gateway.admin.state import Conflict, LiveState, Overtaken
from gateway.records.routes import RouteRecord
from gateway.rollout.record import RolloutRecord, StoredRollout, UnreadableRollout
from gateway.rollout.replay import KIND
from gateway.rollout.rollout import Phase

ROLLBACK: Final = "rollback"
# A rollback this soon after another is refused: the person who typed it was probably reacting to the same alarm, and
# would go back twice.
JUST_NOW_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of a rollback.

    Attributes:
        before, after: The route before and after it.
        rollout: The rollout that was taken back, by id, if there was one.
        ready_on, not_ready_on: Engines by URL. A request for a version that is ready nowhere waits until it is loaded.
    """

    before: RouteRecord
    after: RouteRecord
    rollout: str | None
    ready_on: tuple[str, ...]
    not_ready_on: tuple[str, ...]


async def roll_back(rollouts: RolloutOperations, alias: str, order: Actor, to_version: str | None = None) -> Restored:
    """Give an alias's traffic back to the version it had before, or to another.

    Args:
        rollouts: Commands on rollouts.
        alias: The alias whose traffic is given back.
        order: The author and the reason.
        to_version: A version in full or as a unique prefix; None for the one before.

    Raises:
        UnknownRoute, UnknownVersion: The alias, or the version, is not registered.
        Conflict: There is nothing to go back to, or the version is not ready.
        StoreError: The change could not be stored.
    """
    state = rollouts.state
    if not order.reason.strip():
        raise Conflict("a rollback needs a reason: the journal says who did what, and why")
    await rollouts.catch_up()
    for _ in range(TRIES):
        before = _route(state, alias)
        wanted = _ready(state, to_version) if to_version is not None else None
        if _record_of(state.desired.rollout(alias)) is not None:
            try:
                record = await rollouts.take_back(alias, order, wanted)
            except RolloutOver as error:
                if error.phase is not Phase.LIVE:
                    raise
                continue  # the rollout was promoted just now, so the promotion is taken back
            return _make_restored(state, before, _route(state, alias), record.rollout.id)
        try:
            return await _switch_control(rollouts, alias, order, wanted)
        except Overtaken:
            continue
    raise Conflict("the state changes all the time; nothing was changed, try again")


def _record_of(stored: StoredRollout | None) -> RolloutRecord | None:
    """Return a rollout's record; None without a rollout, or where it cannot be read, which the log says.

    An alias with an unreadable rollout can be rolled back all the same.
    """
    if isinstance(stored, UnreadableRollout):
        log.error("rollout %s of `%s`: %s", stored.id, stored.alias, stored.problem)
        return None
    return stored


async def _switch_control(rollouts: RolloutOperations, alias: str, order: Actor, wanted: str | None) -> Restored:
    state = rollouts.state
    async with state.turn:
        before = _route(state, alias)
        desired, stored = state.desired, state.desired.rollout(alias)
        if _record_of(stored) is not None:
            raise Overtaken(f"a rollout of `{alias}` has begun meanwhile")
        now = state.now()
        if isinstance(stored, UnreadableRollout):  # no gateway of this release can advance it, so it ends here
            desired = desired.with_rollout(replace(stored, is_open=False))
        if wanted is None and before.weight:
            after = msgspec.structs.replace(before, candidate=None, weight=0, shadow=None)
        else:
            if wanted is None:
                await asyncio.to_thread(_check_not_back_already, state, before, now)
            after = route_back_to(before, wanted or _newest(state, before), int(now))
        if (after.control, after.weight) == (before.control, before.weight):
            raise Conflict(f"`{alias}` serves `{after.control}` alone already")
        undone = stored.id if stored is not None else await _find_promotion(rollouts, before)
        record = _record(state, before, after, order, now, undone)
        try:
            await state.change(desired.with_route(after), by=order.by, reason=order.reason, journal=(record,))
        except Overtaken:
            raise
        except Conflict:  # stored, and a worker lags
            _tell(rollouts, after, order)
            raise
        _tell(rollouts, after, order)
        return _make_restored(state, before, after, undone)


def _tell(rollouts: RolloutOperations, after: RouteRecord, order: Actor) -> None:
    rollouts.counts.rollbacks[after.alias, OPERATOR] += 1
    log.warning("`%s` was rolled back to `%s` by %s: %s", after.alias, after.control, order.by, order.reason)


def _record(
    state: LiveState, before: RouteRecord, after: RouteRecord, order: Actor, now: float, undone: str | None
) -> dict[str, Any]:
    change = route_record(before, after, by=order.by, reason=order.reason, at=now, catalog=state.catalog)
    return change | {"kind": ROLLBACK, "rollout": undone}


def _route(state: LiveState, alias: str) -> RouteRecord:
    route = state.desired.route(alias)
    if route is None:
        raise UnknownRoute(f"no alias `{alias}`; `loragate routes ls` lists them")
    return route


def _ready(state: LiveState, version: str) -> str:
    entry = state.find(version)
    if entry.state is not State.READY:
        raise Conflict(f"`{entry.ref.version}` is {entry.state}, so nothing can go back to it: {entry.reason}")
    return entry.ref.version


def _newest(state: LiveState, route: RouteRecord) -> str:
    """Return the newest former control that can serve."""
    entries = state.catalog.entries
    for previous in route.previous:
        entry = entries.get(previous.version)
        if entry is not None and entry.state is State.READY:
            return previous.version
    were = ", ".join(f"`{each.version}`" for each in route.previous[:5])
    raise Conflict(
        f"`{route.alias}` has nothing to go back to: "
        + (f"its former controls {were} are not registered and ready; " if were else "it has had no other control; ")
        + "name a version with --to"
    )


def _check_not_back_already(state: LiveState, route: RouteRecord, now: float) -> None:
    """Refuse a second rollback if automation or another person has rolled back just before this call."""
    entries = state.store.journal(about=member("alias", route.alias), newest=True, limit=1)
    last = entries[-1].record if entries else {}
    at, after = last.get("at"), last.get("after")
    phase = after.get("phase") if isinstance(after, dict) else None
    is_back = last.get("kind") == ROLLBACK or (last.get("kind") == KIND and phase in (Phase.ROLLED_BACK, Phase.ABORTED))
    # A damaged journal record must not prevent a rollback.
    if is_back and isinstance(at, int | float) and now - at < JUST_NOW_SECONDS:
        raise Conflict(
            f"`{route.alias}` has been taken back to `{route.control}` just now (entry {entries[-1].number}, by "
            f"`{last.get('who')}`: {last.get('why')}); to go back further, name a version with --to"
        )


async def _find_promotion(rollouts: RolloutOperations, route: RouteRecord) -> str | None:
    """Return the id of the alias's last rollout if that made the present control the control; else None."""
    for stored in await rollouts.list_stored(route.alias, limit=1):
        record = _record_of(stored)
        if record is None:
            continue
        if record.rollout.phase is Phase.LIVE and record.rollout.candidate == route.control:
            return record.id
    return None


def _make_restored(state: LiveState, before: RouteRecord, after: RouteRecord, rollout: str | None) -> Restored:
    engines = [each for each in state.engines.standing(after.control) if each["up"]]
    return Restored(
        before=before,
        after=after,
        rollout=rollout,
        ready_on=tuple(each["url"] for each in engines if each["ready"]),
        not_ready_on=tuple(each["url"] for each in engines if not each["ready"]),
    )
