"""Exposure: the rollout, stage and arm that a request counts towards."""

from dataclasses import dataclass
from typing import NamedTuple

from gateway.decide.assign import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutTag:
    """The rollout and stage that a route's requests count towards.

    Attributes:
        id, stage: The rollout's id, and the number of its present stage.
        entered_at: When the stage began, in Unix seconds.
        threshold_seconds: Requests of the stage that take longer are slow; None until the threshold is known.
    """

    id: str
    stage: int
    entered_at: float = 0.0
    threshold_seconds: float | None = None


class Exposure(NamedTuple):
    """What a request counts towards in a rollout: the arm that it was assigned, even if another served it.

    `unit` is None if traffic is not split. Units are distinct by account: callers choose their names, so two accounts
    may use the same one.
    """

    tag: RolloutTag
    alias: str
    arm: Arm
    unit: str | None
    account: str = ""
