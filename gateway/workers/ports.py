"""What the worker pool asks of the rest of the node."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.mirror.captured import CapturedRequest
from gateway.records.feedback import Feedback


class VersionSupplier(Protocol):
    """Where the workers' wishes for versions go."""

    async def supply(self, version: str) -> str | None:
        """Have a version loaded somewhere; returns why it cannot be, or None when it is ready."""

    async def look_for(self, version: str, engine: str) -> tuple[str | None, bool]:
        """Have it looked for where it should be; returns as `supply` does, and whether it was there."""

    def note_use(self, recent: Mapping[str, float]) -> None:
        """Take note of when versions were last sent a request, in monotonic seconds."""


class Listener(Protocol):
    """Where copies of requests and feedback go; nothing of it waits or raises."""

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        """Take over copies of requests."""

    def hear(self, feedback: Feedback) -> None:
        """Take over what a caller says of a reply."""


class NullListener:
    """Takes nothing."""

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        """Drop copies of requests."""

    def hear(self, feedback: Feedback) -> None:
        """Drop what a caller says of a reply."""
