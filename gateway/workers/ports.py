"""The Protocols through which the worker pool reaches the rest of the node."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.mirror.captured import CapturedRequest
from gateway.records.feedback import Feedback


class VersionSupplier(Protocol):
    """Loads versions that workers want; implemented by the fleet."""

    async def supply(self, version: str) -> str | None:
        """Have a version loaded on some engine; return None once it is ready, else why it cannot be."""

    async def look_for(self, version: str, engine: str) -> tuple[str | None, bool]:
        """Check whether an engine that answered 404 has the version; return `supply`'s result, and whether it has."""

    def note_use(self, recent: Mapping[str, float]) -> None:
        """Record when versions were last sent a request, in monotonic seconds."""


class Listener(Protocol):
    """Receives mirrored requests and feedback from workers. Its methods never block or raise."""

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        """Take over mirrored requests."""

    def hear(self, feedback: Feedback) -> None:
        """Take over feedback."""


class NullListener:
    """Drops everything; used until the node has set its own listener."""

    def take(self, copies: Sequence[CapturedRequest]) -> None:
        pass

    def hear(self, feedback: Feedback) -> None:
        pass
