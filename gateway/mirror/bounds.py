"""The mirror's limits: sizes in bytes, times in seconds. Settings set them."""

from dataclasses import dataclass, fields
from typing import Final

_MAY_BE_0: Final = ("recent_requests", "queue_items", "queue_bytes", "held_items", "held_bytes", "retention_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of the mirror and of feedback. What exceeds one is dropped and counted; nothing waits for room."""

    # The size of one copy. A chat request takes kilobytes; 1 MiB is 250,000 tokens of text, or a small image.
    request_bytes: int = 1024 * 1024
    reply_bytes: int = 1024 * 1024
    # Copies in each worker until they are sent to the node, those of requests that still run included.
    queue_items: int = 1_000
    queue_bytes: int = 32 * 1024 * 1024
    # Copies in the node until they are stored, and how long the node keeps them while the store is away.
    held_items: int = 10_000
    held_bytes: int = 128 * 1024 * 1024
    held_seconds: float = 120.0
    # How long copies that may not be stored wait in the node's memory for its evaluator.
    straight_seconds: float = 600.0
    # How long the store keeps a copy, unless its route says otherwise: a week.
    retention_seconds: int = 7 * 86_400
    # How long feedback and compared pairs, which hold no texts, are kept: a quarter of a year.
    results_seconds: int = 90 * 86_400
    # Requests that each worker remembers, to find the alias and version that feedback is about.
    recent_requests: int = 20_000
    # How long feedback on an unknown request is kept. Until then another gateway may still recognise the request.
    feedback_seconds: float = 3600.0
    # Feedback that each worker accepts from one account in a minute, ten a second; further feedback gets a 429.
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
