"""The counts of one evaluator, which its heartbeats report. Reasons are a small fixed set, never anybody's text."""

from collections import Counter
from collections.abc import Mapping
from typing import Any


class OwnCounts:
    """The counts of one evaluator since it started; all but `running` only grow."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.completed = 0
        self.lost = 0
        self.replay_tokens = 0
        self.running = 0
        self.lag_seconds = 0.0
        self.shed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def record(self, judges: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the values that a heartbeat reports.

        Args:
            judges: The calibration of each alias's judge.
        """
        return {
            "name": self.name,
            "completed": self.completed,
            "lost": self.lost,
            "shed": dict(self.shed),
            "failed": dict(self.failed),
            "replay_tokens": self.replay_tokens,
            "running": self.running,
            "lag_seconds": round(self.lag_seconds, 3),
            "judge": {alias: dict(each) for alias, each in judges.items()},
        }
