"""The Protocols through which the worker pool reaches the rest of the node."""

from collections.abc import Callable, Mapping, Sequence
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


# Neither may block or raise: the pool calls them between two messages of a worker.
TakeCopies = Callable[[Sequence[CapturedRequest]], None]
TakeFeedback = Callable[[Feedback], None]


def drop(_: object) -> None:
    """Take nothing; the pool's default until the node has set what takes mirrored requests and feedback."""
