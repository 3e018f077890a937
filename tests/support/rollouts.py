"""A rollout that has been started."""

from typing import Any

from gateway.rollout.events import (
    Created,
    Started,
)
from gateway.rollout.machine import advance, create
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.rollout import Rollout

V1, V2, V0 = "support@111111111111", "support@222222222222", "support@000000000000"


WHO: dict[str, Any] = {"at": 0.0, "by": "key-1"}


SAID: dict[str, Any] = WHO | {"reason": "because"}


FULL = "shadow 100 pairs → 1 % 10 min → 50 % → 100 %"


def drafted(plan: object = FULL) -> Rollout:
    return create(Created(**SAID, id="r1", alias="support", control=V1, candidate=V2, plan=parse_plan(plan))).after


def started(plan: object = FULL) -> Rollout:
    return advance(drafted(plan), Started(**WHO)).after
