"""The story of one request: who asks, for what, on which arm, at which engine.

Synchronous and without effect: every step is a function of values, so a request needs
no task and no await until its bytes are on the way to an engine.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from gateway.decide.assign import Arm, bucket, pick_arm
from gateway.decide.authenticate import Principal
from gateway.decide.place import place
from gateway.decide.route import RouteTable, Target, find_target
from gateway.errors import ServingError


class Call(NamedTuple):
    """What was asked: by whom, for which model, and the unit that keeps its arm."""

    caller: Principal
    model: str
    unit: str


class Placement(NamedTuple):
    """What was decided."""

    alias: str
    version: str
    arm: Arm
    reason: str
    engine_url: str


def answer(call: Call, table: RouteTable, in_flight: Mapping[str, int], tried: Collection[str] = ()) -> Placement:
    """Decide who serves `call`.

    A candidate that no engine can serve now gives way to control; a caller never
    sees a candidate's failure to start.

    Args:
        call: The request, its caller already authenticated.
        table: The current route table.
        in_flight: Engine URL → requests there now.
        tried: Engines that have just failed this request.

    Raises:
        ModelNotFound, Forbidden, EngineUnavailable, VersionNotReady: Why it cannot be served.
    """
    target = find_target(table, call.model, call.caller)
    split = target.split
    if not split.weight or target.salt is None:
        return _placed(table, target, Arm.CONTROL, split.control, target.reason, in_flight, tried)
    arm = pick_arm(split, bucket(target.salt, call.unit))
    if arm is Arm.CANDIDATE and split.candidate is not None:
        try:
            return _placed(table, target, arm, split.candidate, target.reason, in_flight, tried)
        except ServingError as error:
            return _fallback(table, target, f"fallback:{error.code}", in_flight, tried)
    return _placed(table, target, Arm.CONTROL, split.control, target.reason, in_flight, tried)


def _fallback(
    table: RouteTable, target: Target, reason: str, in_flight: Mapping[str, int], tried: Collection[str]
) -> Placement:
    try:
        return _placed(table, target, Arm.CONTROL, target.split.control, reason, in_flight, tried)
    except ServingError:
        # An engine that failed the candidate may still serve control: the adapter can be what failed.
        return _placed(table, target, Arm.CONTROL, target.split.control, reason, in_flight, ())


def _placed(
    table: RouteTable,
    target: Target,
    arm: Arm,
    version: str,
    reason: str,
    in_flight: Mapping[str, int],
    tried: Collection[str],
) -> Placement:
    return Placement(target.alias, version, arm, reason, place(table, version, in_flight, tried).url)
