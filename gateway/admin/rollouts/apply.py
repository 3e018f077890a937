"""Apply transitions of the rollout machine: change route, rollout and journal as one write to the store.

A crash leaves all of the change or nothing: a stored change is published at the next start, by this
gateway or another. A crash can lose only the log line; the metric of the phase still shows the change.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.admin.route_journal import digests_of
from gateway.admin.state import Conflict, LiveState, Overtaken
from gateway.observe.rollout_counts import RolloutCounts
from gateway.records.routes import RouteRecord, Shadow
from gateway.records.state import Desired
from gateway.rollout.events import AUTOMATION, RolledBack, StepFailed, StepInconclusive
from gateway.rollout.gates.reading import Reading
from gateway.rollout.record import RolloutRecord
from gateway.rollout.replay import record_of
from gateway.rollout.rollout import Notify, NotifyPage, Phase, Rollout, Transition
from gateway.rollout.stage_evidence import needs_noise

log = logging.getLogger("loragate.rollouts")

OPERATOR: Final = "operator"
INCONCLUSIVE: Final = "inconclusive"


async def carry_out(
    state: LiveState,
    record: RolloutRecord,
    transitions: Sequence[Transition],
    counts: RolloutCounts,
    *,
    fence: int | None = None,
) -> None:
    """Store and publish the result of transitions, then log and count them. Call with `state.turn` held.

    Args:
        state: The gateway's live state, which is changed.
        record: The rollout's record after the last transition.
        transitions: At least one, each following the one before.
        counts: The counters of rollbacks and pages.
        fence: The leader's token, for decisions of automation.

    Raises:
        Overtaken: Another gateway has changed the state first; nothing was done.
        Conflict: The change is stored, but a worker has not taken it over yet.
        Fenced, StoreError: The change could not be stored, or this gateway leads no more.
    """
    last = transitions[-1]
    journal = [_journal(state, each, record) for each in transitions]
    desired = desired_after(state.desired, record, int(state.now()))
    try:
        await state.change(desired, by=last.event.by, reason=last.why, journal=journal, fence=fence)
    except Overtaken:
        raise
    except Conflict:
        _tell(transitions, counts)
        raise
    _tell(transitions, counts)


def desired_after(desired: Desired, record: RolloutRecord, now: int) -> Desired:
    """Return the desired state with a rollout's record in it and its alias's route as the rollout wants it."""
    rollout = record.rollout
    route = desired.route(rollout.alias)
    if route is not None:
        desired = desired.with_route(route_after(route, rollout, now))
    return desired.with_rollout(record)


def route_after(route: RouteRecord, rollout: Rollout, now: int) -> RouteRecord:
    """Return the route with the split and the shadow that the rollout wants; the same object if nothing changes."""
    split = rollout.split()
    if route.control != split.control:
        is_back = rollout.phase is Phase.ROLLED_BACK
        route = (route_back_to if is_back else RouteRecord.with_control)(route, split.control, now)
    share = rollout.mirrored_share
    shadow = None
    if share:
        shadow = Shadow(candidate=rollout.candidate, share=share, needs_noise=needs_noise(rollout))
    if (route.candidate, route.weight, route.shadow) == (split.candidate, split.weight, shadow):
        return route
    return msgspec.structs.replace(route, candidate=split.candidate, weight=split.weight, shadow=shadow)


def route_back_to(route: RouteRecord, version: str, now: int) -> RouteRecord:
    """Return the route with all its traffic on a former version, without the controls that came after that one.

    If they were kept, the next rollback would go forward again, to the version that was taken back.
    """
    former = [each.version for each in route.previous]
    older = route.previous[former.index(version) + 1 :] if version in former else route.previous
    return msgspec.structs.replace(route.with_control(version, now), previous=older)


def _journal(state: LiveState, transition: Transition, record: RolloutRecord) -> dict[str, Any]:
    rollout = transition.after
    return record_of(transition) | {
        "threshold_seconds": record.threshold_seconds,
        "digests": digests_of(state.catalog, {rollout.control, rollout.candidate, rollout.home}),
    }


def _tell(transitions: Sequence[Transition], counts: RolloutCounts) -> None:
    for transition in transitions:
        alias, reason = transition.after.alias, reason_of(transition)
        if isinstance(transition.event, RolledBack | StepFailed):
            counts.rollbacks[alias, reason] += 1
        for effect in transition.effects:
            if isinstance(effect, NotifyPage):
                counts.pages[alias, reason] += 1
                log.error("rollout %s of `%s`: %s", transition.after.id, alias, effect.message)
            elif isinstance(effect, Notify):
                log.warning("rollout %s of `%s`: %s", transition.after.id, alias, effect.message)


def reason_of(transition: Transition) -> str:
    """Return the cause as a metric's label: a gate's name, `inconclusive`, `automation` or `operator`."""
    event = transition.event
    against: list[Reading] = [each for each in transition.readings if each.fails]
    failed = next((each for each in against if each.rolls_back), against[0] if against else None)
    if failed is not None:
        return failed.gate
    if isinstance(event, StepInconclusive):
        return INCONCLUSIVE
    return AUTOMATION if event.by == AUTOMATION else OPERATOR
