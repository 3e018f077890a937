"""To which stage of which rollout a request counts, and in which arm."""

from dataclasses import dataclass
from typing import NamedTuple

from gateway.decide.assign import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutTag:
    """To which stage of which rollout a request counts.

    Attributes:
        id, stage: Of the rollout.
        entered_at: When the stage began, Unix seconds.
        threshold_seconds: Above which a request of the stage is slow; None until it can be said.
    """

    id: str
    stage: int
    entered_at: float = 0.0
    threshold_seconds: float | None = None


class Exposure(NamedTuple):
    """To what a request counts: the arm that it was assigned, whatever served it. No unit where nothing is split.

    The unit is within the account: callers choose units, and one account's are not another's, whatever they are called.
    """

    tag: RolloutTag
    alias: str
    arm: Arm
    unit: str | None
    account: str = ""
