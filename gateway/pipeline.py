"""The story of one request: who asks, for what, on which arm, at which engine.

Synchronous and without effect: every step is a function of values, so a request needs
no task and no await until its bytes are on the way to an engine.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from gateway.decide.assign import Arm, Split, bucket, pick_arm
from gateway.decide.authenticate import Principal
from gateway.decide.exposure import Exposure
from gateway.decide.place import ANY, Terms, place
from gateway.decide.route import Route, RouteTable, Target, find_target
from gateway.decide.sample import Mirror
from gateway.errors import BadRequest, Saturated, ServingError


class Asked(Protocol):
    """The request, as far as it tells who is asking."""

    def unit(self, sources: tuple[str, ...]) -> str:
        """Return the unit that keeps its arm, from the first source that tells one."""


class Call(NamedTuple):
    """What was asked: by whom, for which model, and the arm that a tester has chosen."""

    caller: Principal
    model: str
    asked: Asked
    arm: Arm | None = None


# What bears on the choice of an engine, beside the table: in flight, tried, terms; see `place`.
Loads = tuple[Mapping[str, int], Collection[str], Terms]


class Placement(NamedTuple):
    """What was decided. `exposure` is None unless a rollout counts the request, `mirror` unless it may be copied."""

    alias: str
    version: str
    arm: Arm
    reason: str
    engine_url: str
    exposure: Exposure | None = None
    mirror: Mirror | None = None


def answer(
    call: Call, table: RouteTable, in_flight: Mapping[str, int], tried: Collection[str] = (), terms: Terms = ANY
) -> Placement:
    """Decide who serves `call`.

    A candidate that no engine can serve now gives way to control; a caller never
    sees a candidate's failure to start. Only a tester who asked for the candidate does.

    Args:
        call: The request, its caller already authenticated.
        table: The current route table.
        in_flight: Engine URL → requests there now.
        tried: Engines that have just failed this request.
        terms: What else bears on which engine is chosen.

    Raises:
        ModelNotFound, Forbidden, BadRequest, EngineUnavailable, VersionNotReady: Why it cannot be served.
        Saturated: It has to wait until an engine has room.
    """
    loads = in_flight, tried, terms
    target = find_target(table, call.model, call.caller)
    if call.arm is not None:
        return _place_chosen_arm(table, target, call.arm, loads)
    route, split = target.route, target.split
    if route is None or (route.rollout is None and not split.weight):
        return _place(table, target, Arm.CONTROL, split.control, target.reason, loads)
    arm, exposure = _assign(route, split, call)
    try:
        if arm is Arm.CONTROL or split.candidate is None:
            return _place(table, target, Arm.CONTROL, split.control, target.reason, loads, exposure)
        try:
            return _place(table, target, arm, split.candidate, target.reason, loads, exposure)
        except ServingError as error:
            return _fallback(table, target, f"fallback:{error.code}", loads, exposure)
    except (ServingError, Saturated) as error:
        error.exposure = exposure
        raise


def _assign(route: Route, split: Split, call: Call) -> tuple[Arm, Exposure | None]:
    tag, account = route.rollout, call.caller.unit
    if not split.weight:
        return Arm.CONTROL, Exposure(tag, route.alias, Arm.CONTROL, None, account) if tag is not None else None
    unit = call.asked.unit(route.unit)
    arm = pick_arm(split, bucket(route.salt, unit))
    return arm, Exposure(tag, route.alias, arm, unit, account) if tag is not None else None


def _place_chosen_arm(table: RouteTable, target: Target, arm: Arm, loads: Loads) -> Placement:
    """Serve the arm that a tester has chosen, or say why not; never another one."""
    if target.reason == "pin":
        raise BadRequest(
            "The request asks for an exact version and, with `x-loragate-arm`, for an arm; send the alias "
            f"`{target.alias}`, or leave the header out.",
            param="model",
        )
    split = target.split
    version = split.control if arm is Arm.CONTROL else split.candidate
    if version is None:
        raise BadRequest(
            f"`{target.alias}` has no candidate now, so `x-loragate-arm: candidate` cannot be served.",
            param="model",
            code="no_candidate",
        )
    return _place(table, target, arm, version, "override", loads)


def _fallback(table: RouteTable, target: Target, reason: str, loads: Loads, exposure: Exposure | None) -> Placement:
    control = target.split.control
    try:
        return _place(table, target, Arm.CONTROL, control, reason, loads, exposure)
    except ServingError:
        # An engine that failed the candidate may still serve control: the adapter can be what failed.
        return _place(table, target, Arm.CONTROL, control, reason, (loads[0], (), loads[2]), exposure)


def _place(
    table: RouteTable,
    target: Target,
    arm: Arm,
    version: str,
    reason: str,
    loads: Loads,
    exposure: Exposure | None = None,
) -> Placement:
    route = target.route
    # Not of a pin, which has no route, nor of another reason than the route's own: a tester's arm, a fallback.
    mirror = route.mirror if route is not None and reason == target.reason else None
    return Placement(target.alias, version, arm, reason, place(table, version, *loads).url, exposure, mirror)
