"""The decisions about one request in one function: its target, its arm, and its engine.

Synchronous and without side effects: every step is a function of values, so a request needs no task and no await until
its bytes are on the way to an engine.
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
    """A request that can name its unit of assignment."""

    def unit(self, sources: tuple[str, ...]) -> str:
        """Return the unit of assignment, from the first of `sources` that the request has."""


class Call(NamedTuple):
    """A request to be placed: its caller, the model that it names, and the arm if a tester has chosen one."""

    caller: Principal
    model: str
    asked: Asked
    arm: Arm | None = None


# The arguments of `place` beside table and version: in flight, tried, terms.
Loads = tuple[Mapping[str, int], Collection[str], Terms]


class Placement(NamedTuple):
    """The decision. `exposure` is set if a rollout counts the request, `mirror` if the request may be copied."""

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
    """Decide which version on which engine serves `call`.

    If no engine can serve the candidate now, control serves instead, so that callers never see that a candidate fails
    to start. Only a tester who has asked for the candidate gets the error.

    Args:
        call: The request, with its authenticated caller.
        table: The current route table.
        in_flight: Engine URL → requests there now.
        tried: URLs of engines that have failed this request.
        terms: Affinity, ejected engines and the cap; see `place`.

    Raises:
        ModelNotFound, Forbidden, BadRequest, EngineUnavailable, VersionNotReady: The request cannot be served.
        Saturated: The request has to wait until an engine has room.
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
    """Place a request on the arm that a tester has chosen, and never on another one."""
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
        # Engines that failed the candidate may still serve control: the adapter may have caused the failure.
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
    # Copied only if the split decided: not for an exact version (no route), a tester's arm or a fallback.
    mirror = route.mirror if route is not None and reason == target.reason else None
    return Placement(target.alias, version, arm, reason, place(table, version, *loads).url, exposure, mirror)
