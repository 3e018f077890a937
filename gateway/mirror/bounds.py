"""What copies of requests may take: sizes in bytes, times in seconds. Values, made by settings."""

from dataclasses import dataclass, fields
from typing import Final

_MAY_BE_0: Final = ("recent_requests", "queue_items", "queue_bytes", "held_items", "held_bytes", "retention_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the mirror and of feedback; what does not fit is dropped and counted, never waited for."""

    # Of one copy. A chat request takes kilobytes; 1 MiB is 250,000 tokens of text, or a small image.
    request_bytes: int = 1024 * 1024
    reply_bytes: int = 1024 * 1024
    # In each worker, until they are handed to the node: taps of requests that still run are counted, too.
    queue_items: int = 1_000
    queue_bytes: int = 32 * 1024 * 1024
    # In the node, until they are stored; and for how long while the store is away.
    held_items: int = 10_000
    held_bytes: int = 128 * 1024 * 1024
    held_seconds: float = 120.0
    # Copies that may not be stored wait so long in the node's memory for its evaluator.
    straight_seconds: float = 600.0
    # How long the store keeps a copy, unless its route says otherwise: a week.
    retention_seconds: int = 7 * 86_400
    # How long judged pairs, which hold no words, and feedback are kept: a quarter of a year.
    results_seconds: int = 90 * 86_400
    # Requests that each worker remembers, so that feedback on them is known to be about what.
    recent_requests: int = 20_000
    # How long feedback on a request that no gateway remembers is kept: one may still tell, and then never again.
    feedback_seconds: float = 3600.0
    # Feedback that each worker takes of one account in a minute; beyond, it answers 429. Ten words a second.
    feedback_per_minute: int = 600

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        wrong = [
            f"{name} is `{value}`"
            for name, value in values.items()
            if value < 0 or (not value and name not in _MAY_BE_0)
        ]
        if wrong:
            raise ValueError(f"mirror bounds must be greater than 0: {', '.join(wrong)}")
